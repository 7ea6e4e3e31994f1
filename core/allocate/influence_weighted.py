from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

from core.budget import exactly, kept_in_proportion
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
    needs={"influence", "angle"},
    structures=("unstructured", "neurons", "heads"),
    place="allocation/block importance",
)
def influence_weighted(
    sizes: Mapping[str, int],
    blocks: Mapping[str, str],
    sparsity: float,
    influence: Mapping[str, float],
    angle: Mapping[str, float],
    *,
    strength: Annotated[float, Param("Strength", 0.0, 3.0)] = 0.3,
    rule: Annotated[str, Param("Rule", choices=("ShortGPT", "CFSP", "Adapt-Pruner"))] = "ShortGPT",
    amplitude: Annotated[float, Param("Amplitude (Adapt-Pruner)", 0.0, 0.5)] = 0.03,
) -> dict[str, float]:
    """Blocks that turn the hidden state more keep more of their weights or units.

    influence {block: 1 - mean cosine between what enters and what leaves}; angle {block: mean arccos of that cosine / pi}; means over tokens. z: a
    block's figure less the mean over the blocks, over their standard deviation. "ShortGPT": a block keeps in proportion to sigmoid(strength * z of its
    influence), at most all; "CFSP": the same of its angle. "Adapt-Pruner" (Pan et al. 2025, arXiv 2502.03460): share = sparsity - amplitude * d, d the
    influence less the mean, over the largest such difference, so in -1..1. Strength or amplitude 0 is uniform. Returns {layer: share}; the total is met
    to the weight, or the unit.

    Intuition: a block whose output points where its input did says little, so its weights are the cheapest.
    When it lies: the first block starts from embeddings and always looks large. Influence says what a whole block does, not what half of its
    weights would leave undone.
    Deviations from the papers: CFSP's sigmoid is of the angle's difference from the mean, times a number of its own and summed over however many tokens
    there are; here z, so that `strength` means the same in every model. ShortGPT itself only removes blocks. Adapt-Pruner looks anew after each of
    many small rounds; here once.
    """
    figures = angle if rule == "CFSP" else influence
    values = list(figures.values())
    mean = sum(values) / max(len(values), 1)
    apart = {block: value - mean for block, value in figures.items()}
    if rule == "Adapt-Pruner":
        farthest = max((abs(difference) for difference in apart.values()), default=0.0)
        scale = amplitude / farthest if farthest > 0 else 0.0
        shares = {layer: min(max(sparsity - scale * apart[blocks[layer]], 0.0), 1.0) for layer in sizes}
        return exactly(shares, sizes, sparsity)
    deviation = math.sqrt(sum(difference**2 for difference in apart.values()) / max(len(values), 1))

    def part(layer: str) -> float:
        distance = apart[blocks[layer]] / deviation if deviation > 0 else 0.0
        return 1 / (1 + math.exp(-strength * distance))

    return kept_in_proportion({layer: part(layer) for layer in sizes}, sizes, sparsity)
