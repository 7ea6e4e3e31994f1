"""Wanda from dense weights to masks, ours beside a plain reference that works as the paper's code does.

In bfloat16 too where this machine multiplies it at least four times as fast, or where PRUNARIUM_BENCH_BFLOAT16=1 asks for it whatever the machine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

import torch

from core.events import Silent
from core.model import blocks
from core.model.inputs import text
from core.model.loading import LoadedModel, load
from core.model.masks import PackedMask
from core.model.measuring.arithmetic import TIMES_AS_FAST, bfloat16_speed
from core.model.measuring.measure import perplexity
from core.model.pruning.step import prune
from core.recipe import Prune
from tests.bench import Figure

MODEL, SAMPLES, WINDOWS, FORCED = "builtin:smollm2-135m", 24, 32, "PRUNARIUM_BENCH_BFLOAT16"
ABOUT = (
    f"Wanda 50 % on SmolLM2-135M, float32, {SAMPLES} x 512 tokens, without loading. Plain: block by block, one sequence at a time, a hook on each linear "
    "layer that adds up squared inputs, torch.sort for each layer's rows, the pruned block run again. Both in one process, plain first. "
    f"In bfloat16 (where it is {TIMES_AS_FAST:g} x as fast here, or {FORCED}=1): our masks against the plain float32 ones, and the perplexity in float32 of "
    f"the dense weights under either, on {WINDOWS} test windows of 512."
)


def plain(loaded: LoadedModel, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    extras = blocks.arguments(loaded, ids)
    states = [state for batch in blocks.enter(loaded, ids, 1) for state in batch.split(1)]
    masks = {}
    for block, extra in zip(loaded.anatomy.blocks, extras, strict=True):
        module = loaded.module(block.path)
        squares = {layer.path: torch.zeros(layer.shape[1]) for layer in block.layers}

        def note(path: str, squares: dict = squares):
            def hook(layer: torch.nn.Module, args: tuple) -> None:
                squares[path] += torch.norm(args[0].reshape(-1, args[0].shape[-1]).t(), p=2, dim=1) ** 2 / len(ids)

            return hook

        handles = [loaded.module(layer.path).register_forward_pre_hook(note(layer.path)) for layer in block.layers]
        with torch.no_grad():
            for state in states:
                module(state, *extra[0], **extra[1])
        for handle in handles:
            handle.remove()
        for layer in block.layers:
            weight = loaded.module(layer.path).weight.data
            score = weight.abs() * squares[layer.path].reshape(1, -1).sqrt()
            order = torch.sort(score, dim=-1, stable=True)[1][:, : score.shape[1] // 2]
            masks[layer.path] = torch.ones_like(weight, dtype=torch.bool).scatter_(1, order, False)
            weight[~masks[layer.path]] = 0
        with torch.no_grad():
            states = [module(state, *extra[0], **extra[1]) for state in states]
    return masks


def measure() -> list[Figure]:
    loaded = load(MODEL, dtype="float32")
    ids = text.sequences("builtin:wikitext2/train", loaded.tokenizer, SAMPLES, 512, 0)
    start = time.perf_counter()
    reference = plain(loaded, ids)
    slow = time.perf_counter() - start
    loaded = load(MODEL, dtype="float32")
    start = time.perf_counter()
    ours = prune(loaded, Prune(method="wanda", sparsity=0.5), lambda: ids, 0, Silent()).masks
    fast = time.perf_counter() - start
    agree = agreement(reference, ours)
    return [
        Figure(
            "Wanda 50 %, end to end",
            f"{slow / fast:.2f} x ({slow:.1f} s plain, {fast:.1f} s ours)",
            ">= 1.7 x",
            slow / fast >= 1.7,
        ),
        Figure("masks that agree", f"{100 * agree:.3f} %", ">= 99.8 %", agree >= 0.998),
        *in_bfloat16(ids, reference, slow),
    ]


def agreement(reference: dict[str, torch.Tensor], masks: Mapping[str, PackedMask]) -> float:
    """The mean over layers of the share of weights on which two masks agree."""
    return sum(float((reference[path] == mask.unpack()).float().mean()) for path, mask in masks.items()) / len(masks)


def in_bfloat16(ids: torch.Tensor, reference: dict[str, torch.Tensor], slow: float) -> list[Figure]:
    """The speed with what it costs beside it: masks that agree with the plain float32 ones, and the perplexity of the weights under either mask."""
    ratio = bfloat16_speed()
    if ratio < TIMES_AS_FAST and os.environ.get(FORCED) != "1":
        return [
            Figure(
                "in bfloat16",
                f"not run: this machine multiplies it {ratio:.1f} x as fast as float32 ({FORCED}=1 runs it all the same)",
            )
        ]
    loaded = load(MODEL, dtype="bfloat16")
    start = time.perf_counter()
    masks = prune(loaded, Prune(method="wanda", sparsity=0.5), lambda: ids, 0, Silent()).masks
    fast = time.perf_counter() - start
    agree, goal = agreement(reference, masks), ratio >= TIMES_AS_FAST
    theirs, ours = (left_by(kept) for kept in (reference, {path: mask.unpack() for path, mask in masks.items()}))
    return [
        Figure("Wanda 50 % in bfloat16, end to end", f"{slow / fast:.2f} x ({slow:.1f} s plain in float32, {fast:.1f} s ours; products {ratio:.1f} x as fast)",
               ">= 5 x" if goal else "", slow / fast >= 5 if goal else None),
        Figure("masks made in bfloat16 that agree with the plain float32 ones", f"{100 * agree:.3f} %"),
        Figure("perplexity under them", f"{ours:,.2f}, and {theirs:,.2f} under the plain float32 ones"),
    ]  # fmt: skip


def left_by(masks: Mapping[str, torch.Tensor]) -> float:
    """The perplexity, in float32, of the dense weights under these masks."""
    loaded = load(MODEL, dtype="float32")
    for path, kept in masks.items():
        loaded.module(path).weight.data[~kept] = 0
    return perplexity(loaded, text.sequences("builtin:wikitext2/test", loaded.tokenizer, WINDOWS, 512, None), Silent())
