"""Budget arithmetic on cached curves. Torch-free and fast (microseconds a block), so that an estimate follows a hand on a bar.

A budget is a share to remove for each unit (a block, or a layer). The estimate adds up what each unit costs:
log(quality / dense quality) = scale * (sum over units of curve_unit(share)) ** power. Scale and power are fitted to a few measured budgets of the whole
model (`core.prediction`), since parts pruned together cost more than alone; 1 and 1 where none were measured. It is always shown as an estimate, with
`within`: how far it may be off (the idea of rate-distortion pruning, Xu et al. 2023, arXiv 2308.10438: output errors add approximately).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, isfinite

from core.errors import RecipeError

OUTLIER_SPREAD = 0.08  # how far OWL lets a block's share lie from the sparsity (the paper's lambda)
HIGHEST_SHARE = 0.95  # a bar stops here: a layer with nothing left is a different model (layer collapse)


@dataclass(frozen=True)
class CostCurves:
    """What each unit costs alone. `levels`: shares, ascending, starting at 0. `cost`: {unit: log increase at each level}, starting at 0.

    `dense`: the quality figure without pruning (a perplexity); `metric` names it. nine times in ten the increase is off by no more than the factor
    exp(within), and `floor`; None and 0 where nobody knows.
    """

    levels: tuple[float, ...]
    cost: Mapping[str, tuple[float, ...]]
    dense: float
    metric: str = "perplexity"
    scale: float = 1.0
    power: float = 1.0
    within: float | None = None
    floor: float = 0.0

    def __post_init__(self) -> None:
        if len(self.levels) < 2 or self.levels[0] != 0.0 or list(self.levels) != sorted(set(self.levels)):
            raise ValueError("levels must ascend from 0")
        if any(len(values) != len(self.levels) or values[0] != 0.0 for values in self.cost.values()):
            raise ValueError("each curve needs one value a level, the first 0")
        if not all(isfinite(x) for values in self.cost.values() for x in values):
            raise ValueError("a curve holds what is no number")
        if not (isfinite(self.dense) and self.scale > 0 and self.power > 0):
            raise ValueError("dense must be a number, scale and power above 0")


@dataclass(frozen=True)
class Estimate:
    """`quality`: the predicted figure in the curves' metric, between `low` and `high` nine times in ten (both equal to it where that is not known);
    `kept`: weights left; `total`: weights there were."""

    quality: float
    kept: int
    total: int
    low: float
    high: float

    @property
    def sparsity(self) -> float:
        return 1 - self.kept / self.total if self.total else 0.0


def cost_at(curves: CostCurves, unit: str, share: float) -> float:
    """The log increase of one unit at a share: straight lines between measured levels, the last slope carried on beyond them."""
    levels, values = curves.levels, curves.cost[unit]
    right = min(max(bisect_right(levels, share), 1), len(levels) - 1)
    low, high = levels[right - 1], levels[right]
    return values[right - 1] + (values[right] - values[right - 1]) * (share - low) / (high - low)


def combined(curves: CostCurves, total: float) -> float:
    """The log increase of units whose curves add up to `total`. A gain (below 0) is no reason for a power."""
    return curves.scale * (total**curves.power if total > 0 else total)


def allowed(curves: CostCurves, increase: float) -> float:
    """What the curves may add up to where the log increase is to stay at `increase`: `combined` the other way round."""
    total = increase / curves.scale
    return total ** (1 / curves.power) if total > 0 else total


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
    increase = combined(curves, sum(cost_at(curves, unit, share) for unit, share in shares.items() if unit in curves.cost))
    low, high = sorted(increase * exp(sign * (curves.within or 0.0)) for sign in (-1, 1))
    low, quality, high = (curves.dense * exp(min(x, 300.0)) for x in (low - curves.floor, increase, high + curves.floor))
    return Estimate(quality, kept, total, low, high)


def by_part(shares: Mapping[str, float], block_of: Mapping[str, str]) -> dict[str, float]:
    """{layer or block: share} -> {layer: share} for every layer. A layer's own name wins over its block's; what is not named stays whole."""
    return {part: shares.get(part, shares.get(block, 0.0)) for part, block in block_of.items()}


def compact(shares: Mapping[str, float], block_of: Mapping[str, str]) -> dict[str, float]:
    """{layer: share} -> the shortest {layer or block: share} that means the same. Nothing is said of what stays whole."""
    members: dict[str, list[str]] = {}
    for part, block in block_of.items():
        members.setdefault(block, []).append(part)
    out: dict[str, float] = {}
    for block, parts in members.items():
        given = {part: shares.get(part, 0.0) for part in parts}
        if len(set(given.values())) == 1:
            given = {block: given[parts[0]]}
        out |= {unit: share for unit, share in given.items() if share}
    return out


def by_block(shares: Mapping[str, float], sizes: Mapping[str, int], block_of: Mapping[str, str]) -> dict[str, float]:
    """{layer: share} -> {block: share of its weights that goes}."""
    gone: dict[str, float] = {}
    whole: dict[str, int] = {}
    for part, block in block_of.items():
        gone[block] = gone.get(block, 0.0) + shares.get(part, 0.0) * sizes[part]
        whole[block] = whole.get(block, 0) + sizes[part]
    return {block: gone[block] / whole[block] if whole[block] else 0.0 for block in whole}


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


def away_from_mean(
    weight: Mapping[str, float], group_of: Mapping[str, str], sizes: Mapping[str, int], sparsity: float, spread: float
) -> dict[str, float]:
    """Shares to remove around `sparsity`, smaller where a unit's group has more of `weight` than the mean (weighted by size); the group farthest from it lies
    `spread` away. group_of: {unit: its group}. The total is met to the weight."""
    size: dict[str, int] = {}
    for unit in sizes:
        size[group_of[unit]] = size.get(group_of[unit], 0) + sizes[unit]
    mean = sum(weight[group] * size[group] for group in size) / max(sum(size.values()), 1)
    farthest = max(abs(weight[group] - mean) for group in size)
    scale = spread / farthest if farthest > 0 else 0.0
    shares = {unit: min(max(sparsity - scale * (weight[group_of[unit]] - mean), 0.0), 1.0) for unit in sizes}
    return exactly(shares, sizes, sparsity)
