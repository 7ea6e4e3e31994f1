"""The best budgets that cost curves allow: for every size the least predicted cost, solved at once. Torch-free.

Each part's curve is replaced by its lower convex hull; the hulls' pieces, steepest saving first, are then taken one after the other. For convex curves
that is the optimum of the whole problem (Fox 1966, marginal allocation); where a curve is not convex, it is the optimum at each end of a piece and at
most one piece away from it between.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise

from core.budget import HIGHEST_SHARE, CostCurves, allowed, combined, cost_at

POINTS = 48  # of the drawn frontier


@dataclass(frozen=True)
class Piece:
    """One stretch of a part's hull: its share goes from `low` to `high`, which removes `weights` and adds `cost` to the sum."""

    part: str
    low: float
    high: float
    weights: float
    cost: float


@dataclass(frozen=True)
class Ladder:
    """All pieces in the order in which they are taken. `removed`, `cost`: running sums, one more than there are pieces; they start at what is locked."""

    pieces: tuple[Piece, ...]
    removed: tuple[float, ...]
    cost: tuple[float, ...]
    fixed: Mapping[str, float]

    def shares(self, weights: float) -> dict[str, float]:
        """The best shares that remove so many weights in all; the nearest there is, where locks or limits forbid it."""
        at = min(max(bisect_left(self.removed, weights) - 1, 0), max(len(self.pieces) - 1, 0))
        out = dict(self.fixed)
        for piece in self.pieces[:at]:
            out[piece.part] = piece.high
        if self.pieces:
            last = self.pieces[at]
            part = (weights - self.removed[at]) / last.weights if last.weights else 1.0
            out[last.part] = last.low + (last.high - last.low) * min(max(part, 0.0), 1.0)
        return out

    def at_cost(self, cost: float) -> float:
        """The most weights that can go while the curves add up to no more than `cost`; what is locked, where even that costs more."""
        best = max((i for i, total in enumerate(self.cost) if total <= cost + 1e-12), default=0)
        if best == len(self.pieces) or self.pieces[best].cost <= 0:
            return self.removed[best]
        part = min(max((cost - self.cost[best]) / self.pieces[best].cost, 0.0), 1.0)
        return self.removed[best] + part * self.pieces[best].weights


def ladder(
    curves: CostCurves, sizes: Mapping[str, int], fixed: Mapping[str, float] | None = None, highest: float = HIGHEST_SHARE
) -> Ladder:
    """The pieces of all parts that are not `fixed` (locked at a share). A part without a curve goes first: nothing says that it costs anything."""
    fixed = dict(fixed or {})
    levels = sorted({level for level in curves.levels if level < highest} | {highest})
    pieces = []
    for part, size in sizes.items():
        if part in fixed or not size:
            continue
        costs = [cost_at(curves, part, level) for level in levels] if part in curves.cost else [0.0] * len(levels)
        corners = _hull(levels, costs)
        pieces += [
            Piece(part, levels[a], levels[b], (levels[b] - levels[a]) * size, costs[b] - costs[a]) for a, b in pairwise(corners)
        ]
    pieces.sort(key=lambda piece: (piece.cost / piece.weights, piece.low))
    start = sum(share * sizes[part] for part, share in fixed.items())
    begin = sum(cost_at(curves, part, share) for part, share in fixed.items() if part in curves.cost)
    removed = tuple(accumulate((piece.weights for piece in pieces), initial=start))
    cost = tuple(accumulate((piece.cost for piece in pieces), initial=begin))
    return Ladder(tuple(pieces), removed, cost, fixed)


def _hull(x: list[float], y: list[float]) -> list[int]:
    """Indices of the lower convex hull of points that ascend in x."""
    out: list[int] = []
    for i in range(len(x)):
        while len(out) > 1 and (y[out[-1]] - y[out[-2]]) * (x[i] - x[out[-2]]) >= (y[i] - y[out[-2]]) * (x[out[-1]] - x[out[-2]]):
            out.pop()
        out.append(i)
    return out


def frontier(curves: CostCurves, steps: Ladder, points: int = POINTS) -> list[tuple[float, float]]:
    """(weights removed, predicted log increase) along the best budgets, evenly spaced."""
    low, high = steps.removed[0], steps.removed[-1]
    wanted = [low + (high - low) * i / max(points - 1, 1) for i in range(points)] if high > low else [low]
    out = []
    for weights in wanted:
        at = min(max(bisect_left(steps.removed, weights) - 1, 0), max(len(steps.pieces) - 1, 0))
        last = steps.pieces[at] if steps.pieces else None
        part = (weights - steps.removed[at]) / last.weights if last and last.weights else 0.0
        total = steps.cost[at] + (last.cost * min(max(part, 0.0), 1.0) if last else 0.0)
        out.append((weights, combined(curves, total)))
    return out


@dataclass(frozen=True)
class Reached:
    """An answer to a wish. `weights`: how many go; `met`: whether the wish is met, else this is the nearest that can be had."""

    shares: dict[str, float]
    weights: float
    met: bool


def smallest_loss(steps: Ladder, weights: float) -> Reached:
    """The best budget that removes at least so many weights."""
    can = min(max(weights, steps.removed[0]), steps.removed[-1])
    return Reached(steps.shares(can), can, steps.removed[-1] >= weights - 0.5)


def smallest_model(curves: CostCurves, steps: Ladder, increase: float) -> Reached:
    """The budget that removes the most while the predicted log increase is at most `increase`."""
    cost = allowed(curves, increase)
    can = steps.at_cost(cost)
    return Reached(steps.shares(can), can, steps.cost[0] <= cost + 1e-9)
