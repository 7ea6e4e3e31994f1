"""Which arithmetic this machine is fast in: measured, not guessed from its name."""

from __future__ import annotations

import json
import platform
import time
from functools import cache

import torch

from core.builtins import cache_dir
from core.folder import write_json

TIMES_AS_FAST = 4.0  # below that, what rounding to eight bits of mantissa costs is not worth the time
_SHAPE = (512, 1024, 2048)  # tokens of a batch, by a layer of a small model: 2.1 GFLOP
_REPEATS = 3


def fastest_dtype() -> torch.dtype:
    """bfloat16 where this machine's processor multiplies it at least four times as fast as float32, else float32."""
    return torch.bfloat16 if bfloat16_speed() >= TIMES_AS_FAST else torch.float32


@cache
def bfloat16_speed() -> float:
    """How many times as fast bfloat16 multiplies as float32 on this processor. Measured once a machine and version of torch, and kept on the disk, so that
    the same recipe computes alike tomorrow."""
    file = cache_dir() / "arithmetic.json"
    machine = f"{platform.node()} {platform.machine()} {torch.backends.cpu.get_cpu_capability()} torch {torch.__version__}"
    try:
        known = json.loads(file.read_text())
    except (OSError, ValueError):
        known = {}
    if not isinstance(known, dict) or not isinstance(known.get(machine), float):
        known = {machine: round(measured_speed(), 2)}
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, known)
    return known[machine]


def measured_speed() -> float:
    """The ratio of the best of a few products each, in turn. One thread's own processor time: busy neighbours do not count in it."""
    tokens, inputs, outputs = _SHAPE
    threads, best = torch.get_num_threads(), {}
    torch.set_num_threads(1)
    try:
        for _ in range(_REPEATS + 1):  # the first of each also sets up its library
            for dtype in (torch.float32, torch.bfloat16):
                left, right = torch.ones(tokens, inputs, dtype=dtype), torch.ones(inputs, outputs, dtype=dtype)
                start = time.thread_time()
                left @ right
                best[dtype] = min(best.get(dtype, float("inf")), time.thread_time() - start)
    finally:
        torch.set_num_threads(threads)
    return best[torch.float32] / max(best[torch.bfloat16], 1e-9)
