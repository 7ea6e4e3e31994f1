from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

from core.budget import kept_in_proportion
from core.method import Paper, Param, allocator


@allocator(
    "logistic_depth",
    label="Rising with depth (SEAP)",
    paper=Paper(
        "Liang, Wang, Lai et al.",
        2025,
        "SEAP: Training-free Sparse Expert Activation Pruning Unlock the Brainpower of Large Language Models",
        "2503.07605",
    ),
    structures=("neurons", "heads", "query_heads"),
    place="allocation/depth",
)
def logistic_depth(
    sizes: Mapping[str, int],
    sparsity: float,
    *,
    steepness: Annotated[float, Param("Steepness", -20.0, 20.0)] = 1.2,
    middle: Annotated[float, Param("Turns at", 0.0, 1.0)] = 0.3,
) -> dict[str, float]:
    """Later blocks give more than early ones, along an S-shaped curve.

    sizes {group: units}, in the order of the blocks; block number l of L stands at x = l / (L - 1). It gives in proportion to
    1 / (1 + exp(-steepness * (x - middle))), at most all; the total is met to the unit. Steepness 0 is uniform, below 0 early blocks give more.

    Intuition: early blocks make what all later ones read; the later ones often repeat each other.
    When it lies: the last blocks matter again in most models (name them in `protect`), and no curve drawn beforehand knows your model: compare with
    `global`, or with a budget made by hand.
    Deviations from the paper: its first two and last two blocks stay (say so with `protect`); the curve is scaled so that the total holds where a
    block would give more than all.
    """
    last = max(len(sizes) - 1, 1)
    given = {
        name: 1 / (1 + math.exp(-steepness * (place / last - middle))) for place, name in enumerate(sizes)
    }  # what is removed here is what would be kept there
    left = kept_in_proportion(given, sizes, 1 - sparsity)
    return {name: 1 - share for name, share in left.items()}
