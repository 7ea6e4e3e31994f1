"""Attentions, MLPs, neurons and heads in one step: all of them as units that can be tried, and taking out what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from core.model.anatomy import read_anatomy
from core.model.depth.bypass import Unit
from core.model.depth.sublayers import remove_sublayers, sublayer_units
from core.model.loading import LoadedModel
from core.model.masks import nearest
from core.model.observe import matrix
from core.model.pruning.pruned import Pruned, UnitCut
from core.model.units.groups import Group, unit_groups
from core.model.units.pruning import rehearse_each_kind
from core.model.width.narrow import cut
from core.model.width.widths import settle
from core.report import LayerRow


@dataclass(frozen=True)
class Space:
    """All that may go. `sublayers`: names, attentions first; `steps`: {group name: names of its bites, to be taken in this order; what they leave is
    never taken}; `units`: every name's Unit, that can be tried; `members`: {bite: which units of its group}."""

    units: Mapping[str, Unit]
    sublayers: tuple[str, ...]
    groups: Mapping[str, Group]
    steps: Mapping[str, tuple[str, ...]]
    members: Mapping[str, Tensor]


def search_space(loaded: LoadedModel, bite: float) -> Space:
    """Sub-layers; neurons in bites of this share of their block's; heads by key-value group. The least important units of a group come first.

    How important a unit is: the sum of its weights' sizes in the layers that produce it (a mean over their rows where they are of unlike number).
    Tries each kind of cut on a copy. Raises ModelError where the model has no such parts.
    """
    sublayers, found = sublayer_units(loaded), {}
    groups = {
        group.name: group
        for structure in ("neurons", "heads")
        for group in unit_groups(loaded.model, loaded.anatomy.blocks, loaded.anatomy.family, structure)
    }
    for structure in ("neurons", "heads"):
        rehearse_each_kind(loaded, [group for group in groups.values() if group.structure == structure])
    steps: dict[str, tuple[str, ...]] = {}
    members: dict[str, Tensor] = {}
    for group in groups.values():
        size = max(nearest(bite * group.units), 1) if group.structure == "neurons" else 1
        bites = [part for part in _importance(loaded, group).argsort(stable=True).split(size) if len(part) == size]
        bites = bites[:-1] if len(bites) * size == group.units else bites  # some always stay
        steps[group.name] = tuple(f"{group.key}.{number}" for number in range(len(bites)))
        members |= dict(zip(steps[group.name], bites, strict=True))
        found |= {name: _unit(loaded, group, name, members[name]) for name in steps[group.name]}
    order = sorted(sublayers, key=lambda name: name.endswith(".mlp"))
    return Space({**sublayers, **found}, tuple(order), groups, steps, members)


def _importance(loaded: LoadedModel, group: Group) -> Tensor:
    """(units,): the mean size-sum of a unit's rows, added over the layers that produce it."""
    layers = {layer.path: layer for layer in loaded.anatomy.blocks[group.block].layers}
    total = torch.zeros(group.units, dtype=torch.float64)
    for part in group.parts:
        weight = matrix(layers[part.path], loaded.module(part.path).weight.detach()).float()
        total += weight.abs().sum(1 - part.axis).cpu().double()[part.index].mean(1)
    return total


def _unit(loaded: LoadedModel, group: Group, name: str, members: Tensor) -> Unit:
    """Some units of a group, as one that can be tried: the layer that reads them reads zeros."""
    parameters = 0
    for part in group.everything:
        layer, entries = loaded.module(part.path), len(members) * part.index.shape[1]
        rows = layer.weight.numel() // part.index.numel()
        parameters += entries * (rows + (1 if part.axis == 0 and layer.bias is not None else 0))
    path = loaded.anatomy.blocks[group.block].path
    return Unit(name, group.block, path, parameters, silent={group.reader.path: group.reader.index[members].flatten()})


def take_out(loaded: LoadedModel, space: Space, gone: Sequence[str]) -> Pruned:
    """The model without these, neurons and heads really cut, and the config saying so."""
    cuts = []
    for name, group in space.groups.items():
        keep = torch.ones(group.units, dtype=torch.bool)
        for bite in space.steps[name]:
            if bite in gone:
                keep[space.members[bite]] = False
        if not keep.all():
            cut(loaded.model, loaded.anatomy.blocks[group.block], group, keep)
            cuts.append(UnitCut(group, keep))
    whole = [name for name in space.sublayers if name in gone]
    settle(loaded.model)
    left = replace(loaded, anatomy=read_anatomy(loaded.model))
    left = remove_sublayers(left, [space.units[name] for name in whole]) if whole else left
    parts = tuple((space.units[name].block, name.rpartition(".")[2]) for name in whole)
    rows = tuple(_row(space, name, set(gone), cuts) for name in sorted(space.sublayers, key=lambda name: space.units[name].block))
    return Pruned(left, rows=rows, parts=parts, cuts=tuple(cuts))


def _row(space: Space, name: str, gone: set[str], cuts: Sequence[UnitCut]) -> LayerRow:
    """A sub-layer's row: the share of its units that went, all where it went whole."""
    unit, keep = space.units[name], next((done.keep for done in cuts if done.group.name == name), None)
    share = 1.0 if name in gone else 0.0 if keep is None else 1 - float(keep.float().mean())
    return LayerRow(name, unit.block, () if keep is None else (len(keep),), unit.parameters, share, share)
