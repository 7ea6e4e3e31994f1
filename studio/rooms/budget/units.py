"""Targets for whole neurons and heads: the same share in every unlocked block, by the arithmetic of runs with a budget in a cost (`core.cost`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from core.budget import HIGHEST_SHARE, by_part, estimate
from core.cost import Price, Prices, meet, most_removed, removed, said, whole
from core.errors import RecipeError
from core.frontier import ladder, smallest_model
from studio.known import Units, gone_of

if TYPE_CHECKING:
    from studio.rooms.budget.equaliser import Known

UNTIMED = (
    "Latency has not been measured on this machine yet: press Measure curves, which times a block with and without its units."
)


def solved(kind: str, wish: float, structure: str, has: Known, shut: Mapping[str, float]) -> tuple[dict[str, float] | None, str]:
    """(shares of layers or None, a sentence). kind: size | quality | faster; shut: {locked layer: its share}. Raises RecipeError where nothing is known."""
    units = has.units.get(structure)
    if units is None or not units.groups:
        raise RecipeError(f"Nothing is known of this model's {structure}.", "Press Measure curves first.")
    fixed = _fixed(units, has, shut)
    if kind == "quality":
        return _of_quality(wish, structure, has, units, fixed)
    if kind == "faster" and units.dense_ms is None:
        return None, UNTIMED
    cost = "latency" if kind == "faster" else "bytes"
    now = float(units.dense_ms if kind == "faster" else (has.described or {})["size_bytes"])
    target = now / max(wish, 1e-9) if kind == "faster" else wish * 1e6
    prices = {block: price(group, cost) for block, group in units.groups.items()}
    free = {block: one for block, one in prices.items() if block not in fixed}
    owed = now - target - removed(fixed, {block: prices[block] for block in fixed})
    shares = _even(free, owed)
    left = now - removed(fixed | shares, prices)
    told = f"{said(cost, left)} of {said(cost, now)}" + (f", × {now / left:.2f}" if kind == "faster" else "")
    return by_part(shares | fixed, has.parts.block), _sentence(structure, said(cost, target), told, owed, most_removed(free))


def _fixed(units: Units, has: Known, shut: Mapping[str, float]) -> dict[str, float]:
    """{locked block: the share of its units that goes}; a block is locked where any of its layers is."""
    locked = {has.parts.block[part]: share for part, share in shut.items()}
    return {block: gone_of(group, locked[block]) / group["units"] for block, group in units.groups.items() if block in locked}


def _of_quality(
    wish: float, structure: str, has: Known, units: Units, fixed: Mapping[str, float]
) -> tuple[dict[str, float], str]:
    """The most units, block by block, while the predicted increase is at most so many percent."""
    curves, sizes = units.curves, units.parts.sizes
    if curves is None:
        raise RecipeError(
            f"Nobody has measured yet what removing {structure} costs.", f"Press Measure curves of {structure} first."
        )
    most = max(group["most"] / group["units"] for group in units.groups.values())
    found = smallest_model(curves, ladder(curves, sizes, fixed, min(most, HIGHEST_SHARE)), math.log1p(max(wish, 0.0) / 100))
    down = {
        block: min(math.floor(share * sizes[block] + 1e-6), units.groups[block]["most"]) for block, share in found.shares.items()
    }
    shares = {block: count / sizes[block] for block, count in down.items()}
    said = estimate(curves, sizes, shares)
    change = 100 * (said.quality / curves.dense - 1)
    told = f"{sum(down.values()):,} of {said.total:,} {structure} go, for {curves.metric} {change:+.1f} %, as predicted."
    if not (found.met and wish >= 0):
        told = f"{curves.metric.capitalize()} at most {wish:+g} % cannot be had; the nearest: {told}"
    return by_part(shares, has.parts.block), told


def price(group: Mapping[str, Any], cost: str) -> Price:
    """What a group of units takes off, as the curves' run observed it."""
    if cost == "latency":
        return Price(group["units"], group["most"], tuple(group["at"]), tuple(group["off"]))
    return Price.linear(group["units"], group["each"][cost], group["most"])


def _even(prices: Prices, owed: float) -> dict[str, float]:
    most = most_removed(prices)
    if owed <= 0 or most <= 0:
        return dict.fromkeys(prices, 0.0)
    wanted = min(owed, most)
    return whole(meet(lambda share: dict.fromkeys(prices, share), prices, wanted), prices, wanted)


def _sentence(structure: str, target: str, reached: str, owed: float, most: float) -> str:
    if owed <= 0:
        return f"Nothing more needs to go: that leaves {reached}."
    if owed > most * (1 + 1e-9):
        return (
            f"{target} cannot be reached by {structure} alone: the nearest is {reached}, by estimate (one stays in every block)."
        )
    return f"The same share of {structure} in every unlocked block leaves {reached}, by estimate from single blocks."
