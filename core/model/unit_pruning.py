"""Whole neurons and attention heads out: score -> allocate -> decide -> cut, block by block, with the cut model's activations propagated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from core.cost import Owed, Price
from core.errors import ModelError
from core.events import Watcher, follow
from core.method import Method, get
from core.model import blocks
from core.model.anatomy import Block, Layer, read_anatomy
from core.model.asked import Asked
from core.model.choosing import chosen_groups, units_by_hand
from core.model.costing import group_prices
from core.model.fitness import trying, unit_masks
from core.model.groups import Group, unit_groups
from core.model.loading import LoadedModel
from core.model.masks import generator, nearest
from core.model.narrow import add_bias, cut
from core.model.observe import have, matrix, observe_block, statistics_of, stream
from core.model.pruned import Pruned, UnitCut
from core.model.rehearse import rehearse
from core.model.widths import settle
from core.recipe import Prune
from core.report import LayerRow
from kernels.masks import keep_highest

Statistics = Mapping[str, Mapping[str, Tensor]]  # {layer name: {statistic: tensor}}


def prune_units(
    loaded: LoadedModel,
    step: Prune,
    method: Method,
    inputs: Callable[[], Tensor],
    seed: int,
    watcher: Watcher,
    owed: Owed | None = None,
) -> Pruned:
    """Carry out a step for neurons or heads on the model in memory: what goes is really gone, and the config says so. owed: the step's budget."""
    anatomy = loaded.anatomy
    groups = chosen_groups(unit_groups(loaded.model, anatomy.blocks, anatomy.family, step.structure), anatomy, step)
    _rehearse_each_kind(loaded, groups)
    shares = _shares(loaded, step, method, groups, inputs, seed, watcher, owed)
    found = _Found(step)
    if statistics_of([method]):
        _prune_streaming(loaded, step, method, groups, shares, inputs(), seed, found, watcher)
    else:
        for group in follow(groups, f"prune: {step.method}", watcher):
            _prune_group(loaded, group, step, method, shares[group.name], {}, seed, found)
    settle(loaded.model)
    return found.pruned(replace(loaded, anatomy=read_anatomy(loaded.model)))


def _rehearse_each_kind(loaded: LoadedModel, groups: Sequence[Group]) -> None:
    """Try the cut on one block of each class, before anything changes."""
    kinds = {type(loaded.module(loaded.anatomy.blocks[group.block].path)): group for group in groups if group.units > 1}
    for group in kinds.values():
        rehearse(loaded, group)


def _shares(loaded: LoadedModel, step: Prune, method: Method, groups: Sequence[Group], inputs: Callable[[], Tensor], seed: int,
            watcher: Watcher, owed: Owed | None) -> dict[str, float]:  # fmt: skip
    """Allocate: the share of its units that each group gives."""
    if step.allocation.method == "by_hand":
        return units_by_hand(step.allocation.shares, loaded.anatomy, groups)
    allocator = get("allocator", step.allocation.method)
    sizes, scores = {group.name: group.units for group in groups}, {}
    asked = Asked(step, owed, sizes)
    asked.priced(
        group_prices(loaded, groups, owed, watcher) if owed else {name: Price.linear(n, 1.0, n - 1) for name, n in sizes.items()}
    )
    if "scores" in allocator.needs:
        scores = _dense_scores(loaded, step, method, groups, inputs, seed, watcher)
    given = {"sizes": sizes, "scores": scores.__getitem__, "watcher": watcher, "generator": generator(seed, "allocate")}
    if "fitness" not in allocator.needs:
        return asked.spread(allocator, given)
    with trying(loaded, unit_masks(loaded, groups, scores), inputs(), watcher) as fitness:
        return asked.spread(allocator, given | {"fitness": fitness, "sequences": fitness.sequences})


def _dense_scores(loaded: LoadedModel, step: Prune, method: Method, groups: Sequence[Group], inputs: Callable[[], Tensor], seed: int,
                  watcher: Watcher) -> dict[str, Tensor]:  # fmt: skip
    """{group name: a score for each unit} of the model as it stands, for one ranking over all of them."""
    names, statistics = statistics_of([method]), {}
    if names:
        for block, module, hidden, extra in stream(loaded, inputs(), watcher, "observe"):
            layers = tuple(layer for group in groups if group.block == block.index for layer in _observed(method, block, group))
            observed = replace(block, layers=layers)
            statistics |= observe_block(loaded, observed, module, hidden, extra, names, watcher, keep_outputs=True)[0]
    return {group.name: _scores(loaded, group, step, method, statistics, seed).cpu() for group in groups}


def _prune_streaming(loaded: LoadedModel, step: Prune, method: Method, groups: Sequence[Group], shares: Mapping[str, float], inputs: Tensor,
                     seed: int, found: _Found, watcher: Watcher) -> None:  # fmt: skip
    """Each block: observe it dense, cut its units, run it again cut to feed the next one."""
    by_block = {group.block: group for group in groups}
    last = max(by_block)
    for block, module, hidden, extra in stream(loaded, inputs, watcher, f"prune: {step.method}"):
        if block.index > last:
            continue
        group = by_block.get(block.index)
        if group is not None:
            observed = replace(block, layers=_observed(method, block, group))
            statistics = observe_block(loaded, observed, module, hidden, extra, statistics_of([method]), watcher)[0]
            _prune_group(loaded, group, step, method, shares[group.name], statistics, seed, found)
        if block.index < last:
            blocks.advance(module, hidden, extra, watcher)


