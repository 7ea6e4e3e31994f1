"""Whole neurons, attention heads and channels out: score -> allocate -> decide -> cut.

Where the units of each block are its own, block by block, with the cut model's activations propagated. Where groups cross blocks or share layers
(channels), or the model does something of its own between blocks: all scored on the dense model, all decided, then all cut.
Gradients, where a method asks for them, are those of the dense model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from core.cost import Price
from core.errors import ModelError, RecipeError
from core.events import follow
from core.method import get
from core.model import blocks
from core.model.anatomy import read_anatomy
from core.model.budgets.asked import Asked
from core.model.budgets.costing import group_prices
from core.model.budgets.fitness import trying, unit_masks
from core.model.gradients import gradient_statistics
from core.model.loading import LoadedModel
from core.model.masks import nearest
from core.model.measuring.counts import check_in_memory
from core.model.observe import matrix, observe_block, observe_whole, of_kind, stream
from core.model.pruning.choosing import chosen_groups, units_by_hand
from core.model.pruning.pruned import Pruned, UnitCut
from core.model.pruning.scoring import criterion, output_error
from core.model.pruning.task import Task
from core.model.units.channels import channel_groups
from core.model.units.cutting import Found, asked_of, cut_out, decided, make_up
from core.model.units.groups import CHANNELS, Group, unit_groups
from core.model.units.scoring import Statistics, observed, unit_scores
from core.model.width.rehearse import rehearse, rehearse_together
from core.model.width.widths import settle


def prune_units(task: Task) -> Pruned:
    """Carry out a step for neurons, heads or channels on the model in memory: what goes is really gone, and the config says so."""
    loaded, step = task.loaded, task.step
    groups = chosen_groups(_all_groups(loaded, step.structure), loaded.anatomy, step)
    if step.structure == CHANNELS:
        check_in_memory(loaded)
        rehearse_together(loaded, groups)
    else:
        rehearse_each_kind(loaded, groups)
    work = _Work(task, groups, _gradients(task, groups), Found(step, task.method))
    if step.structure == CHANNELS or (loaded.anatomy.kind == "image_classifier" and not loaded.anatomy.hidden):
        _prune_together(work)
    else:
        _prune_by_block(work, _shares(work, lambda: _dense_scores(work)))
    settle(loaded.model)
    work.found.note_spared(task.watcher)
    return work.found.pruned(replace(loaded, anatomy=read_anatomy(loaded.model)))


def _all_groups(loaded: LoadedModel, structure: str) -> tuple[Group, ...]:
    if structure == CHANNELS:
        return channel_groups(loaded)
    return unit_groups(loaded.model, loaded.anatomy.blocks, loaded.anatomy.family, structure)


@dataclass(frozen=True)
class _Work:
    """A step under way."""

    task: Task
    groups: Sequence[Group]
    gradients: Statistics  # of the dense model
    found: Found

    @property
    def needs(self) -> tuple[str, ...]:
        """Statistics of layers' inputs that the method asks for."""
        return of_kind(self.task.method.needed(self.task.step.params), "layer", "block")

    def known(self, statistics: Statistics) -> Statistics:
        """Statistics of inputs, and those of gradients beside them."""
        return {name: {**statistics.get(name, {}), **self.gradients.get(name, {})} for name in {*statistics, *self.gradients}}

    def scores(self, group: Group, statistics: Statistics) -> Tensor:
        """Of the units of a group; a solver has none, so Wanda's stand in where an allocator asks."""
        method, params = criterion(self.task.method, self.task.step.params)
        return unit_scores(self.task.loaded, group, method, params, self.known(statistics), self.task.seed)


def rehearse_each_kind(loaded: LoadedModel, groups: Sequence[Group]) -> None:
    """Try the cut on one block of each class, before anything changes."""
    kinds = {type(loaded.module(loaded.anatomy.blocks[group.block].path)): group for group in groups if group.units > 1}
    for group in kinds.values():
        rehearse(loaded, group)


def _gradients(task: Task, groups: Sequence[Group]) -> Statistics:
    """What the method asks of gradients, of the layers that the groups run through."""
    names = of_kind(task.method.needed(task.step.params), "gradient")
    paths = {part.path for group in groups for part in group.everything}
    layers = [layer for layer in task.loaded.anatomy.layers if layer.path in paths]
    return gradient_statistics(task.loaded, layers, names, task.inputs, task.watcher)


def _shares(work: _Work, scores: Callable[[], Mapping[str, Tensor]]) -> dict[str, float]:
    """Allocate: the share of its units that each group gives. scores(): {group name: a score for each unit}, where the allocator asks."""
    task, loaded, step, watcher = work.task, work.task.loaded, work.task.step, work.task.watcher
    if step.allocation.method == "by_hand":
        return units_by_hand(step.allocation.shares, loaded.anatomy, work.groups)
    allocator = get("allocator", step.allocation.method)
    sizes = {group.name: group.units for group in work.groups}
    asked = Asked(step, task.owed, sizes)
    asked.priced(
        group_prices(loaded, work.groups, task.owed, watcher)
        if task.owed
        else {name: Price.linear(n, 1.0, n - 1) for name, n in sizes.items()}
    )
    known = scores() if "scores" in allocator.needs else {}
    given = {"sizes": sizes, "scores": known.__getitem__, "watcher": watcher, "generator": task.generator("allocate")}
    if figures := of_kind(allocator.needs, "block"):
        given |= {"blocks": {group.name: f"blocks.{group.block}" for group in work.groups}, **_block_figures(task, figures)}
    if "fitness" not in allocator.needs:
        return asked.spread(allocator, given)
    with trying(loaded, unit_masks(loaded, work.groups, known), task.inputs(), watcher) as fitness:
        return asked.spread(allocator, given | {"fitness": fitness, "sequences": fitness.sequences})


