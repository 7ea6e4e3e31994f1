"""A model that answers as if a part of it were gone, or already done, for the length of a `with`. No weight changes; all is put back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from core.model import blocks
from core.model.depth.gone import Gone
from core.model.loading import LoadedModel

Forward = Callable[..., Any]


@dataclass(frozen=True)
class Unit:
    """A block, the attention or MLP of one, or some neurons or heads. `path`: the block's module. `parameters`: those that go with the unit.
    `gone`: {module path: kind of stand-in} for a part of a block; `silent`: {path of a layer: columns that it reads zeros of} for neurons or heads;
    both empty for a whole block, which gives what it was given while it is bypassed.
    """

    name: str
    block: int
    path: str
    parameters: int
    gone: Mapping[str, str] = field(default_factory=dict)
    silent: Mapping[str, Tensor] = field(default_factory=dict)


def block_units(loaded: LoadedModel) -> dict[str, Unit]:
    """All blocks by name, in order."""
    return {block.name: Unit(block.name, block.index, block.path, block.parameters) for block in loaded.anatomy.blocks}


@contextmanager
def bypassed(loaded: LoadedModel, units: Iterable[Unit], in_tuples: bool = False) -> Iterator[None]:
    """Without these units. in_tuples: see `starting_at`."""

    def same(before: Tensor, *args: Any, **kwargs: Any) -> Any:
        return (before, None) if in_tuples else before

    forwards: dict[nn.Module, Forward] = {}
    silent: dict[str, list[Tensor]] = {}
    for unit in units:
        for path, columns in unit.silent.items():
            silent.setdefault(path, []).append(columns)
        parts = {loaded.module(path): kind for path, kind in unit.gone.items()}
        forwards |= {part: Gone(kind, part).forward for part, kind in parts.items()}
        if not (unit.gone or unit.silent):
            forwards[loaded.module(unit.path)] = same
    quiet = {loaded.module(path): torch.cat(columns) for path, columns in silent.items()}
    forwards |= {layer: _without_columns(layer, columns) for layer, columns in quiet.items() if layer not in forwards}
    with answering(forwards):
        yield


def _without_columns(layer: nn.Module, columns: Tensor) -> Forward:
    """The layer's own answer to its input with zeros in these columns."""
    plain, columns = layer.forward, columns.to(layer.weight.device)
    return lambda given: plain(given.index_fill(-1, columns, 0.0))


@contextmanager
def starting_at(loaded: LoadedModel, index: int, states: blocks.Hidden, in_tuples: bool = False) -> Iterator[None]:
    """Let forwards skip the blocks before `index`: the model's n-th forward since entering finds states[n] at that block's entrance.

    in_tuples: this family's blocks (GPT-J's, Falcon's) answer with a tuple, whose first part is the hidden state.
    """
    calls = iter(range(len(states)))

    def skip(position: int) -> Forward:
        def forward(before: Tensor, *args: Any, **kwargs: Any) -> Any:
            after = states[next(calls)] if position == 0 else before
            return (after, None) if in_tuples else after

        return forward

    with answering({loaded.module(block.path): skip(block.index) for block in loaded.anatomy.blocks[:index]}):
        yield


def answer_in_tuples(loaded: LoadedModel, states: blocks.Hidden, extras: list[blocks.Arguments]) -> bool:
    """Whether this family's blocks give a tuple. states: at the entrance of the first block."""
    with loaded.block(0) as module, torch.no_grad():
        return isinstance(module(states[0], *extras[0][0], **extras[0][1]), tuple)


@contextmanager
def answering(forwards: Mapping[nn.Module, Forward]) -> Iterator[None]:
    """Let modules answer by these functions; then by what answered before, so that one such `with` may lie in another."""
    before = {module: vars(module).get("forward") for module in forwards}
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module, forward in before.items():
            if forward is None:
                del module.forward
            else:
                module.forward = forward