@dataclass
class _Found:
    """What has been cut so far."""

    step: Prune
    rows: list[LayerRow] = field(default_factory=list)
    scores: dict[str, Tensor] = field(default_factory=dict)
    cuts: list[UnitCut] = field(default_factory=list)

    def pruned(self, loaded: LoadedModel) -> Pruned:
        return Pruned(loaded, rows=tuple(self.rows), scores=self.scores, cuts=tuple(self.cuts))


def by_weight(method: Method) -> bool:
    """Does the method score single weights, so that a unit's score is the sum over its weights? Else it scores units itself."""
    return "unstructured" in method.card.structures


def _observed(method: Method, block: Block, group: Group) -> tuple[Layer, ...]:
    """The layers whose inputs the method asks about: all of the group where it scores weights, else the one that reads the units."""
    paths = {part.path for part in group.everything} if by_weight(method) else {group.reader.path}
    return tuple(layer for layer in block.layers if layer.path in paths)


def _scores(loaded: LoadedModel, group: Group, step: Prune, method: Method, statistics: Statistics, seed: int) -> Tensor:
    """A score for each unit, float32. Raises ModelError where one is not a number."""
    layers = {layer.path: layer for layer in loaded.anatomy.blocks[group.block].layers}
    way = _sum_over_weights if by_weight(method) else _of_units
    scores = way(loaded, group, layers, step, method, statistics, seed).float()
    if torch.isnan(scores).any():
        raise ModelError(
            f"The scores of {group.name} are not all numbers.", "Check the model's weights and the calibration text for NaN."
        )
    return scores


def _sum_over_weights(loaded: LoadedModel, group: Group, layers: Mapping[str, Layer], step: Prune, method: Method, statistics: Statistics,
                      seed: int) -> Tensor:  # fmt: skip
    total = torch.zeros(group.units, dtype=torch.float64)
    for part in group.everything:
        layer = layers[part.path]
        weight = matrix(layer, loaded.module(part.path).weight.detach()).float()
        given = have(weight, tuple(weight.shape), generator(seed, layer.name), statistics.get(layer.name, {}))
        total += method(given, step.params).sum(1 - part.axis).cpu().double()[part.index].sum(1)
    return total


def _of_units(loaded: LoadedModel, group: Group, layers: Mapping[str, Layer], step: Prune, method: Method, statistics: Statistics,
              seed: int) -> Tensor:  # fmt: skip
    weights = {
        part.path: matrix(layers[part.path], loaded.module(part.path).weight.detach()).float() for part in group.everything
    }
    reader, into = group.reader, [weights[part.path][part.index].flatten(1) for part in group.parts]
    given = have(None, (group.units,), generator(seed, group.name), {})
    given |= {name: value[reader.index] for name, value in statistics.get(layers[reader.path].name, {}).items()}
    given |= {"out_of": weights[reader.path].T[reader.index].flatten(1), "into": torch.cat(into, 1)}
    return method(given, step.params)


def _prune_group(loaded: LoadedModel, group: Group, step: Prune, method: Method, share: float, statistics: Statistics, seed: int,
                 found: _Found) -> None:  # fmt: skip
    """Score the units of one group, decide which go, and cut them out."""
    block = loaded.anatomy.blocks[group.block]
    scores = _scores(loaded, group, step, method, statistics, seed)
    keep = keep_highest(scores[None], min(nearest(share * group.units), group.units - 1))[0].cpu()
    reader = next(layer for layer in block.layers if layer.path == group.reader.path)
    parameters = sum(layer.parameters for layer in block.layers if layer.path in {part.path for part in group.everything})
    if not keep.all():
        if method.card.adds_bias and _given(method, step, method.card.adds_bias):
            _make_up(loaded, group, reader, keep, statistics[reader.name]["input_mean"])
        cut(loaded.model, block, group, keep)
    reached = int((~keep).sum()) / group.units
    found.rows.append(LayerRow(group.name, group.block, (group.units,), parameters, share, reached, float(scores.mean())))
    found.scores[f"{group.name}.{group.structure}"] = scores.cpu()
    found.cuts.append(UnitCut(group, keep))


def _given(method: Method, step: Prune, name: str) -> object:
    """A parameter of the step, or its default."""
    return step.params.get(name, next(param.default for param in method.card.params if param.name == name))


def _make_up(loaded: LoadedModel, group: Group, reader: Layer, keep: Tensor, mean: Tensor) -> None:
    """Put what the units that go gave on average into the bias of the layer that read them."""
    module = loaded.module(reader.path)
    gone = group.reader.index[~keep].flatten().to(module.weight.device)
    weight = matrix(reader, module.weight.detach()).float()
    add_bias(module, weight[:, gone] @ mean.to(weight)[gone])
