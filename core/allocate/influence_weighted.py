from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

from core.budget import kept_in_proportion
from core.method import Paper, Param, allocator


@allocator(
    "influence_weighted",
    label="By block influence",
    paper=Paper(
        "Wang, Ma, Wang et al.",
        2024,
        "CFSP: An Efficient Structured Pruning Framework for LLMs with Coarse-to-Fine Activation Information",
        "2409.13199",
    ),
    needs={"influence"},
    place="allocation/block importance",
)
def influence_weighted(
    sizes: Mapping[str, int],
    blocks: Mapping[str, str],
    sparsity: float,
    influence: Mapping[str, float],
    *,
    strength: Annotated[float, Param("Strength", 0.0, 3.0)] = 0.3,
) -> dict[str, float]:
    """Blocks that turn the hidden state more keep more of their weights.

    influence {block: 1 - mean cosine between what enters and what leaves}. A block keeps in proportion to sigmoid(strength * z), z its influence less the
    mean over the blocks, over their standard deviation; at most all. Strength 0 is uniform. Returns {layer: share}; the total is met to the weight.

    Intuition: a block whose output points where its input did says little, so its weights are the cheapest.
    When it lies: the first block starts from embeddings and always looks large. Influence says what a whole block does, not what half of its
    weights would leave undone.
    Deviations from the paper: it prunes neurons and takes the sigmoid of the angular distance; here single weights go, by the cosine's distance,
    standardised, so that `strength` means the same in every model.
    """
    values = list(influence.values())
    mean = sum(values) / max(len(values), 1)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / max(len(values), 1))

    def part(layer: str) -> float:
        distance = (influence[blocks[layer]] - mean) / deviation if deviation > 0 else 0.0
        return 1 / (1 + math.exp(-strength * distance))

    return kept_in_proportion({layer: part(layer) for layer in sizes}, sizes, sparsity)
