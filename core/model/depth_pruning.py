"""Whole blocks out, or the attention and MLP of blocks: scored in the dense model, or found by trying."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from core.errors import ModelError, RecipeError
from core.events import Watcher
from core.method import Method
from core.model.bypass import Unit, block_units
from core.model.choosing import chosen_units, removed_by_hand
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
    loaded: LoadedModel, step: Prune, method: Method, inputs: Callable[[], Tensor], seed: int, watcher: Watcher
) -> Pruned:
    """Take out the blocks or sub-layers that score lowest in the dense model, that a search found, or that were named by hand."""
    whole = step.structure == "blocks"
    units = block_units(loaded) if whole else sublayer_units(loaded)
    paths = {name: next(iter(unit.gone), unit.path) for name, unit in units.items()}
    allowed = chosen_units(paths, "block" if whole else "sub-layer", step.only, step.protect)
    scores: dict[str, float] = {}
    said: dict[str, Any] = {}
    if step.allocation.method == "by_hand":
        named = removed_by_hand(step.allocation.shares, {name: unit.block for name, unit in units.items()})
        order = [name for name in named if name in allowed]
    elif method.card.kind == "search":
        order, scores, said = _searched(loaded, step, method, units, allowed, inputs, seed, watcher)
    else:
        scores = _block_scores(loaded, step, method, inputs, seed, watcher) if whole else _lots(units, step, method, seed)
        order = sorted(allowed, key=lambda name: (scores[name], list(units).index(name)))[: _count(step, units, allowed)]
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


def _count(step: Prune, units: Mapping[str, Unit], allowed: Sequence[str]) -> int:
    """How many units the step asks for: the nearest to its share of all, at least one kept."""
    return min(nearest(step.sparsity * len(units)), len(units) - 1, len(allowed))


def _searched(loaded: LoadedModel, step: Prune, method: Method, units: Mapping[str, Unit], allowed: Sequence[str],
              inputs: Callable[[], Tensor], seed: int, watcher: Watcher) -> tuple[list[str], dict[str, float], dict[str, Any]]:  # fmt: skip
    """(names in the order of removal, {unit: loss with it alone gone} where tried, what the report says of the search)."""
    given: dict[str, Any] = {
        "units": tuple(allowed), "sizes": {name: unit.parameters for name, unit in units.items()}, "count": _count(step, units, allowed),
        "share": step.sparsity, "generator": generator(seed, "search"), "watcher": watcher,
        "last_states": lambda: last_states(loaded, inputs(), watcher),
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
