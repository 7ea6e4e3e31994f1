"""Targets for whole neurons and heads: the same share in every unlocked block, by the arithmetic of runs with a budget in a cost (`core.cost`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from core.budget import by_part
from core.cost import Price, Prices, meet, most_removed, removed, said, whole
from core.errors import RecipeError

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
    if kind == "quality":
        return (
            None,
            f"Nothing predicts yet what removing {structure} does to the quality: choose a size or a speed, prune, and the run measures it.",
        )
    if kind == "faster" and units.dense_ms is None:
        return None, UNTIMED
    cost = "latency" if kind == "faster" else "bytes"
    now = float(units.dense_ms if kind == "faster" else (has.described or {})["size_bytes"])
    target = now / max(wish, 1e-9) if kind == "faster" else wish * 1e6
    prices = {block: price(group, cost) for block, group in units.groups.items()}
    locked = {has.parts.block[part]: share for part, share in shut.items()}
    fixed = {block: gone(prices[block], share) / prices[block].steps for block, share in locked.items() if block in prices}
    free = {block: one for block, one in prices.items() if block not in fixed}
    owed = now - target - removed(fixed, {block: prices[block] for block in fixed})
    shares = _even(free, owed)
    left = now - removed(fixed | shares, prices)
    told = f"{said(cost, left)} of {said(cost, now)}" + (f", × {now / left:.2f}" if kind == "faster" else "")
    return by_part(shares | fixed, has.parts.block), _sentence(structure, said(cost, target), told, owed, most_removed(free))


def price(group: Mapping[str, Any], cost: str) -> Price:
    """What a group of units takes off, as the curves' run observed it."""
    if cost == "latency":
        return Price(group["units"], group["most"], tuple(group["at"]), tuple(group["off"]))
    return Price.linear(group["units"], group["each"][cost], group["most"])


def gone(price: Price, share: float) -> int:
    """How many whole units a share asks for, as a run counts them (`core.model.units.cutting.asked_of`)."""
    return min(math.floor(share * price.steps + 0.5 + 1e-9), price.most)


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
