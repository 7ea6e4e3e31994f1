"""Whole blocks out, or the attention and MLP of blocks: scored in the dense model, or found by trying."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from itertools import accumulate
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from core.cost import units_needed
from core.errors import ModelError, RecipeError
from core.method import Method
from core.model.budgets.costing import depth_costs
from core.model.depth.bypass import Unit, block_units
from core.model.depth.sublayers import remove_sublayers, sublayer_units
from core.model.depth.surgery import remove_blocks
from core.model.depth.trials import Trials, last_states, open_trials
from core.model.loading import LoadedModel
from core.model.masks import nearest
from core.model.observe import have, observe_block, statistics_of, stream
from core.model.pruning.choosing import chosen_units, removed_by_hand
from core.model.pruning.pruned import Pruned
from core.model.pruning.task import Task
from core.recipe import Prune
from core.report import LayerRow

_TRIED = ("evaluate", "evaluate_each")


def prune_depth(task: Task) -> Pruned:
    """Take out the blocks or sub-layers that score lowest in the dense model, that a search found, or that were named by hand."""
    loaded, step = task.loaded, task.step
    whole = step.structure == "blocks"
    units = block_units(loaded) if whole else sublayer_units(loaded)
    paths = {name: next(iter(unit.gone), unit.path) for name, unit in units.items()}
    allowed = chosen_units(paths, "block" if whole else "sub-layer", step.only, step.protect)
    amount = _amount(task, units, allowed)
    scores: dict[str, float] = {}
    said: dict[str, Any] = {}
    if step.allocation.method == "by_hand":
        named = removed_by_hand(step.allocation.shares, {name: unit.block for name, unit in units.items()})
        order = [name for name in named if name in allowed]
    elif task.method.card.kind == "search":
        order, scores, said = _searched(task, units, allowed, amount)
    else:
        scores = _block_scores(task) if whole else _lots(task, units)
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


def _lots(task: Task, units: Mapping[str, Unit]) -> dict[str, float]:
    """{sub-layer: score} of a method that looks at nothing but the name."""
    method = task.method
    if method.needs:
        raise RecipeError(
            f"{task.step.method} needs {', '.join(sorted(method.needs))}, which is not collected of sub-layers.",
            "Use block_pruner, or structure: blocks.",
        )
    return {name: float(method(have(None, (), task.generator(name), {}), task.step.params)) for name in units}


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


def _amount(task: Task, units: Mapping[str, Unit], allowed: Sequence[str]) -> _Amount:
    """The nearest number to the step's share of all units, at least one kept; or what meets its budget. Raises RecipeError where nothing does."""
    sizes, owed = {name: unit.parameters for name, unit in units.items()}, task.owed
    if owed is None:
        share = task.step.sparsity or 0.0  # left out where blocks are named by hand
        return _Amount(min(nearest(share * len(units)), len(units) - 1, len(allowed)), share, sizes)
    costs = depth_costs(task.loaded, units.values(), owed, task.watcher)
    may = sorted((costs[name] for name in allowed), reverse=True)[: len(units) - 1]
    owed.check(sum(may))
    share = owed.amount / max(sum(costs.values()), owed.amount)
    return _Amount(min(units_needed(may, owed.amount), len(may)), share, costs, owed.amount)


def _searched(
    task: Task, units: Mapping[str, Unit], allowed: Sequence[str], amount: _Amount
) -> tuple[list[str], dict[str, float], dict[str, Any]]:
    """(names in the order of removal, {unit: loss with it alone gone} where tried, what the report says of the search)."""
    loaded, step, watcher = task.loaded, task.step, task.watcher
    given: dict[str, Any] = {
        "units": tuple(allowed), "sizes": amount.costs, "count": amount.count, "share": amount.share,
        "generator": task.generator("search"), "watcher": watcher, "last_states": lambda: last_states(loaded, task.inputs(), watcher),
    }  # fmt: skip
    trials: Trials | None = None
    if needs_loss(task.method):
        trials = open_trials(loaded, units, task.inputs(), watcher)
        given |= {"evaluate": trials.evaluate, "evaluate_each": trials.evaluate_each}
    order = [str(name) for name in task.method(given, step.params)]
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


def _block_scores(task: Task) -> dict[str, float]:
    """{block name: score} from one dense pass, or from no pass where the method needs none."""
    loaded, method, watcher = task.loaded, task.method, task.watcher
    names = statistics_of([method])
    statistics: dict[str, dict[str, Tensor]] = {block.name: {} for block in loaded.anatomy.blocks}
    if names:
        for block, module, hidden, extra in stream(loaded, task.inputs(), watcher, "observe"):
            statistics[block.name] = observe_block(loaded, block, module, hidden, extra, names, watcher, keep_outputs=True)[1]
    return {
        block.name: float(method(have(None, (), task.generator(block.name), statistics[block.name]), task.step.params))
        for block in loaded.anatomy.blocks
    }


def _row(unit: Unit, removed: float, score: float | None) -> LayerRow:
    finite = score if score is not None and isfinite(score) else None
    return LayerRow(unit.name, unit.block, (), unit.parameters, removed, removed, finite)
