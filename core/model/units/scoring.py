"""Scores of whole units (neurons, heads, channels): of single weights summed over the unit, or of units, asked with all that it may name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from core.method import Method, get
from core.model.anatomy import Layer
from core.model.loading import LoadedModel
from core.model.masks import finite, generator
from core.model.observe import have, matrix
from core.model.units.groups import Group, Part
from core.model.width.narrow import depthwise

Statistics = Mapping[str, Mapping[str, Tensor]]  # {layer name: {statistic: tensor}}


def by_weight(method: Method) -> bool:
    """Does the method score single weights, so that a unit's score is the sum over its weights? Else it scores units itself."""
    return "unstructured" in method.card.structures


def observed(loaded: LoadedModel, method: Method, groups: Sequence[Group]) -> tuple[Layer, ...]:
    """The layers whose inputs the method asks about: all of the groups' where it scores weights, else those that read the units."""
    parts = [part for group in groups for part in (group.everything if by_weight(method) else group.readers)]
    layers = loaded.anatomy.by_path
    return tuple(layers[path] for path in dict.fromkeys(part.path for part in parts))


def unit_scores(
    loaded: LoadedModel, group: Group, method: Method, params: Mapping[str, Any], statistics: Statistics, seed: int
) -> Tensor:
    """A score for each unit, float32. Raises ModelError where one is not a finite number."""
    way = sum_over_weights if by_weight(method) else _of_units
    return finite(way(loaded, group, method, params, statistics, seed).float(), group.name)


def columns(layer: Layer, part: Part) -> Tensor:
    """(units, entries): the columns of a reading layer's weight as a matrix that are each unit's; a convolution has some for each place of its kernel."""
    kernel = prod(layer.shape[2:]) if layer.kind == "conv" else 1
    return (part.index[:, :, None] * kernel + torch.arange(kernel)).flatten(1)


def sum_over_weights(loaded: LoadedModel, group: Group, method: Method, params: Mapping[str, Any], statistics: Statistics,
                     seed: int) -> Tensor:  # fmt: skip
    """The scores of single weights, summed over all that go with each unit: (units,)."""
    layers, total = loaded.anatomy.by_path, torch.zeros(group.units, dtype=torch.float64)
    for part in group.everything:
        layer, known = layers[part.path], statistics.get(layers[part.path].name, {})
        weight = _whole(loaded.module(part.path), layer) if known else _matrix(loaded, layer)
        given = have(weight, tuple(weight.shape), generator(seed, layer.name), known)
        summed = method(given, params).sum(1 - part.axis).cpu().double()
        total += summed[_places(layer, part)].sum(1)
    return total


def _places(layer: Layer, part: Part) -> Tensor:
    """(units, entries): the rows or columns of a layer's weight as a matrix that are each unit's."""
    return columns(layer, part) if part.axis else part.index


def _matrix(loaded: LoadedModel, layer: Layer) -> Tensor:
    return matrix(layer, loaded.module(layer.path).weight.detach()).float()


def _whole(module: nn.Module, layer: Layer) -> Tensor:
    """A layer's weight as (out, in); a depthwise convolution's as the one over all channels that it stands for, with zeros where it does not look."""
    weight = matrix(layer, module.weight.detach()).float()
    return torch.block_diag(*weight) if depthwise(module) else weight


def _of_units(loaded: LoadedModel, group: Group, method: Method, params: Mapping[str, Any], statistics: Statistics,
              seed: int) -> Tensor:  # fmt: skip
    """Where several layers read a unit, it has entries in each of them; what they make of an entry is filled up with zeros to one length."""
    layers = loaded.anatomy.by_path
    read = [(layers[part.path], columns(layers[part.path], part)) for part in group.readers]
    most = max(layer.shape[0] for layer, _ in read)
    out_of = [pad(_matrix(loaded, layer).T[index], (0, most - layer.shape[0])) for layer, index in read]
    into = [_matrix(loaded, layers[part.path])[part.index].flatten(1) for part in group.parts]
    seen = [_of_inputs(statistics.get(layer.name, {}), index) for layer, index in read]
    given = have(None, (group.units,), generator(seed, group.name), {})
    given |= {name: torch.cat([found[name] for found in seen], 1) for name in seen[0]}
    given |= {"out_of": torch.cat(out_of, 1).flatten(1), "into": torch.cat(into, 1)}
    if "parts" in signature(method.function).parameters:
        given["parts"] = tuple(_by_entry(loaded, part, statistics) for part in group.everything)
    return method(given, params)


def _of_inputs(statistics: Mapping[str, Tensor], index: Tensor) -> dict[str, Tensor]:
    """Those that hold a number for each input feature, as (units, entries)."""
    return {name: value.cpu()[index] for name, value in statistics.items() if value.dim() == 1}


def _by_entry(loaded: LoadedModel, part: Part, statistics: Statistics) -> dict[str, Tensor]:
    """The weights of a layer and what is known of each, (out, in), as (units, entries, m): the rows or columns of each unit, entry by entry."""
    layer = loaded.anatomy.by_path[part.path]
    known = {
        name: value for name, value in statistics.get(layer.name, {}).items() if get("statistic", name).extra["of"] == "gradient"
    }
    places = _places(layer, part)
    return {
        name: (value if part.axis == 0 else value.T)[places.to(value.device)]
        for name, value in {"weight": _matrix(loaded, layer), **known}.items()
    }
