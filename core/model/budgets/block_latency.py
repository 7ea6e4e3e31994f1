"""What a block's latency loses with its neurons, its heads, or a part of it: measured on this machine, at several widths, on copies of single blocks."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from statistics import quantiles
from typing import Any

import numpy as np
import torch
from torch import nn

from core.cost import Owed, Price
from core.errors import ModelError
from core.events import Progress, Watcher
from core.model import blocks
from core.model.anatomy import Block
from core.model.depth.bypass import Unit, bypassed
from core.model.loading import LoadedModel
from core.model.measuring.counts import blank_image
from core.model.measuring.latency import fixed_ids
from core.model.units.groups import Group
from core.model.width.narrow import cut
from core.model.width.rehearse import stand_in

_WIDTHS = 5  # at which a curve is measured: whole, three between, the narrowest
_WARM_UPS = 2
_Run = Callable[[], Any]


class TimedBlocks:
    """Latencies of single blocks on the budget's input. Blocks alike in class and shapes are measured once."""

    def __init__(self, loaded: LoadedModel, asked: Owed, watcher: Watcher) -> None:
        self.loaded, self.repeats, self.watcher = loaded, asked.protocol["repeats"], watcher
        image = blank_image(loaded, asked.protocol["batch"])
        self.inputs = fixed_ids(loaded, asked.protocol["batch"], asked.protocol["tokens"]) if image is None else image
        self.before = asked.before
        self._known: dict[Any, Any] = {}

    def group(self, group: Group) -> Price:
        """The curve of a group: milliseconds taken off against units gone. It never falls: a wiggle of the clock is no reason to remove less."""
        block = self.loaded.anatomy.blocks[group.block]
        key = (group.structure, group.units, *_shape(self.loaded.module(block.path)))
        if key not in self._known:
            self._known[key] = self._curve(block, group)
        at, off = self._known[key]
        return Price(group.steps, group.steps - 1, at, off)

    def unit(self, unit: Unit) -> float:
        """Milliseconds that a whole block, or its attention or MLP, takes."""
        module = self.loaded.module(unit.path)
        key = (unit.name.rpartition(".")[2] if unit.gone else "", *_shape(module))
        if key not in self._known:
            args, kwargs = self._arguments(module)
            whole: _Run = lambda: module(*args, **kwargs)  # noqa: E731

            def without() -> None:
                if unit.gone:
                    with bypassed(self.loaded, [unit]):
                        whole()

            took = self._times_ms([whole, without])
            self._known[key] = max(took[0] - (took[1] if unit.gone else 0.0), 0.0)
        return self._known[key]

    def _curve(self, block: Block, group: Group) -> tuple[tuple[float, ...], tuple[float, ...]]:
        kept = sorted({max(round(group.steps * (1 - i / (_WIDTHS - 1))), 1) for i in range(_WIDTHS)}, reverse=True)
        args, kwargs = self._arguments(self.loaded.module(block.path))
        narrowed = [self._narrowed(block, group, width) for width in kept]
        took = self._times_ms([lambda m=module: m(*args, **kwargs) for module in narrowed])
        off = np.maximum.accumulate([max(took[0] - ms, 0.0) for ms in took])
        at = [float(group.steps - width) for width in kept]
        last = off[-1] + (off[-1] / at[-1] if at[-1] else 0.0) * (group.steps - at[-1])  # none left is never asked for
        self.watcher.say(Progress("latency curve", kind="note", text=_words(group, kept, took)))
        return (*at, float(group.steps)), (*map(float, off), float(last))

    def _narrowed(self, block: Block, group: Group, width: int) -> nn.Module:
        with stand_in(self.loaded, block.path) as copied:
            if width < group.steps:
                cut(self.loaded.model, block, group, group.first(width))
        return copied

    def _arguments(self, module: nn.Module) -> blocks.Arguments:
        """What the model hands this block on the budget's input."""
        found: list[blocks.Arguments] = []
        handle = module.register_forward_pre_hook(lambda _, args, kwargs: found.append((args, kwargs)), with_kwargs=True)
        try:
            with torch.no_grad():
                blocks.call(self.loaded, self.inputs)
        finally:
            handle.remove()
        args, kwargs = found[0]
        return args, {name: None if "past" in name else copy.copy(value) for name, value in kwargs.items()}

    def _times_ms(self, runs: list[_Run]) -> list[float]:
        """The lower quartile of each (others on the machine only ever add time), turn by turn, so that what slows it for a while slows all of them."""
        took: list[list[float]] = [[] for _ in runs]
        with torch.no_grad():
            for turn in range(_WARM_UPS + self.repeats):
                self.watcher.check()
                for place, run in enumerate(runs):
                    start = time.perf_counter()
                    run()
                    if self.loaded.device.type == "cuda":
                        torch.cuda.synchronize(self.loaded.device)
                    if turn >= _WARM_UPS:
                        took[place].append((time.perf_counter() - start) * 1e3)
        found = [quantiles(times, n=4, method="inclusive")[0] for times in took]
        if found[0] <= 0:
            raise ModelError(
                "This machine's clock cannot tell how long a block takes.", "Set the budget's batch or tokens higher."
            )
        return found


def _shape(module: nn.Module) -> tuple[Any, ...]:
    return type(module), tuple(tuple(parameter.shape) for parameter in module.parameters())


def _words(group: Group, kept: list[int], took: list[float]) -> str:
    curve = ", ".join(f"{ms:.3g} ms with {width}" for width, ms in zip(kept, took, strict=True))
    return f"A block such as {group.name.rpartition('.')[0]} takes {curve} {group.structure}."