def _block_figures(task: Task, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """{statistic of blocks: {block name: its value}} of the dense model, in one pass."""
    found: dict[str, dict[str, float]] = {name: {} for name in names}
    for block, module, hidden, extra in stream(task.loaded, task.inputs(), task.watcher, "observe"):
        part = replace(block, layers=())
        for name, value in observe_block(task.loaded, part, module, hidden, extra, names, task.watcher, keep_outputs=True)[
            1
        ].items():
            found[name][block.name] = float(value)
    return found


def _dense_scores(work: _Work) -> dict[str, Tensor]:
    """{group name: a score for each unit} of the model as it stands, block by block, for one ranking over all of them."""
    task = work.task
    method, params = criterion(task.method, task.step.params)
    names, statistics = of_kind(method.needed(params), "layer", "block"), {}
    if names:
        for block, module, hidden, extra in stream(task.loaded, task.inputs(), task.watcher, "observe"):
            seen = observed(task.loaded, method, [group for group in work.groups if group.block == block.index])
            part = replace(block, layers=seen)
            statistics |= observe_block(task.loaded, part, module, hidden, extra, names, task.watcher, keep_outputs=True)[0]
    return {group.name: work.scores(group, statistics).cpu() for group in work.groups}


def _prune_by_block(work: _Work, shares: Mapping[str, float]) -> None:
    """Each block: observe it dense, cut its units, run it again cut to feed the next one."""
    task, loaded, watcher = work.task, work.task.loaded, work.task.watcher
    if not work.needs:
        for group in follow(work.groups, task.stage, watcher):
            _prune_group(work, group, shares[group.name], {})
        return
    by_block = {group.block: group for group in work.groups}
    last = max(by_block)
    for block, module, hidden, extra in stream(loaded, task.inputs(), watcher, task.stage):
        if block.index > last:
            continue
        group = by_block.get(block.index)
        if group is not None:
            part = replace(block, layers=observed(loaded, task.method, [group]))
            statistics = observe_block(loaded, part, module, hidden, extra, work.needs, watcher)[0]
            _prune_group(work, group, shares[group.name], statistics)
        if block.index < last:
            blocks.advance(module, hidden, extra, watcher)


def _prune_group(work: _Work, group: Group, share: float, statistics: Statistics) -> None:
    loaded = work.task.loaded
    if work.task.method.card.kind == "solver":
        done = _solved(work, group, share, statistics)
    else:
        scores = work.scores(group, statistics)
        done = work.found.add(loaded, group, decided(scores, share, work.found.ceiling), share, scores)
    if work.found.adds_bias and not done.keep.all():
        make_up(loaded, group, done.keep, statistics)
    cut_out(loaded, done)


def _solved(work: _Work, group: Group, share: float, statistics: Statistics) -> UnitCut:
    """A solver says which go, and rewrites the layer that reads those that stay."""
    task, loaded, count = work.task, work.task.loaded, asked_of(group.units, share)
    if not count:
        return work.found.add(loaded, group, torch.ones(group.units, dtype=torch.bool), share, None, 0.0)
    reader = loaded.anatomy.by_path[group.reader.path]
    known, weight = work.known(statistics).get(reader.name, {}), loaded.module(reader.path).weight
    task.will_write(weight)
    flat = matrix(reader, weight.data)
    before = flat.float().clone()
    if not all(torch.isfinite(value).all() for value in (before, *known.values())):
        raise ModelError(
            f"The weights of {reader.name} or what it reads are not all numbers.",
            "Check the model's weights and the calibration text.",
        )
    given = {
        "weight": before.clone(),
        "index": group.reader.index,
        "count": count,
        "share": share,
        "watcher": task.watcher,
        **known,
    }
    after, keep = task.method(given, task.step.params)
    keep = keep.cpu()
    gone = group.reader.index[~keep].flatten().to(after.device)
    after = after.index_fill(1, gone, 0.0).masked_fill(before == 0, 0.0)  # earlier zeros stay
    with torch.no_grad():
        flat.copy_(after)
    error = output_error(before, after, known["gram"]) if "gram" in known else None
    return work.found.add(loaded, group, keep, share, None, error)


def _prune_together(work: _Work) -> None:
    """Observe the dense model once, score and decide all groups, then cut: a layer may lose rows of one group and columns of another."""
    task, loaded, watcher = work.task, work.task.loaded, work.task.watcher
    if task.method.card.kind == "solver":
        raise ModelError(
            f"{task.method.card.label} goes block by block, and {type(loaded.model).__name__} does something of its own between its blocks.",
            "Choose a method that scores units, such as magnitude or FLAP.",
        )
    seen = observed(loaded, task.method, work.groups)
    statistics = observe_whole(loaded, seen, task.inputs(), work.needs, watcher, task.stage) if work.needs else {}
    scores = {group.name: work.scores(group, statistics).cpu() for group in work.groups}
    shares = _shares(work, lambda: scores)
    for group in work.groups:
        _check_share(group, shares[group.name])
    for group in follow(work.groups, task.stage, watcher):
        share = shares[group.name]
        work.found.add(loaded, group, decided(scores[group.name], share, work.found.ceiling), share, scores[group.name])
    for done in work.found.cuts if work.found.adds_bias else ():
        make_up(loaded, done.group, done.keep, statistics)
    for done in work.found.cuts:
        cut_out(loaded, done)


def _check_share(group: Group, share: float) -> None:
    if group.units > 1 and nearest(share * group.units) == group.units:
        raise RecipeError(
            f"A share of {share:g} takes all {group.units} {group.structure} of {group.name}, and nothing would come through.",
            f"Ask for at most {(group.units - 1) / group.units:.3g} there, or protect it.",
        )
