"""How long one forward pass takes here, and how much memory it takes: measured on this machine, in this process, at this moment."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from statistics import median, quantiles

import psutil
import torch
from torch import Tensor

from core.errors import ModelError
from core.events import Progress, Watcher, follow
from core.model.blocks import check_context
from core.model.loading import LoadedModel
from core.model.measuring.counts import blank_image, unique
from core.model.memory import give_back

WARM_UPS = 2
_SAMPLE_EVERY_S = 0.001
_UNCERTAIN_SHARE = 0.25  # a spread between quartiles above this share of the median is said aloud


@dataclass(frozen=True)
class Latency:
    """`median_ms` of `repeats` warmed forward passes; half of them lay between `low_ms` and `high_ms` (quartiles).

    `peak_memory_mb`: megabytes (10^6) of the weights in memory + what the first pass took on top, at its highest.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    peak_memory_mb: float
    repeats: int
    threads: int


def latency(loaded: LoadedModel, batch: int, tokens: int, repeats: int, watcher: Watcher, stage: str = "latency") -> Latency:
    """Time one forward pass of (batch, tokens) ids, or of `batch` blank images for an image classifier. No key-value cache, all logits
    of a causal model left out but the last one's, as in reading a prompt.

    The first pass is watched for memory, another is thrown away, `repeats` are timed. On a CPU the memory is the rise of the process's resident
    set, sampled a thousand times a second (what others in this process do meanwhile counts too); on CUDA it is the allocator's own highest.
    Raises ModelError for a module that takes neither ids nor images.
    """
    forward = _forward(loaded, batch, tokens)
    times_ms = []
    with torch.no_grad():
        peak_bytes = _peak_memory_bytes(loaded, forward)
        for turn in follow(range(WARM_UPS - 1 + repeats), stage, watcher):
            took_ms = _timed_ms(forward, loaded.device)
            if turn >= WARM_UPS - 1:
                times_ms.append(took_ms)
    low, _, high = quantiles(times_ms, n=4, method="inclusive") if len(times_ms) > 1 else times_ms * 3
    if high - low > _UNCERTAIN_SHARE * median(times_ms):
        text = f"The machine was busy: half of the passes took {low:.3g} to {high:.3g} ms, so compare this latency with care."
        watcher.say(Progress(stage, kind="note", text=text))
    return Latency(median(times_ms), low, high, peak_bytes / 1e6, repeats, torch.get_num_threads())


def _forward(loaded: LoadedModel, batch: int, tokens: int) -> Callable[[], object]:
    pixels = blank_image(loaded, batch)
    if pixels is not None:
        return lambda: loaded.model(pixels)
    if loaded.anatomy.kind not in ("decoder", "encoder"):
        raise ModelError(
            f"Latency cannot be measured for {loaded.name}: nobody knows what {type(loaded.model).__name__} reads.",
            "Leave latency out for this model.",
        )
    check_context(loaded, tokens)
    ids = fixed_ids(loaded, batch, tokens)
    takes = signature(loaded.model.forward).parameters
    options = {"use_cache": False, "logits_to_keep": 1} if loaded.anatomy.kind == "decoder" else {}
    options = {name: value for name, value in options.items() if name in takes}
    return lambda: loaded.model(input_ids=ids, **options)


def fixed_ids(loaded: LoadedModel, batch: int, tokens: int) -> Tensor:
    """The same ids each time: int64 (batch, tokens), drawn evenly from the vocabulary with seed 0."""
    vocabulary = loaded.model.get_input_embeddings().num_embeddings
    return torch.randint(vocabulary, (batch, tokens), generator=torch.Generator().manual_seed(0)).to(loaded.device)


def _timed_ms(forward: Callable[[], object], device: torch.device) -> float:
    _finish(device)
    start = time.perf_counter()
    forward()
    _finish(device)
    return (time.perf_counter() - start) * 1e3


def _finish(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _peak_memory_bytes(loaded: LoadedModel, forward: Callable[[], object]) -> int:
    if loaded.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(loaded.device)
        _timed_ms(forward, loaded.device)
        return torch.cuda.max_memory_allocated(loaded.device)
    weights = sum(tensor.numel() * tensor.itemsize for _, tensor in unique(iter(loaded.model.state_dict().items())))
    return weights + resident_rise_bytes(forward)


def resident_rise_bytes(work: Callable[[], object]) -> int:
    """How far the resident set of this process rose above where it stood while `work` ran. Freed memory is given back first where the system can."""
    gc.collect()
    if sys.platform == "linux":
        give_back()
    process = psutil.Process()
    before = process.memory_info().rss
    highest, done = [before], threading.Event()

    def watch() -> None:
        while not done.wait(_SAMPLE_EVERY_S):
            highest[0] = max(highest[0], process.memory_info().rss)

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        work()
    finally:
        done.set()
        watching.join()
    return max(highest[0], process.memory_info().rss) - before
