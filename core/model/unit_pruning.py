"""Whole neurons and attention heads out: score -> allocate -> decide -> cut, block by block, with the cut model's activations propagated.

Gradients, where a method asks for them, are those of the dense model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from core.errors import ModelError
from core.events import Progress, Watcher, follow
from core.method import Method, get
from core.model import blocks
from core.model.anatomy import Layer, read_anatomy
from core.model.choosing import chosen_groups, units_by_hand
from core.model.gradients import gradient_statistics
from core.model.groups import Group, unit_groups
from core.model.loading import LoadedModel
from core.model.masks import nearest
from core.model.narrow import add_bias, cut
from core.model.observe import matrix, observe_block, of_kind, stream
from core.model.pruned import Pruned, UnitCut
from core.model.rehearse import rehearse
from core.model.scoring import criterion, output_error
from core.model.unit_scoring import Statistics, observed, unit_scores
from core.model.widths import settle
from core.recipe import Prune
from core.report import LayerRow
from kernels.masks import keep_highest


@dataclass
class _Work:
    """A step under way: what it was given (gradients of the dense model, by layer), what it has made."""

    loaded: LoadedModel
    step: Prune
    method: Method
    gradients: Statistics
    seed: int
    watcher: Watcher
    shares: Mapping[str, float] = field(default_factory=dict)
    rows: list[LayerRow] = field(default_factory=list)
    scores: dict[str, Tensor] = field(default_factory=dict)
    cuts: list[UnitCut] = field(default_factory=list)

    @property
    def needs(self) -> tuple[str, ...]:
        """Statistics of layers' inputs that the method asks for."""
        return of_kind(self.method.needed(self.step.params), "layer", "block")

    def known(self, statistics: Statistics) -> Statistics:
        """Statistics of inputs, and those of gradients beside them."""
        return {name: {**statistics.get(name, {}), **self.gradients.get(name, {})} for name in {*statistics, *self.gradients}}


def prune_units(
    loaded: LoadedModel, step: Prune, method: Method, inputs: Callable[[], Tensor], seed: int, watcher: Watcher
) -> Pruned:
    """Carry out a step for neurons or heads on the model in memory: what goes is really gone, and the config says so."""
    anatomy = loaded.anatomy
    groups = chosen_groups(unit_groups(loaded.model, anatomy.blocks, anatomy.family, step.structure), anatomy, step)
    rehearse_each_kind(loaded, groups)
    work = _Work(loaded, step, method, _gradients(loaded, step, method, groups, inputs, watcher), seed, watcher)
    work.shares = _shares(work, groups, inputs)
    if work.needs:
        _prune_streaming(work, groups, inputs())
    else:
        for group in follow(groups, f"prune: {step.method}", watcher):
            _prune_group(work, group, {})
    settle(loaded.model)
    _say_spared(work)
    return Pruned(
        replace(loaded, anatomy=read_anatomy(loaded.model)), rows=tuple(work.rows), scores=work.scores, cuts=tuple(work.cuts)
    )


def rehearse_each_kind(loaded: LoadedModel, groups: Sequence[Group]) -> None:
    """Try the cut on one block of each class, before anything changes."""
    kinds = {type(loaded.module(loaded.anatomy.blocks[group.block].path)): group for group in groups if group.units > 1}
    for group in kinds.values():
        rehearse(loaded, group)


def _gradients(loaded: LoadedModel, step: Prune, method: Method, groups: Sequence[Group], inputs: Callable[[], Tensor],
               watcher: Watcher) -> Statistics:  # fmt: skip
    """What the method asks of gradients, of the layers that the groups run through."""
    names = of_kind(method.needed(step.params), "gradient")
    paths = {part.path for group in groups for part in group.everything}
    return gradient_statistics(loaded, [layer for layer in loaded.anatomy.layers if layer.path in paths], names, inputs, watcher)


def _shares(work: _Work, groups: Sequence[Group], inputs: Callable[[], Tensor]) -> dict[str, float]:
    """Allocate: the share of its units that each group gives."""
    step = work.step
    if step.allocation.method == "by_hand":
        return units_by_hand(step.allocation.shares, work.loaded.anatomy, groups)
    allocator = get("allocator", step.allocation.method)
    given: dict[str, object] = {"sizes": {group.name: group.units for group in groups}, "sparsity": step.sparsity}
    if "scores" in allocator.needs:
        given["scores"] = _dense_scores(work, groups, inputs).__getitem__
    return allocator(given, step.allocation.params)


def _dense_scores(work: _Work, groups: Sequence[Group], inputs: Callable[[], Tensor]) -> dict[str, Tensor]:
    """{group name: a score for each unit} of the model as it stands, for one ranking over all of them. A solver has none: Wanda's stand in."""
    loaded, step = work.loaded, work.step
    method, params = criterion(work.method, step.params)
    names, statistics = of_kind(method.needed(params), "layer", "block"), {}
    if names:
        for block, module, hidden, extra in stream(loaded, inputs(), work.watcher, "observe"):
            layers = tuple(
                layer for group in groups if group.block == block.index for layer in observed(method, block.layers, group)
            )
            part = replace(block, layers=layers)
            statistics |= observe_block(loaded, part, module, hidden, extra, names, work.watcher, keep_outputs=True)[0]
    known = work.known(statistics)
    return {group.name: unit_scores(loaded, group, method, params, known, work.seed).cpu() for group in groups}


