"""What whole neurons and heads give back when they go: parameters, bytes, operations, key-value cache, and milliseconds on this machine.

The Budget room counts with these while a hand moves; a run with a budget in a cost counts with the same (`core.model.budgets.costing`). The milliseconds
are measured anew with every run of curves, and never kept by content: another machine, or this one with other threads, would say otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from core.cost import FALLS, Owed, Price
from core.errors import ModelError
from core.events import Progress, Watcher
from core.model.budgets.costing import figure, group_prices
from core.model.loading import LoadedModel
from core.model.units.groups import STRUCTURES, Group, unit_groups

TOKENS, LATENCY_TOKENS, REPEATS = 512, 128, 7


def unit_prices(loaded: LoadedModel, watcher: Watcher) -> dict[str, Any]:
    """{"latency": the dense model's, or None with `why_not`; structure: {"groups": [...]} or {"refused": a sentence}}.

    A group: its name, block, `units`, `most` of them that may go, what one of them takes off on average (`each`: {cost: figure}), and where a latency was
    measured `at` (units gone) with `off` (milliseconds taken off), straight lines between.
    """
    out: dict[str, Any] = {"latency": _dense(loaded, watcher)}
    for number, structure in enumerate(STRUCTURES):
        watcher.say(Progress("prices of units", number, len(STRUCTURES)))
        try:
            groups = unit_groups(loaded.model, loaded.anatomy.blocks, loaded.anatomy.family, structure)
            out[structure] = {"groups": _priced(loaded, structure, groups, out["latency"], watcher)}
        except ModelError as error:
            out[structure] = {"refused": error.problem}
    return out


def _dense(loaded: LoadedModel, watcher: Watcher) -> dict[str, Any]:
    protocol = _protocol(loaded, "latency")
    try:
        return {"ms": figure(loaded, Owed("latency", "neurons", 0.0, 0.0, protocol), watcher, "dense"), "protocol": protocol}
    except ModelError as error:
        return {"ms": None, "why_not": error.problem}


def _protocol(loaded: LoadedModel, cost: str) -> dict[str, Any]:
    if cost != "latency":
        return {"tokens": TOKENS, "batch": 1}
    return {"batch": 1, "tokens": min(LATENCY_TOKENS, loaded.anatomy.context or LATENCY_TOKENS), "repeats": REPEATS, "statistic": "lower quartile",
            "threads": torch.get_num_threads(), "device": str(loaded.device)}  # fmt: skip


def _priced(
    loaded: LoadedModel, structure: str, groups: Sequence[Group], dense: Mapping[str, Any], watcher: Watcher
) -> list[dict[str, Any]]:
    prices: dict[str, dict[str, Price]] = {}
    for cost in FALLS[structure]:
        if cost == "latency" and dense["ms"] is None:
            continue
        try:
            asked = Owed(cost, structure, dense["ms"] if cost == "latency" else 0.0, 0.0, _protocol(loaded, cost))
            prices[cost] = group_prices(loaded, groups, asked, watcher)
        except ModelError as error:  # a model without a cache has no price in it
            watcher.say(Progress("prices of units", kind="note", text=f"No price of {structure} in {cost}: {error.problem}"))
    blocks, rows = {block.index: block.name for block in loaded.anatomy.blocks}, []
    for group in groups:
        each = {cost: of[group.name].each for cost, of in prices.items() if cost != "latency"}
        row = {"name": group.name, "block": blocks[group.block], "units": group.units, "most": group.units - 1, "each": each}
        if "latency" in prices:
            curve = prices["latency"][group.name]
            row |= {"at": list(curve.at), "off": [round(ms, 6) for ms in curve.off]}
        rows.append(row)
    return rows
