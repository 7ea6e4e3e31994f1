"""Masks laid over a model for the length of a `with`: single weights, or what is read of neurons and heads. No weight changes; all is put back.

A mask is a float tensor, 1 = there, 0 = gone, anything between for training; gradients reach it. {name: mask}; what is not named stays whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from core.model.anatomy import Layer
from core.model.loading import LoadedModel
from core.model.units.groups import Group

Masks = Mapping[str, Tensor]


@contextmanager
def laid_over(loaded: LoadedModel, places: Sequence[Layer | Group], masks: Masks) -> Iterator[None]:
    """The model computes with weight * mask in these layers ((out, in)), and as if a unit's entries were multiplied by its mask ((units,)).

    A unit with mask 0 gives the layer that reads it nothing, which is what is left once it is cut out.
    """
    with ExitStack() as stack:
        for place in places:
            mask = masks.get(place.name)
            if mask is None:
                continue
            if isinstance(place, Group):
                reader = loaded.module(place.reader.path)
                stack.callback(reader.register_forward_pre_hook(_gate(mask[unit_of_column(place).to(mask.device)])).remove)
            else:
                stack.enter_context(_covered(place, loaded.module(place.path), mask))
        yield


def unit_of_column(group: Group) -> Tensor:
    """int64 (columns of the reading layer,): which unit each belongs to."""
    units, entries = group.reader.index.shape
    found = torch.empty(units * entries, dtype=torch.int64)
    found[group.reader.index.flatten()] = torch.arange(units).repeat_interleave(entries)
    return found


@contextmanager
def listening(loaded: LoadedModel, groups: Sequence[Group], heard: Callable[[Group, Tensor], None]) -> Iterator[None]:
    """heard(group, (tokens, columns)) for everything that the layers which read these groups are given (before a mask)."""

    def note(group: Group) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda module, args: heard(group, args[0].flatten(0, -2))

    with ExitStack() as stack:
        for group in groups:
            stack.callback(loaded.module(group.reader.path).register_forward_pre_hook(note(group), prepend=True).remove)
        yield


def _gate(gate: Tensor) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    return lambda module, args: (args[0] * gate.to(args[0]), *args[1:])


@contextmanager
def _covered(layer: Layer, module: nn.Module, mask: Tensor) -> Iterator[None]:
    """The product stands before the parameter (an instance's own attribute is found first), which keeps its place in the module."""
    own = module._parameters["weight"]
    shaped = mask.T if layer.kind == "conv1d" else mask.reshape(own.shape)
    vars(module)["weight"] = own * shaped.to(own)
    try:
        yield
    finally:
        del vars(module)["weight"]