def _prune_streaming(work: _Work, groups: Sequence[Group], inputs: Tensor) -> None:
    """Each block: observe it dense, cut its units, run it again cut to feed the next one."""
    loaded, watcher = work.loaded, work.watcher
    by_block = {group.block: group for group in groups}
    last = max(by_block)
    for block, module, hidden, extra in stream(loaded, inputs, watcher, f"prune: {work.step.method}"):
        if block.index > last:
            continue
        group = by_block.get(block.index)
        if group is not None:
            part = replace(block, layers=observed(work.method, block.layers, group))
            statistics = observe_block(loaded, part, module, hidden, extra, work.needs, watcher)[0]
            _prune_group(work, group, statistics)
        if block.index < last:
            blocks.advance(module, hidden, extra, watcher)


def _prune_group(work: _Work, group: Group, statistics: Statistics) -> None:
    """Decide which units of one group go, and cut them out."""
    loaded, step, method = work.loaded, work.step, work.method
    block, share = loaded.anatomy.blocks[group.block], work.shares[group.name]
    reader = next(layer for layer in block.layers if layer.path == group.reader.path)
    parameters = sum(layer.parameters for layer in block.layers if layer.path in {part.path for part in group.everything})
    count = min(nearest(share * group.units), group.units - 1)
    decide = _solved if method.card.kind == "solver" else _ranked
    keep, scores, error = decide(work, group, reader, count, work.known(statistics))
    if not keep.all():
        if method.card.adds_bias and _given(method, step, method.card.adds_bias):
            _make_up(loaded, group, reader, keep, statistics[reader.name]["input_mean"])
        cut(loaded.model, block, group, keep)
    reached, mean = int((~keep).sum()) / group.units, None if scores is None else float(scores.mean())
    work.rows.append(LayerRow(group.name, group.block, (group.units,), parameters, share, reached, mean, error))
    if scores is not None:
        work.scores[f"{group.name}.{group.structure}"] = scores.cpu()
    work.cuts.append(UnitCut(group, keep))


_Decision = tuple[Tensor, Tensor | None, float | None]  # kept (units,), the scores of a score, the output error of a solver


def _ranked(work: _Work, group: Group, reader: Layer, count: int, statistics: Statistics) -> _Decision:
    """The lowest go, except those above the method's ceiling, where it has one."""
    method, step = work.method, work.step
    scores = unit_scores(work.loaded, group, method, step.params, statistics, work.seed)
    keep = keep_highest(scores[None], count)[0].cpu()
    if method.card.spares_above:
        keep |= scores.cpu() > _given(method, step, method.card.spares_above)
    return keep, scores, None


def _solved(work: _Work, group: Group, reader: Layer, count: int, statistics: Statistics) -> _Decision:
    """A solver says which go, and rewrites the layer that reads those that stay."""
    known, module = statistics.get(reader.name, {}), work.loaded.module(reader.path)
    flat = matrix(reader, module.weight.data)
    before = flat.float().clone()
    if not count:
        return torch.ones(group.units, dtype=torch.bool), None, 0.0
    if not all(torch.isfinite(value).all() for value in (before, *known.values())):
        raise ModelError(
            f"The weights of {reader.name} or what it reads are not all numbers.",
            "Check the model's weights and the calibration text.",
        )
    given = {"weight": before.clone(), "index": group.reader.index, "count": count, "share": work.shares[group.name],
             "watcher": work.watcher, **known}  # fmt: skip
    after, keep = work.method(given, work.step.params)
    keep = keep.cpu()
    after = after.index_fill(1, group.reader.index[~keep].flatten().to(after.device), 0.0).masked_fill(
        before == 0, 0.0
    )  # earlier zeros stay
    with torch.no_grad():
        flat.copy_(after)
    return keep, None, output_error(before, after, known["gram"]) if "gram" in known else None


def _given(method: Method, step: Prune, name: str) -> object:
    """A parameter of the step, or its default."""
    return step.params.get(name, next(param.default for param in method.card.params if param.name == name))


def _say_spared(work: _Work) -> None:
    """Where a method spares units that the share asked for, say how many."""
    asked = sum(min(nearest(work.shares[cut.group.name] * cut.group.units), cut.group.units - 1) for cut in work.cuts)
    gone = sum(int((~cut.keep).sum()) for cut in work.cuts)
    if gone < asked:
        text = f"{gone:,} of the {asked:,} {work.step.structure} asked for went: the others are above {work.method.card.spares_above}."
        work.watcher.say(Progress(f"prune: {work.step.method}", kind="note", text=text))


def _make_up(loaded: LoadedModel, group: Group, reader: Layer, keep: Tensor, mean: Tensor) -> None:
    """Put what the units that go gave on average into the bias of the layer that read them."""
    module = loaded.module(reader.path)
    gone = group.reader.index[~keep].flatten().to(module.weight.device)
    weight = matrix(reader, module.weight.detach()).float()
    add_bias(module, weight[:, gone] @ mean.to(weight)[gone])
