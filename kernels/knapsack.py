"""One level for each item, so that together they weigh enough and cost least: dynamic programming over the weight still owed, and where that would
take too long, the greedy choice by cost for weight with a bound on what it misses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, gcd

import numpy as np

GRID = 4096  # parts in which what is still owed is counted where it is not a small whole number
WINDOW = 16  # levels on either side of the greedy choice that dynamic programming looks at


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


@dataclass(frozen=True)
class Cover:
    """`levels`: the one chosen of each item; `value`: what they cost together; `bound`: no choice costs less."""

    levels: np.ndarray
    value: float
    bound: float


def cover(values: Sequence[np.ndarray], saves: Sequence[np.ndarray], owed: float) -> Cover:
    """A level for each item, so that what they save adds up to `owed` or more and what that costs is least, or near it.

    values, saves: float (levels of that item,), both starting at 0 and never falling. First by value for saving: the lower convex hulls of all items,
    their pieces taken in the order of their slopes until the owed is met; the last piece taken in part gives the bound (the problem with
    fractions allowed). Then exactly, over the levels up to `WINDOW` beside that choice; what is owed is counted in whole units where savings are
    whole numbers with few of them, else in `GRID` parts, rounded so that it is met. Returns the better of the two. Raises ValueError where all
    the highest levels fall short.
    """
    if sum(float(save[-1]) for save in saves) < owed * (1 - 1e-12):
        raise ValueError(f"no choice saves {owed}")
    greedy, bound = _by_slope(values, saves, owed)
    best = _cost(values, greedy)
    found = _refined(values, saves, owed, greedy)
    if found is not None and (cost := _cost(values, found)) < best:
        return Cover(found, cost, bound)
    return Cover(greedy, best, bound)


def _cost(values: Sequence[np.ndarray], levels: np.ndarray) -> float:
    return float(sum(value[level] for value, level in zip(values, levels, strict=True)))


def _by_slope(values: Sequence[np.ndarray], saves: Sequence[np.ndarray], owed: float) -> tuple[np.ndarray, float]:
    """(levels by the hulls' slopes that meet the owed, the least cost with fractions of pieces allowed)."""
    pieces = []
    for item, (value, save) in enumerate(zip(values, saves, strict=True)):
        hull = _hull(value, save)
        pieces += [((value[b] - value[a]) / (save[b] - save[a]), item, a, b) for a, b in pairwise(hull)]
    levels, saved, cost, bound = np.zeros(len(values), np.int64), 0.0, 0.0, 0.0
    for slope, item, start, end in sorted(pieces):
        if saved >= owed * (1 - 1e-12):
            break
        gain = saves[item][end] - saves[item][start]
        bound = cost + slope * min(owed - saved, gain)
        saved, cost, levels[item] = saved + gain, cost + values[item][end] - values[item][start], end
        if saved >= owed * (1 - 1e-12) and end > start + 1:  # not more of the last piece than is owed
            need = owed * (1 - 1e-12) - (saved - gain) + saves[item][start]
            levels[item] = start + int(np.searchsorted(saves[item][start : end + 1], need))
    return levels, float(bound)


def _hull(value: np.ndarray, save: np.ndarray) -> list[int]:
    """Levels at the corners of the lower convex hull of cost over saving, from level 0 to the one that saves most (the cheapest such)."""
    corners: list[int] = []
    for level in range(len(value)):
        if corners and save[level] <= save[corners[-1]]:
            continue  # saves no more and costs no less
        while len(corners) >= 2:
            a, b = corners[-2:]
            if (value[b] - value[a]) * (save[level] - save[a]) < (value[level] - value[a]) * (save[b] - save[a]):
                break
            corners.pop()
        corners.append(level)
    return corners


def _refined(values: Sequence[np.ndarray], saves: Sequence[np.ndarray], owed: float, greedy: np.ndarray) -> np.ndarray | None:
    """The best levels near the greedy ones, by `cheapest`; None where they cannot meet the owed."""
    lows = [max(int(level) - WINDOW, 0) for level in greedy]
    width = max(
        min(int(level) + WINDOW, len(value) - 1) - low + 1 for level, value, low in zip(greedy, values, lows, strict=True)
    )
    reach = [np.minimum(low + np.arange(width), len(value) - 1) for low, value in zip(lows, values, strict=True)]
    left = owed * (1 - 1e-12) - sum(float(save[low]) for save, low in zip(saves, lows, strict=True))
    if left <= 0:
        return None
    gains = np.stack([save[at] - save[low] for save, at, low in zip(saves, reach, lows, strict=True)])
    costs = np.stack([value[at] - value[low] for value, at, low in zip(values, reach, lows, strict=True)])
    part = _part(gains, left)
    weights = np.floor(gains / part + 1e-9).astype(np.int64)
    target = ceil(left / part - 1e-9)
    if weights.max(axis=1).sum() < target:
        return None
    chosen = cheapest(costs, weights, target)
    return np.array([at[level] for at, level in zip(reach, chosen, strict=True)])


def _part(gains: np.ndarray, left: float) -> float:
    """The unit in which savings are counted: their greatest common divisor where `left` has at most GRID of it."""
    if np.abs(gains).max() < 2**53 and (gains == np.rint(gains)).all():
        common = gcd(*np.unique(gains).astype(np.int64).tolist())
        if common and left / common <= GRID:
            return float(common)
    return left / GRID
