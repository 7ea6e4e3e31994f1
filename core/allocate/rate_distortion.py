from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import numpy as np

from core.budget import exactly
from core.method import Paper, Param, allocator
from kernels.knapsack import cheapest

_STEPS = 50  # levels between 0 and 1 that a layer may be set to
_GRID = 20_000  # the total to remove is counted in so many parts


@allocator(
    "rate_distortion",
    label="Rate-distortion",
    paper=Paper(
        "Xu, Wang, Geng et al.",
        2023,
        "Efficient Joint Optimization of Layer-Adaptive Weight Pruning in Deep Neural Networks",
        "2308.10438",
    ),
    needs={"curves", "influence"},
    place="allocation/output error",
)
def rate_distortion(
    sizes: Mapping[str, int],
    blocks: Mapping[str, str],
    sparsity: float,
    curves: Mapping[str, Mapping[float, float]],
    influence: Mapping[str, float],
    *,
    highest: Annotated[float, Param("A layer gives at most", 0.5, 1.0)] = 0.9,
) -> dict[str, float]:
    """Each layer is pruned alone at several levels, and the budget with the least sum of errors in the residual stream wins.

    curves {layer: {share removed: |lost output|^2 / |output|^2 on the calibration inputs}}, measured at 0.1 .. 0.9 with the masks of the step's method
    (for solvers: Wanda's), straight lines between. influence {block: 1 - mean cosine between what enters and what leaves}: about half of what the
    block adds to the stream, as a share of the stream's own energy. Cost = a layer's relative error * its block's influence: the error as the stream
    feels it. Dynamic programming finds the levels, in steps of 2 %, whose costs add up to least while they remove the total, counted in 20,000 parts;
    the rest is met to the weight by moving all layers together. Returns {layer: share}.

    Intuition: small errors of many layers pass through a network nearly independently, so their energies add, and only the sum matters.
    When it lies: errors add only while they are small; beyond 60 % or so later layers magnify what earlier ones lost. For a solver, which repairs,
    the curves say too much.
    Deviations from the paper: it measures what each layer's pruning does to the network's last output, a pass for each layer and level; here that is
    estimated from one pass. A layer gives at most `highest`, or the sparsity asked for where that is more.
    """
    highest = max(highest, sparsity)
    levels = np.unique(np.append(np.arange(_STEPS + 1) / _STEPS, highest))
    levels = levels[levels <= highest]
    names = list(sizes)
    costs = np.stack([np.interp(levels, *_rising(curves[name])) * max(influence[blocks[name]], 0.0) for name in names])
    drop = round(sparsity * sum(sizes.values()))
    part = max(drop / _GRID, 1.0)
    weights = np.floor(np.outer([sizes[name] for name in names], levels) / part + 0.5).astype(np.int64)
    target = min(int(drop / part), int(weights.max(axis=1).sum()))
    found = levels[cheapest(costs, weights, target)]
    return exactly(dict(zip(names, found.tolist(), strict=True)), sizes, sparsity, highest)


def _rising(curve: Mapping[float, float]) -> tuple[list[float], np.ndarray]:
    """A curve's shares and errors; an error below that of a smaller share (chance, in masks chosen row by row) is raised to it."""
    shares = sorted(curve)
    return shares, np.maximum.accumulate([curve[share] for share in shares])
