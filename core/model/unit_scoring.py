"""What the units of a group are worth: a score for single weights summed over the unit, or a score of units asked with all that it may name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from core.errors import ModelError
from core.method import Method, get
from core.model.anatomy import Layer
from core.model.groups import Group, Part
from core.model.loading import LoadedModel
from core.model.masks import generator
from core.model.observe import have, matrix

Statistics = Mapping[str, Mapping[str, Tensor]]  # {layer name: {statistic: tensor}}


def by_weight(method: Method) -> bool:
    """Does the method score single weights, so that a unit's score is the sum over its weights? Else it scores units itself."""
    return "unstructured" in method.card.structures


def observed(method: Method, layers: Sequence[Layer], group: Group) -> tuple[Layer, ...]:
    """The layers whose inputs the method asks about: all of the group where it scores weights, else the one that reads the units."""
    paths = {part.path for part in group.everything} if by_weight(method) else {group.reader.path}
    return tuple(layer for layer in layers if layer.path in paths)


def unit_scores(
    loaded: LoadedModel, group: Group, method: Method, params: Mapping[str, Any], statistics: Statistics, seed: int
) -> Tensor:
    """A score for each unit, float32. Raises ModelError where one is not a number."""
    layers = {layer.path: layer for layer in loaded.anatomy.layers}
    way = sum_over_weights if by_weight(method) else _of_units
    return checked(group.name, way(loaded, group, layers, method, params, statistics, seed).float())


def checked(name: str, scores: Tensor) -> Tensor:
    """The same scores. Raises ModelError where one is not a number."""
    if torch.isnan(scores).any():
        raise ModelError(
            f"The scores of {name} are not all numbers.", "Check the model's weights and the calibration text for NaN."
        )
    return scores


def sum_over_weights(loaded: LoadedModel, group: Group, layers: Mapping[str, Layer], method: Method, params: Mapping[str, Any],
                     statistics: Statistics, seed: int) -> Tensor:  # fmt: skip
    """The scores of single weights, summed over all that go with each unit: (units,)."""
    total = torch.zeros(group.units, dtype=torch.float64)
    for part in group.everything:
        layer = layers[part.path]
        weight = matrix(layer, loaded.module(part.path).weight.detach()).float()
        given = have(weight, tuple(weight.shape), generator(seed, layer.name), statistics.get(layer.name, {}))
        total += method(given, params).sum(1 - part.axis).cpu().double()[part.index].sum(1)
    return total


def _of_units(loaded: LoadedModel, group: Group, layers: Mapping[str, Layer], method: Method, params: Mapping[str, Any],
              statistics: Statistics, seed: int) -> Tensor:  # fmt: skip
    weights = {
        part.path: matrix(layers[part.path], loaded.module(part.path).weight.detach()).float() for part in group.everything
    }
    reader, into = group.reader, [weights[part.path][part.index].flatten(1) for part in group.parts]
    given = have(None, (group.units,), generator(seed, group.name), {})
    of_reader = statistics.get(layers[reader.path].name, {})
    given |= {name: value[reader.index] for name, value in of_reader.items() if value.dim() == 1}
    given |= {"out_of": weights[reader.path].T[reader.index].flatten(1), "into": torch.cat(into, 1)}
    given["parts"] = tuple(
        _by_entry(part, {"weight": weights[part.path], **_of_weights(statistics.get(layers[part.path].name, {}))})
        for part in group.everything
    )
    return method(given, params)


def _of_weights(statistics: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those that hold a number for each weight."""
    return {name: value for name, value in statistics.items() if get("statistic", name).extra["of"] == "gradient"}


def _by_entry(part: Part, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Matrices (out, in) of a layer as (units, entries, m): the rows or columns of each unit, entry by entry."""
    return {name: (value if part.axis == 0 else value.T)[part.index.to(value.device)] for name, value in found.items()}
