"""What a step changes, as it was: one that fails, or is stopped, leaves the model in memory as it found it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from core.events import Progress, Watcher
from core.model.files.checkpoint import LazyWeights
from core.model.loading import LoadedModel
from core.model.memory import available_bytes

_PARTS = ("_parameters", "_buffers", "_modules")
_NO_ROOM = (
    "There is no memory for a copy of the weights that change: if this step fails, the model in memory is left part pruned."
)


class Before:
    """One dense copy of what has changed so far, and no more: a layer that is narrowed is a new tensor, and the old one is only held on to; what is
    written in place is copied first (`values`). A model read block by block reads those blocks again from where they were read before this step."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._modules = [(module, _own(module)) for module in loaded.model.modules()]
        self._configs = [(config, _said(config)) for config in _configs(loaded.model)]
        self._values: dict[nn.Parameter, torch.Tensor] = {}
        self._lazy: LazyWeights | None = loaded.lazy
        self._files = loaded.lazy.files() if loaded.lazy is not None else {}

    def values(self, *parameters: nn.Parameter) -> None:
        """These are about to be written in place. Their old numbers stay where they were; the parameter goes on with a copy."""
        for parameter in parameters if self._lazy is None else ():
            if parameter not in self._values:
                self._values[parameter] = parameter.data
                parameter.data = parameter.data.clone()

    def put_back(self) -> None:
        """All as it was: which modules there are, their weights and numbers, and what the configs say."""
        if self._lazy is not None:
            self._lazy.read_from(self._files)
            return
        for holder, own in (*self._modules, *self._configs):
            vars(holder).clear()
            vars(holder).update(own)
        for parameter, data in self._values.items():
            parameter.data = data


@contextmanager
def put_back_on_failure(loaded: LoadedModel, watcher: Watcher) -> Iterator[Before | None]:
    """For the length of a step. Where free memory would not hold a copy of the blocks, none is kept, and a note says so."""
    size = sum(p.numel() * p.itemsize for block in loaded.anatomy.blocks for p in loaded.module(block.path).parameters())
    if loaded.lazy is None and loaded.device.type == "cpu" and size > available_bytes():
        watcher.say(Progress("prune", kind="note", text=_NO_ROOM))
        yield None
        return
    before = Before(loaded)
    try:
        yield before
    except BaseException:
        before.put_back()
        raise


def _own(module: nn.Module) -> dict[str, Any]:
    """All that a module holds itself, its tables of parts copied."""
    return {name: dict(value) if name in _PARTS else value for name, value in vars(module).items()}


def _configs(model: nn.Module) -> list[PreTrainedConfig]:
    """The configs that modules hold, and those inside them, each once."""
    found: dict[int, PreTrainedConfig] = {}
    holders: list[Any] = list(model.modules())
    while holders:
        for value in vars(holders.pop()).values():
            if isinstance(value, PreTrainedConfig) and id(value) not in found:
                found[id(value)] = value
                holders.append(value)
    return list(found.values())


def _said(config: PreTrainedConfig) -> dict[str, Any]:
    return {name: value if isinstance(value, PreTrainedConfig) else copy.deepcopy(value) for name, value in vars(config).items()}
