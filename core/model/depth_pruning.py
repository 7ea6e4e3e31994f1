"""Whole blocks out, or the attention and MLP of blocks: scored in the dense model, or found by trying."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from itertools import accumulate
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from core.cost import Owed, units_needed
from core.errors import ModelError, RecipeError
from core.events import Watcher
from core.method import Method
from core.model.bypass import Unit, block_units
from core.model.choosing import chosen_units, removed_by_hand
from core.model.costing import depth_costs
from core.model.loading import LoadedModel
from core.model.masks import generator, nearest
from core.model.observe import have, observe_block, statistics_of, stream
from core.model.pruned import Pruned
from core.model.sublayers import remove_sublayers, sublayer_units
from core.model.surgery import remove_blocks
from core.model.trials import Trials, last_states, open_trials
from core.recipe import Prune
from core.report import LayerRow

_TRIED = ("evaluate", "evaluate_each")


def prune_depth(
    loaded: LoadedModel,
    step: Prune,
    method: Method,
    inputs: Callable[[], Tensor],
    seed: int,
    watcher: Watcher,
    owed: Owed | None = None,
) -> Pruned:
    """Take out the blocks or sub-layers that score lowest in the dense model, that a search found, or that were named by hand. owed: the step's budget."""
    whole = step.structure == "blocks"
    units = block_units(loaded) if whole else sublayer_units(loaded)
    paths = {name: next(iter(unit.gone), unit.path) for name, unit in units.items()}
    allowed = chosen_units(paths, "block" if whole else "sub-layer", step.only, step.protect)
    amount = _amount(loaded, step, units, allowed, owed, watcher)
    scores: dict[str, float] = {}
    said: dict[str, Any] = {}
    if step.allocation.method == "by_hand":
        named = removed_by_hand(step.allocation.shares, {name: unit.block for name, unit in units.items()})
        order = [name for name in named if name in allowed]
    elif method.card.kind == "search":
        order, scores, said = _searched(loaded, step, method, units, allowed, amount, inputs, seed, watcher)
    else:
        scores = _block_scores(loaded, step, method, inputs, seed, watcher) if whole else _lots(units, step, method, seed)
        order = amount.first(sorted(allowed, key=lambda name: (scores[name], list(units).index(name))))
    return _removed(loaded, step, units, order, scores, said)


def _removed(loaded: LoadedModel, step: Prune, units: Mapping[str, Unit], order: Sequence[str], scores: Mapping[str, float],
             said: Mapping[str, Any]) -> Pruned:  # fmt: skip
    """Take them out, and write down what was done."""
    if len(order) >= len(units):
        raise ModelError(f"All {len(units)} {step.structure} would go.", "Keep at least one.")
    rows = tuple(_row(unit, float(unit.name in order), scores.get(unit.name)) for unit in units.values())
    summary = {step.structure: torch.tensor([scores[name] for name in units])} if scores.keys() == units.keys() else {}
    said = {"removed_in_order": list(order), **said}
    if step.structure == "blocks":
        gone = tuple(sorted(units[name].block for name in order))
        return Pruned(remove_blocks(loaded, gone), {}, gone, rows, summary, said)
    left = remove_sublayers(loaded, [units[name] for name in order])
    parts = tuple((units[name].block, name.rpartition(".")[2]) for name in units if name in order)
    return Pruned(left, {}, (), rows, summary, said, parts)


def _lots(units: Mapping[str, Unit], step: Prune, method: Method, seed: int) -> dict[str, float]:
    """{sub-layer: score} of a method that looks at nothing but the name."""
    if method.needs:
        raise RecipeError(
            f"{step.method} needs {', '.join(sorted(method.needs))}, which is not collected of sub-layers.",
            "Use block_pruner, or structure: blocks.",
        )
    return {name: float(method(have(None, (), generator(seed, name), {}), step.params)) for name in units}


def needs_loss(method: Method) -> bool:
    """Whether a search tries what the model loses, so that the model must predict a next token."""
    return method.card.kind == "search" and any(name in signature(method.function).parameters for name in _TRIED)


