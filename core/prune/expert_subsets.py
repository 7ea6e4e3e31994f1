from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from math import comb
from typing import Annotated

from core.method import Paper, Param, search


@search(
    "expert_subsets",
    label="Expert subsets",
    paper=Paper(
        "Lu, Liu, Xu, Zhou, Huang, Zhang, Yan, Li",
        2024,
        "Not All Experts are Equal: Efficient Expert Pruning and Skipping for Mixture-of-Experts Large Language Models",
        "2402.14800",
    ),
    structures=("experts",),
    place="search/experts",
)
def expert_subsets(
    units: Sequence[str],
    count: int,
    errors: Callable[[Sequence[frozenset[str]]], list[float]],
    *,
    most: Annotated[int, Param("Most subsets to try at once", 1, 10000)] = 128,
) -> list[str]:
    """Keep the set of experts whose joint output is nearest to that of all: sets are tried, not experts ranked.

    units: the experts of one block; count: how many go; errors(sets): for each set of experts that would go, |whole - rest|^2 / |whole|^2 of the
    mixture's output over all calibration tokens, with the router choosing among the rest. Returns those that go; of equal sets, the first in order.

    Where there are more than `most` sets of that size (8 experts have 70 of 4; 64 have 5e14 of 16), the one whose absence costs least goes first, then
    the one that costs least with that one gone, and so on.

    Intuition: two experts that say the same may both look useful, yet either can go; only trying both at once shows what both being gone costs.
    When it lies: it sees one block at a time, so an error that later blocks would forgive counts like one that they amplify; the greedy way can miss
    the best set; and the error is dominated by tokens with large outputs (the first of a sequence, often).
    Deviations from the paper: the greedy way above `most`; the error is of the experts' output on the activations of the blocks already pruned; expert
    skipping at run time is not part of this.
    """
    if comb(len(units), count) <= most:
        sets = [frozenset(gone) for gone in combinations(units, count)]
        return sorted(_least(sets, errors), key=list(units).index)
    gone: list[str] = []
    while len(gone) < count:
        sets = [frozenset((*gone, unit)) for unit in units if unit not in gone]
        best = _least(sets, errors)
        gone += [unit for unit in units if unit in best and unit not in gone]
    return gone


def _least(sets: Sequence[frozenset[str]], errors: Callable[[Sequence[frozenset[str]]], list[float]]) -> frozenset[str]:
    found = errors(sets)
    return sets[found.index(min(found))]
