from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated

import torch
from torch import Tensor

from core.budget import kept_in_proportion
from core.method import Paper, Param, allocator


@allocator(
    "pq_index",
    label="PQ index",
    paper=Paper(
        "Diao, Wang, Zhan, Yang, Ding, Tarokh", 2023, "Pruning Deep Neural Networks from a Sparsity Perspective", "2302.05601"
    ),
    place="allocation/weights",
)
def pq_index(
    sizes: Mapping[str, int],
    sparsity: float,
    weights: Callable[[str], Tensor],
    *,
    p: Annotated[float, Param("p of the smaller norm", 0.1, 0.9)] = 0.5,
) -> dict[str, float]:
    """Layers whose weights are already nearly sparse give more: a few large among many small ones.

    With q = 1: PQ index I = 1 - d^(1 - 1/p) * |w|_p / |w|_1 over a layer's d weights, 0 where all are equal, near 1 where few matter. The paper
    bounds from below what must stay by d * (1 - I)^(p / (1 - p)), so layers keep in that proportion. Returns {layer: share}; the total is met to
    the weight.

    Intuition: how unequal the weights are says how many of them could be missed.
    When it lies: it knows weights alone. Random weights of one distribution have one index in every layer, and the budget is then uniform; and a layer
    whose small weights meet large inputs looks sparser than it is.
    Deviations from the paper: one shot to a total that is asked for, where the paper prunes and retrains until the index says stop.
    """
    bound = {name: (1 - _index(weights(name), p)) ** (p / (1 - p)) for name in sizes}
    return kept_in_proportion(bound, sizes, sparsity)


def _index(weight: Tensor, p: float) -> float:
    """1 - d^(1 - 1/p) * |w|_p / |w|_1, of weights scaled to a largest of 1 (the index has no scale, the sums have)."""
    size = weight.abs().double().flatten()
    peak = size.max()
    if peak == 0:
        return 1.0
    size = size / peak
    ratio = torch.exp(size.pow(p).mean().log() / p) / size.mean()  # with means in the place of sums, d^(1 - 1/p) is gone
    return min(max(1 - float(ratio), 0.0), 1.0)
