"""Perplexity of SmolLM2-135M after half of its weights went, by magnitude and by Wanda; and the masks against a plain reference."""

from __future__ import annotations

import torch

from core.events import Silent
from core.model.inputs import text
from core.model.loading import LoadedModel, load
from core.model.measuring.measure import perplexity as perplexity_of
from core.model.observe import matrix, observe_block, stream
from core.model.pruning.step import prune
from core.recipe import Prune
from tests.bench import Figure

MODEL, TOKENS = "builtin:smollm2-135m", 512
ABOUT = (
    "SmolLM2-135M-Instruct (dequantised Q4_1) in float32. Calibration: 128 x 512 tokens of WikiText-2 train (seed 0). Perplexity on WikiText-2 "
    "test: 64 consecutive windows of 512 tokens, rows joined by a blank line, no stride. Never compare with a perplexity of another protocol."
)


def perplexity(loaded: LoadedModel) -> float:
    ids = text.sequences("builtin:wikitext2/test", loaded.tokenizer, 64, TOKENS, None)
    return perplexity_of(loaded, ids, Silent())


def plain_mask(score: torch.Tensor, drop: int) -> torch.Tensor:
    """One stable sort a row: equal scores drop the lower column first."""
    order = score.argsort(dim=1, stable=True)[:, :drop]
    return torch.ones(score.shape, dtype=torch.bool).scatter_(1, order, False)


def first_block_masks_agree() -> tuple[int, int]:
    """Weights of block 0 whose kept/dropped state differs from a plain sort on the same float32 statistics, and how many there are."""
    loaded = load(MODEL)
    ids = text.sequences("builtin:wikitext2/train", loaded.tokenizer, 16, TOKENS, 0)
    dense = {layer.path: loaded.module(layer.path).weight.detach().clone() for layer in loaded.anatomy.blocks[0].layers}
    for block, module, hidden, extra in stream(loaded, ids, Silent(), "observe"):
        statistics = observe_block(loaded, block, module, hidden, extra, ("input_norm",), Silent())[0]
        break
    done = prune(loaded, Prune(method="wanda", sparsity=0.5, only=("blocks.0",)), lambda: ids, 0, Silent())
    different = total = 0
    for layer in loaded.anatomy.blocks[0].layers:
        score = matrix(layer, dense[layer.path]).abs() * statistics[layer.name]["input_norm"]
        reference = plain_mask(score, score.shape[1] // 2)
        different += int((done.masks[layer.path].unpack() != reference).sum())
        total += reference.numel()
    return different, total


def measure() -> list[Figure]:
    figures = []
    loaded = load(MODEL)
    dense = perplexity(loaded)
    figures.append(Figure("dense", f"{dense:.2f}"))
    ids = text.sequences("builtin:wikitext2/train", loaded.tokenizer, 128, TOKENS, 0)
    prune(loaded, Prune(method="wanda", sparsity=0.5), lambda: ids, 0, Silent())
    wanda = perplexity(loaded)
    del loaded
    loaded = load(MODEL)
    prune(loaded, Prune(method="magnitude", sparsity=0.5), lambda: ids, 0, Silent())
    magnitude = perplexity(loaded)
    figures.append(
        Figure("Wanda 50 %", f"{wanda:.2f} ({wanda / dense:.2f} x dense)", "far below magnitude", wanda < magnitude / 2)
    )
    figures.append(Figure("magnitude 50 % of each layer", f"{magnitude:.1f} ({magnitude / dense:.1f} x dense)"))
    different, total = first_block_masks_agree()
    figures.append(
        Figure("Wanda mask against a plain sort, block 0", f"{different} of {total:,} weights differ", "0", different == 0)
    )
    return figures
