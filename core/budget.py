"""Budget arithmetic on cached curves. Torch-free and fast (microseconds a block), so that an estimate follows a hand on a bar.

A budget is a share to remove for each unit (a block, or a layer). The estimate adds up what each unit costs alone:
log(quality / dense quality) = sum over units of curve_unit(share). That neglects interactions, so it is always shown as an estimate
(the idea of rate-distortion pruning, Xu et al. 2023, arXiv 2308.10438: output errors add approximately).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, isfinite

from core.errors import RecipeError

HIGHEST_SHARE = 0.95  # a bar stops here: a layer with nothing left is a different model (layer collapse)


@dataclass(frozen=True)
class CostCurves:
    """What each unit costs alone. `levels`: shares, ascending, starting at 0. `cost`: {unit: log increase at each level}, starting at 0.

    `dense`: the quality figure without pruning (a perplexity); `metric` names it.
    """

    levels: tuple[float, ...]
    cost: Mapping[str, tuple[float, ...]]
    dense: float
    metric: str = "perplexity"

    def __post_init__(self) -> None:
        if len(self.levels) < 2 or self.levels[0] != 0.0 or list(self.levels) != sorted(set(self.levels)):
            raise ValueError("levels must ascend from 0")
        if any(len(values) != len(self.levels) or values[0] != 0.0 for values in self.cost.values()):
            raise ValueError("each curve needs one value a level, the first 0")


@dataclass(frozen=True)
class Estimate:
    """`quality`: the predicted figure in the curves' metric; `kept`: weights left; `total`: weights there were."""

    quality: float
    kept: int
    total: int

    @property
    def sparsity(self) -> float:
        return 1 - self.kept / self.total if self.total else 0.0


def cost_at(curves: CostCurves, unit: str, share: float) -> float:
    """The log increase of one unit at a share: straight lines between measured levels, the last slope carried on beyond them."""
    levels, values = curves.levels, curves.cost[unit]
    right = min(max(bisect_right(levels, share), 1), len(levels) - 1)
    low, high = levels[right - 1], levels[right]
    return values[right - 1] + (values[right] - values[right - 1]) * (share - low) / (high - low)


def estimate(curves: CostCurves, sizes: Mapping[str, int], shares: Mapping[str, float]) -> Estimate:
    """Predict quality and size for a budget. Units without a share are left whole; units without a curve cost nothing.

    sizes: {unit: weights}; shares: {unit: share to remove, 0..1}. Raises RecipeError on a share outside 0..1 or an unknown unit.
    """
    for unit, share in shares.items():
        if unit not in sizes:
            raise RecipeError(
                f"The budget names {unit!r}, which this model does not have.", f"It has {', '.join(list(sizes)[:4])} ..."
            )
        check_share(unit, share)
    total = sum(sizes.values())
    kept = sum(round(size * (1 - shares.get(unit, 0.0))) for unit, size in sizes.items())
    log_increase = sum(cost_at(curves, unit, share) for unit, share in shares.items() if unit in curves.cost)
    return Estimate(curves.dense * exp(min(log_increase, 300.0)), kept, total)


def check_share(unit: str, share: float) -> float:
    """A share of one unit, or RecipeError with the remedy."""
    if not (isinstance(share, (int, float)) and isfinite(share) and 0.0 <= share <= 1.0):
        raise RecipeError(f"The share of {unit} must lie between 0 and 1 (0 % and 100 %), not {share!r}.", "Correct that value.")
    return float(share)


def redistribute(shares: Mapping[str, float], sizes: Mapping[str, int], target: float, locked: frozenset[str] = frozenset(),
                 highest: float = HIGHEST_SHARE) -> dict[str, float]:  # fmt: skip
    """Move the unlocked bars together until the whole budget is `target`, each staying within 0..highest.

    What is added is shared in proportion to the room each bar has left (to 0 going down, to `highest` going up), so a drawn shape is kept.
    Returns the nearest reachable budget where locks make the target impossible.
    """
    total = sum(sizes.values())
    free = [unit for unit in sizes if unit not in locked]
    out = {unit: float(shares.get(unit, 0.0)) for unit in sizes}
    wanted = target * total - sum(out[unit] * sizes[unit] for unit in sizes)
    room = {unit: (max(highest - out[unit], 0.0) if wanted > 0 else out[unit]) for unit in free}
    available = sum(room[unit] * sizes[unit] for unit in free)
    if available <= 0:
        return out
    part = min(abs(wanted) / available, 1.0) * (1 if wanted > 0 else -1)
    for unit in free:
        out[unit] = min(max(out[unit] + part * room[unit], 0.0), 1.0)
    return out


def exactly(shares: Mapping[str, float], sizes: Mapping[str, int], sparsity: float, highest: float = 1.0) -> dict[str, float]:
    """The shares moved together, each staying within 0..highest, until they remove exactly round(sparsity * all) whole weights.

    Each share returned is a whole number of its unit's weights; what rounding leaves over goes to the units that it wronged most, earlier ones first.
    """
    most = {unit: int(size * highest) for unit, size in sizes.items()}
    drop = min(round(sparsity * sum(sizes.values())), sum(most.values()))

    def moved(by: float) -> dict[str, float]:
        return {unit: min(max(shares[unit] + by, 0.0) * size, most[unit]) for unit, size in sizes.items()}

    low, high = -1.0, 1.0
    for _ in range(60):  # the removed weights grow with the shift, so halving finds it
        middle = (low + high) / 2
        low, high = (middle, high) if sum(moved(middle).values()) < drop else (low, middle)
    wanted = moved((low + high) / 2)
    counts = {unit: int(value) for unit, value in wanted.items()}
    order = sorted(sizes, key=lambda unit: counts[unit] - wanted[unit])
    while (owed := drop - sum(counts.values())) != 0:
        step = 1 if owed > 0 else -1
        able = [unit for unit in order[::step] if 0 <= counts[unit] + step <= most[unit]]
        for unit in able[: abs(owed)]:
            counts[unit] += step
    return {unit: counts[unit] / size if size else 0.0 for unit, size in sizes.items()}


def kept_in_proportion(parts: Mapping[str, float], sizes: Mapping[str, int], sparsity: float) -> dict[str, float]:
    """Shares to remove so that each unit keeps weights in proportion to parts[unit] * sizes[unit], none more than it has, in all 1 - sparsity.

    parts: non-negative. What a unit at its limit cannot keep is kept by the others, in the same proportion.
    """
    left, free, kept = (1 - sparsity) * sum(sizes.values()), list(sizes), {}
    while free:
        weight = sum(parts[unit] * sizes[unit] for unit in free)
        even = left / max(sum(sizes[unit] for unit in free), 1)
        kept |= {unit: left * parts[unit] / weight if weight > 0 else even for unit in free}
        full = [unit for unit in free if kept[unit] >= 1.0]
        if not full or len(full) == len(free):
            break
        kept |= dict.fromkeys(full, 1.0)
        left -= sum(sizes[unit] for unit in full)
        free = [unit for unit in free if unit not in full]
    return exactly({unit: 1 - min(kept[unit], 1.0) for unit in sizes}, sizes, sparsity)
