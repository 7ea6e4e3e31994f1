"""One level for each item, so that together they weigh enough and cost least: dynamic programming over the weight still owed."""

from __future__ import annotations

import numpy as np


def cheapest(costs: np.ndarray, weights: np.ndarray, target: int) -> np.ndarray:
    """The level of each item that makes the sum of costs least, among all choices whose weights add up to `target` or more.

    costs: float (items, levels), finite. weights: non-negative int of that shape. Returns int64 (items,). Time is items * levels * target, in
    whole-array steps; memory items * target small integers. Equal costs take the lower level, earlier items first. Raises ValueError where even
    the heaviest levels fall short.
    """
    if costs.shape != weights.shape or not np.isfinite(costs).all() or (weights < 0).any():
        raise ValueError("costs and weights must be finite and of one shape, weights not negative")
    target = max(target, 0)
    if target > int(weights.max(axis=1, initial=0).sum()):
        raise ValueError(f"no choice weighs {target}")
    items, levels = costs.shape
    least = np.full(target + 1, np.inf)  # least[owed]: the least cost at which the items from here on weigh `owed` or more
    least[0] = 0.0
    chosen = np.zeros((items, target + 1), np.uint16)
    for item in range(items - 1, -1, -1):
        best = np.full(target + 1, np.inf)
        for level in range(levels):
            weight = min(int(weights[item, level]), target)
            cost = np.concatenate([np.full(weight, least[0]), least[: target + 1 - weight]]) + costs[item, level]
            better = cost < best
            best[better], chosen[item, better] = cost[better], level
        least = best
    found, owed = np.zeros(items, np.int64), target
    for item in range(items):
        found[item] = chosen[item, owed]
        owed = max(owed - int(weights[item, found[item]]), 0)
    return found
