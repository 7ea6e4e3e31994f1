"""What the other structures, criteria and allocations of the engine come to on SmolLM2-135M."""

from __future__ import annotations

import time
from typing import Any

import torch

from core.events import Silent
from core.model.inputs import text
from core.model.loading import load
from core.model.looking.super_weights import find_super_weights
from core.model.measuring.measure import perplexity
from tests.bench import Figure
from tests.bench.orderings import MODEL, SAMPLES, TOKENS, WINDOWS, after

ABOUT = (
    f"The protocol of the section on orderings: {SAMPLES} x {TOKENS} tokens to calibrate (searches 8 x 256; BlockPruner 4 x 256), {WINDOWS} windows of "
    f"{TOKENS} to measure. Nothing is trained afterwards. By hand: 20 % of the first two blocks and of the last, 53.3 % of the others, which is half of all. "
    "Super weight: the largest of those found is set to zero alone, and so is the largest weight of the same layer."
)
_HAND = {f"blocks.{block}": 0.2 if block in (0, 1, 29) else 16 / 30 for block in range(30)}
STEPS: dict[str, dict[str, Any]] = {
    "random 50 %": {"method": "random", "sparsity": 0.5},
    "magnitude 50 %, one ranking, floor 20 %": {"method": "magnitude", "sparsity": 0.5, "allocation": {"method": "global", "params": {"floor": 0.2}}},
    "Wanda 50 %, by hand": {"method": "wanda", "allocation": {"method": "by_hand", "shares": _HAND}},
    "a third of the KV groups, magnitude": {"method": "magnitude", "structure": "heads", "sparsity": 0.34},
    "a third of the KV groups, FLAP": {"method": "flap", "structure": "heads", "sparsity": 0.34},
    "20 % of the blocks, angular distance": {"method": "angular_distance", "structure": "blocks", "sparsity": 0.2},
    "20 % of the sub-layers, BlockPruner": {"method": "block_pruner", "structure": "sublayers", "sparsity": 0.2},
    "20 % of the residual directions, SliceGPT": {"method": "slicegpt", "structure": "slices", "sparsity": 0.2},
}  # fmt: skip


def _super_weight() -> list[Figure]:
    loaded = load(MODEL)
    ids = text.sequences("builtin:wikitext2/train", loaded.tokenizer, 8, TOKENS, 0)
    test = text.sequences("builtin:wikitext2/test", loaded.tokenizer, WINDOWS, TOKENS, None)
    start = time.perf_counter()
    found = find_super_weights(loaded, ids)
    seconds = time.perf_counter() - start
    if not found:
        return [Figure("super weights", f"none found in {seconds:.0f} s")]
    most = max(found, key=lambda spike: abs(spike.output))
    weight = loaded.module(next(layer.path for layer in loaded.anatomy.layers if layer.name == most.layer)).weight.data
    rows = [
        Figure("super weights found", f"{len(found)} in {seconds:.0f} s; the largest is {most.layer}[{most.row}, {most.column}]")
    ]
    largest = divmod(int(weight.abs().argmax()), weight.shape[1])
    for name, place in (("without it alone", (most.row, most.column)), ("without that layer's largest weight alone", largest)):
        before = weight[place].clone()
        weight[place] = 0
        rows.append(Figure(f"perplexity {name}", f"{perplexity(loaded, test, Silent()):,.2f}"))
        weight[place] = before
    return rows


@torch.no_grad()
def measure() -> list[Figure]:
    found = {}
    for name, fields in STEPS.items():
        found[name] = after(fields)
        print(f"  {name}: {found[name][0]:.2f} ({found[name][1]:.0f} s)", flush=True)
    return [Figure(name, f"{value:,.2f}, {seconds:.0f} s") for name, (value, seconds) in found.items()] + _super_weight()