@dataclass(frozen=True)
class _Amount:
    """How much goes: `count` units, or (with a budget) units whose `costs` add up to `owed`. share: of all units, or of the costs of all."""

    count: int
    share: float
    costs: Mapping[str, float]
    owed: float | None = None

    def first(self, ranked: Sequence[str]) -> list[str]:
        """Those that go, of units in the order in which they may."""
        if self.owed is None:
            return list(ranked[: self.count])
        total = list(accumulate(self.costs[name] for name in ranked))
        return list(ranked[: sum(before < self.owed * (1 - 1e-9) for before in (0.0, *total[:-1]))])


def _amount(
    loaded: LoadedModel, step: Prune, units: Mapping[str, Unit], allowed: Sequence[str], owed: Owed | None, watcher: Watcher
) -> _Amount:
    """The nearest number to the step's share of all units, at least one kept; or what meets its budget. Raises RecipeError where nothing does."""
    sizes = {name: unit.parameters for name, unit in units.items()}
    if owed is None:
        share = step.sparsity or 0.0  # left out where blocks are named by hand
        return _Amount(min(nearest(share * len(units)), len(units) - 1, len(allowed)), share, sizes)
    costs = depth_costs(loaded, units.values(), owed, watcher)
    may = sorted((costs[name] for name in allowed), reverse=True)[: len(units) - 1]
    owed.check(sum(may))
    share = owed.amount / max(sum(costs.values()), owed.amount)
    return _Amount(min(units_needed(may, owed.amount), len(may)), share, costs, owed.amount)


def _searched(loaded: LoadedModel, step: Prune, method: Method, units: Mapping[str, Unit], allowed: Sequence[str], amount: _Amount,
              inputs: Callable[[], Tensor], seed: int, watcher: Watcher) -> tuple[list[str], dict[str, float], dict[str, Any]]:  # fmt: skip
    """(names in the order of removal, {unit: loss with it alone gone} where tried, what the report says of the search)."""
    given: dict[str, Any] = {
        "units": tuple(allowed), "sizes": amount.costs, "count": amount.count, "share": amount.share, "generator": generator(seed, "search"),
        "watcher": watcher, "last_states": lambda: last_states(loaded, inputs(), watcher),
    }  # fmt: skip
    trials: Trials | None = None
    if needs_loss(method):
        trials = open_trials(loaded, units, inputs(), watcher)
        given |= {"evaluate": trials.evaluate, "evaluate_each": trials.evaluate_each}
    order = [str(name) for name in method(given, step.params)]
    if len(set(order)) != len(order) or not set(order) <= set(allowed) or len(order) >= len(units):
        raise ModelError(
            f"{step.method} found something that cannot be removed: {', '.join(order)[:120]}.",
            "This is a fault of the search; use another.",
        )
    if trials is None:
        return order, {}, {}
    alone = {name: trials.losses[frozenset({name})] for name in units if frozenset({name}) in trials.losses}
    after = [trials.losses.get(frozenset(order[: place + 1])) for place in range(len(order))]
    return order, alone, {"dense_loss": trials.losses[frozenset()], "loss_after_each": after, "evaluations": len(trials.losses)}


def _block_scores(
    loaded: LoadedModel, step: Prune, method: Method, inputs: Callable[[], Tensor], seed: int, watcher: Watcher
) -> dict[str, float]:
    """{block name: score} from one dense pass, or from no pass where the method needs none."""
    names = statistics_of([method])
    statistics: dict[str, dict[str, Tensor]] = {block.name: {} for block in loaded.anatomy.blocks}
    if names:
        for block, module, hidden, extra in stream(loaded, inputs(), watcher, "observe"):
            statistics[block.name] = observe_block(loaded, block, module, hidden, extra, names, watcher, keep_outputs=True)[1]
    return {
        block.name: float(method(have(None, (), generator(seed, block.name), statistics[block.name]), step.params))
        for block in loaded.anatomy.blocks
    }


def _row(unit: Unit, removed: float, score: float | None) -> LayerRow:
    finite = score if score is not None and isfinite(score) else None
    return LayerRow(unit.name, unit.block, (), unit.parameters, removed, removed, finite)
