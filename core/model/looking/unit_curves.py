"""Cost curves of whole neurons or heads: what a block's output loses without some of its units, and the measurements that turn that into a prediction.

The way of `curves.py`, a block's units in the place of a layer's weights: the local error of the layer that reads them at several shares, from one pass;
each block's units alone, by divergence; a few budgets of the whole model, by their loss too; one fit (`core.prediction`). Units are chosen by the dense
model's scores and silenced: the layer that reads them is given zeros there, which is what cutting them out does to its output. No weight changes.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from math import ceil, floor
from typing import Any

from torch import Tensor

from core import prediction
from core.errors import RecipeError
from core.events import Progress, Watcher
from core.method import Method, get
from core.model import blocks
from core.model.depth.bypass import Unit, answer_in_tuples, bypassed, starting_at
from core.model.gradients import gradients_of
from core.model.loading import LoadedModel
from core.model.looking.meter import Meter
from core.model.measuring.quality import Check
from core.model.observe import matrix, observe_block, of_kind, stream
from core.model.pruning.scoring import output_error
from core.model.units.cutting import asked_of
from core.model.units.groups import Group, unit_groups
from core.model.units.scoring import observed, unit_scores
from core.prediction import Probe
from core.recipe import Curves
from kernels.masks import keep_highest

ERROR_LEVELS = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85)  # where units are many; where they are few, every share that there is
_MOST_LEVELS = 12
_TOTALS = (0.1, 0.5)  # whole-model budgets are drawn between these: a whole unit costs more than as many single weights
_AROUND = 0.2  # a block's share lies at most so far from its budget's total


def unit_curves(
    loaded: LoadedModel, ask: Curves, calibration: Tensor, seed: int, watcher: Watcher, check: Check
) -> dict[str, Any]:
    """Curves by block name for `core.budget`. Raises ModelError where this model has no such units, RecipeError where the criterion scores none."""
    method = get("score", ask.method)
    if ask.structure not in method.card.structures:
        raise RecipeError(f"{method.card.label} gives no scores of {ask.structure}.", "Choose another criterion, such as wanda.")
    found = unit_groups(loaded.model, loaded.anatomy.blocks, loaded.anatomy.family, ask.structure)
    groups = {loaded.anatomy.blocks[group.block].name: group for group in found if group.units > 1}
    levels = levels_of([group.units for group in groups.values()])
    scores, errors = _observed(loaded, method, groups, levels, calibration, seed, watcher)
    meter = Meter.of(check, watcher)
    bench = _Bench(loaded, groups, scores, meter, watcher)
    alone = bench.alone(sorted({level for level in ask.levels if 0 < level < 1}))
    together = bench.together(draw_budgets({name: group.units for name, group in groups.items()}, ask.together, seed))
    seen = {name: prediction.Layer(name, ask.structure, errors[name]) for name in groups}
    fit = prediction.fit(seen, (0.0, *levels), alone, (), together)
    return {"method": ask.method, "structure": ask.structure, "metric": check.metric, "dense": meter.dense, "levels": list(prediction.LEVELS),
            **asdict(fit), "protocol": check.protocol | {"budgets": len(together), "compared": meter.compared}, "super_weights": [],
            "measured": {"levels": [0.0, *levels], "errors": errors, "units": {name: group.units for name, group in groups.items()},
                         "alone": prediction.told(alone), "roles": [], "together": prediction.told(together)}}  # fmt: skip


def levels_of(units: Sequence[int]) -> tuple[float, ...]:
    """The shares at which local errors are measured: every one that whole units have, where these are few."""
    every = sorted({gone / count for count in units for gone in range(1, count)})
    return tuple(every) if len(every) <= _MOST_LEVELS else ERROR_LEVELS


def _observed(loaded: LoadedModel, method: Method, groups: Mapping[str, Group], levels: Sequence[float], calibration: Tensor, seed: int,
              watcher: Watcher) -> tuple[dict[str, Tensor], dict[str, tuple[float, ...]]]:  # fmt: skip
    """({block: scores of its units}, {block: relative output error without the least of them, at 0 and each level}), in one pass of the dense model."""
    gradients, names = gradients_of(loaded, [method], calibration, watcher), of_kind(method.needed(), "layer")
    scores, errors = {}, {}
    for block, module, hidden, extra in stream(loaded, calibration, watcher, "observe for curves"):
        group = groups.get(block.name)
        if group is None:
            blocks.advance(module, hidden, extra, watcher)
            continue
        reader = loaded.anatomy.by_path[group.reader.path]
        some = replace(block, layers=tuple(dict.fromkeys((*observed(loaded, method, [group]), reader))))
        seen = observe_block(loaded, some, module, hidden, extra, sorted({*names, "gram"}), watcher, keep_outputs=True)[0]
        known = {layer.name: seen[layer.name] | gradients.get(layer.name, {}) for layer in some.layers}
        scores[block.name] = unit_scores(loaded, group, method, {}, known, seed).cpu()
        errors[block.name] = (0.0, *_errors(loaded, group, scores[block.name], known[reader.name]["gram"], levels))
    return scores, errors


def _errors(loaded: LoadedModel, group: Group, scores: Tensor, gram: Tensor, levels: Sequence[float]) -> list[float]:
    """At each share; between two whole numbers of units on a straight line."""
    layer = loaded.anatomy.by_path[group.reader.path]
    weight, at = matrix(layer, loaded.module(layer.path).weight.detach()).float(), {}
    for gone in {min(count, group.units - 1) for level in levels for count in _around(level * group.units)}:
        less = weight.clone()
        less[:, _columns(group, scores, gone).to(weight.device)] = 0.0
        at[gone] = output_error(weight, less, gram)
    told = []
    for level in levels:
        low, high = (min(count, group.units - 1) for count in _around(level * group.units))
        part = min(level * group.units - low, 1.0)
        told.append(at[low] + (at[high] - at[low]) * part)
    return told


def _around(units: float) -> tuple[int, int]:
    return floor(units + 1e-9), ceil(units - 1e-9)


def _columns(group: Group, scores: Tensor, gone: int) -> Tensor:
    """The columns of the reading layer that are the least units'."""
    keep = keep_highest(scores[None], gone)[0].cpu()
    return group.reader.index[~keep].flatten()


