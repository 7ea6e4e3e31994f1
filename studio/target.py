"""What the share to remove is a share of: the units that go, or what the model costs. Pure: no screen in here."""

from __future__ import annotations

from math import isfinite, nan
from typing import Any

from core.cost import COSTS, FALLS
from core.errors import RecipeError

SHARE = "share"
LABELS = {
    "parameters": "The model's parameters",
    "bytes": "Its bytes on disk",
    "flops": "Its FLOPs a token (image)",
    "kv_bytes": "Its key-value cache",
    "latency": "Its latency, measured here",
}
_LESS = {"parameters": "fewer", "bytes": "fewer", "flops": "fewer", "kv_bytes": "fewer", "latency": "shorter"}


def choices(structure: str) -> list[tuple[str, str]]:
    """(words, value): the share of what goes, and the costs that fall when this structure goes."""
    return [("What goes", SHARE), *((LABELS[cost], cost) for cost in FALLS.get(structure, ()))]


def slider_label(cost: str) -> str:
    return "Share to remove (%)" if cost == SHARE else f"To take off {LABELS[cost][0].lower()}{LABELS[cost][1:]} (%)"


def limit_label(cost: str) -> str:
    """Words for the figure that may be left, in the unit in which people say it."""
    unit = {"bytes": "MB", "flops": "millions", "kv_bytes": "MB for 512 tokens", "latency": "ms for 128 tokens"}.get(
        cost, "parameters"
    )
    return f"… or leave at most ({unit})"


def limit(text: str) -> float | None:
    """The figure that a person typed, None where there is none. Raises RecipeError."""
    if not text.strip():
        return None
    try:
        value = float(text.replace(",", "").replace(" ", ""))
    except ValueError:
        value = nan
    if not (isfinite(value) and value > 0):
        raise RecipeError(f"What may be left must be a number above 0, not {text[:20]!r}.", "Correct it, or empty that box.")
    return value


def budget(cost: str, sparsity: float, at_most: float | None) -> dict[str, Any]:
    """The recipe's budget. at_most: in people's unit; where it is given, the share is not used."""
    if at_most is not None:
        return {"cost": cost, "at_most": at_most * COSTS[cost][2]}
    return {"cost": cost, "remove": sparsity}


def words(cost: str, remove: float | None, at_most: float | None) -> str:
    """Until when units go, in words: until the bytes on disk are 20 % fewer."""
    what, unit, scale = COSTS[cost]
    verb = "is" if cost == "latency" else "are"
    if at_most is not None:
        figure = f"{at_most / scale:,.4g} {unit.split()[0]}" if cost not in ("parameters",) else f"{at_most:,.0f}"
        return f"until the {what} {verb} at most {figure}"
    return f"until the {what} {verb} {100 * (remove or 0):.3g} % {_LESS[cost]}"


def short(cost: str, remove: float | None, at_most: float | None) -> str:
    """For a table of runs: flops -20 %, latency <= 12.5 ms."""
    if at_most is not None:
        _, unit, scale = COSTS[cost]
        return f"{cost} ≤ {at_most / scale:,.4g} {unit.split()[0]}"
    return f"{cost} −{100 * (remove or 0):.3g} %"
