"""Wanda from dense weights to masks, ours beside a plain reference that works as the paper's code does."""

from __future__ import annotations

import time

import torch

from core.events import Silent
from core.model import blocks
from core.model.inputs import text
from core.model.loading import LoadedModel, load
from core.model.pruning.step import prune
from core.recipe import Prune
from tests.bench import Figure

MODEL, SAMPLES = "builtin:smollm2-135m", 24
ABOUT = (
    f"Wanda 50 % on SmolLM2-135M, float32, {SAMPLES} x 512 tokens, without loading. Plain: block by block, one sequence at a time, a hook on each linear "
    "layer that adds up squared inputs, torch.sort for each layer's rows, the pruned block run again. Both in one process, plain first."
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
    loaded = load(MODEL)
    ids = text.sequences("builtin:wikitext2/train", loaded.tokenizer, SAMPLES, 512, 0)
    start = time.perf_counter()
    reference = plain(loaded, ids)
    slow = time.perf_counter() - start
    loaded = load(MODEL)
    start = time.perf_counter()
    ours = prune(loaded, Prune(method="wanda", sparsity=0.5), lambda: ids, 0, Silent()).masks
    fast = time.perf_counter() - start
    agree = [float((reference[path] == mask.unpack()).float().mean()) for path, mask in ours.items()]
    return [
        Figure(
            "Wanda 50 %, end to end",
            f"{slow / fast:.2f} x ({slow:.1f} s plain, {fast:.1f} s ours)",
            ">= 1.7 x",
            slow / fast >= 1.7,
        ),
        Figure("masks that agree", f"{100 * sum(agree) / len(agree):.3f} %", ">= 99.8 %", sum(agree) / len(agree) >= 0.998),
    ]