@dataclass
class _Bench:
    """A model of which some units are silent for the length of a `with`."""

    loaded: LoadedModel
    groups: Mapping[str, Group]
    scores: Mapping[str, Tensor]
    meter: Meter
    watcher: Watcher

    def alone(self, levels: Sequence[float]) -> list[Probe]:
        """Each block's units alone, by divergence. The text waits at the entrance of the block, so only the rest of the model runs."""
        loaded, inputs, probes = self.loaded, self.meter.check.inputs, []
        states, extras = blocks.enter(loaded, inputs, batch=self.meter.check.batch), blocks.arguments(loaded, inputs)
        in_tuples, at = answer_in_tuples(loaded, states, extras), 0
        for done, (name, group) in enumerate(self.groups.items()):
            self.watcher.say(Progress("curves: parts alone", done, len(self.groups)))
            while at < group.block:
                with loaded.block(at) as module:
                    blocks.advance(module, states, extras[at], self.watcher)
                at += 1
            for share in sorted({asked_of(group.units, level) / group.units for level in levels} - {0.0}):
                with self._without({name: share}), starting_at(loaded, at, states, in_tuples):
                    probes.append(Probe({name: share}, *self.meter.read(self.watcher)))
        return probes

    def together(self, budgets: Sequence[Mapping[str, float]]) -> list[Probe]:
        """Budgets of the whole model, by their divergence and their loss."""
        probes = []
        for done, shares in enumerate(budgets):
            self.watcher.say(Progress("curves: whole budgets", done, len(budgets)))
            with self._without(shares):
                probes.append(Probe(shares, *self.meter.read(self.watcher, loss=True)))
        return probes

    def _without(self, shares: Mapping[str, float]) -> AbstractContextManager[None]:
        silent = []
        for name, share in shares.items():
            group = self.groups[name]
            if gone := asked_of(group.units, share):
                columns = {group.reader.path: _columns(group, self.scores[name], gone)}
                silent.append(Unit(group.name, group.block, self.loaded.anatomy.blocks[group.block].path, 0, silent=columns))
        return bypassed(self.loaded, silent)


def draw_budgets(units: Mapping[str, int], count: int, seed: int | str) -> list[dict[str, float]]:
    """Budgets of whole units, {block: share}, totals evenly between 10 and 50 %: by turns all blocks alike and each drawn around the total.

    What a share asks beyond a whole number of units is a matter of chance, so that few units meet the total on average too; one stays in each block.
    """
    chance, (low, high) = random.Random(f"units {seed}"), _TOTALS
    budgets = []
    for place in range(count):
        total, around = low + (high - low) * (place + 0.5) / count, _AROUND if place % 2 else 0.0
        shares = {name: total + chance.uniform(-around, around) for name in units}
        gone = {
            name: min(floor(max(share, 0.0) * units[name] + chance.random()), units[name] - 1) for name, share in shares.items()
        }
        budgets.append({name: number / units[name] for name, number in gone.items()})
    return budgets
