"""The dense and the pruned model side by side, block after block, on the same text: what the pruned layers read, and what the dense ones give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import ModelError
from core.events import Silent, Watcher
from core.model import blocks
from core.model.anatomy import Layer
from core.model.loading import LoadedModel
from core.model.observe import layer_inputs, matrix, stream


@dataclass
class Seen:
    """Sums over all calibration tokens, in float64 on the processor. x: what a pruned layer reads, y: what is wanted of it (bias included).

    gram (in, in): x x^T; cross (out, in): y x^T; inputs (in,): x; targets (out,): y; energy: |y|^2.
    """

    tokens: int
    gram: Tensor
    cross: Tensor
    inputs: Tensor
    targets: Tensor
    energy: float

    def error(self, weight: Tensor, bias: Tensor | None) -> float:
        """|W x + b - y|^2 over |y|^2, both summed over all tokens."""
        weight = weight.to(self.gram)
        lost = ((weight @ self.gram) * weight).sum() - 2 * (weight * self.cross).sum() + self.energy
        if bias is not None:
            bias = bias.to(self.gram)
            lost = lost + 2 * bias @ (weight @ self.inputs) - 2 * bias @ self.targets + self.tokens * bias @ bias
        return max(float(lost), 0.0) / self.energy if self.energy > 0 else 0.0


@dataclass(frozen=True)
class Side:
    """One of the two models at a block."""

    loaded: LoadedModel
    path: str
    module: nn.Module
    hidden: blocks.Hidden
    extra: blocks.Arguments

    def layer(self, relative: str) -> nn.Module:
        return self.module.get_submodule(relative) if relative else self.module

    def advance(self, watcher: Watcher) -> None:
        blocks.advance(self.module, self.hidden, self.extra, watcher)


def side_by_side(
    loaded: LoadedModel, dense: LoadedModel | None, kept: Sequence[int], inputs: Tensor, watcher: Watcher, stage: str
) -> Iterator[tuple[Any, Side, Side | None]]:
    """Visit each block that is left together with the dense model's block that it was. kept: that one's index. The visitor changes the pruned block and
    moves neither on: both models go on from what they then are. dense None: the pruned one alone."""
    others = stream(dense, inputs, Silent(), stage) if dense is not None else None
    for block, module, hidden, extra in stream(loaded, inputs, watcher, stage):
        here, other = Side(loaded, block.path, module, hidden, extra), None
        while others is not None:
            its = next(others)
            other = Side(dense, its[0].path, *its[1:])
            if its[0].index == kept[block.index]:
                break
            other.advance(watcher)  # a block that was removed
        yield block, here, other
        if block.index < len(loaded.anatomy.blocks) - 1:
            here.advance(watcher)
            if other is not None:
                other.advance(watcher)


def see(layers: Sequence[Layer], here: Side, other: Side | None, wanted: dict[str, Tensor], watcher: Watcher) -> dict[str, Seen]:
    """{layer name: sums} over one pass. wanted: {layer name: dense weight (out, in)}, used where there is no `other`: y is then that weight times what the
    pruned layer reads. Raises ModelError for a layer that is not run."""
    found: dict[str, Seen] = {}
    relative = {layer.name: layer.path.removeprefix(here.path).lstrip(".") for layer in layers}
    with _caught(layers, relative, here, before=True) as read, _caught(layers, relative, other, before=False) as given:
        for number in range(len(here.hidden)):
            watcher.check()
            for side in (here, other):
                if side is not None:
                    with torch.no_grad():
                        side.module(side.hidden[number], *side.extra[0], **side.extra[1])
            first = {}  # layers that read one tensor (query, key, value) share its sums
            for layer in layers:
                twin = first.setdefault(id(read[layer.name]), layer.name) if layer.name in read and layer.kind != "conv" else None
                _add(found, layer, here, relative[layer.name], read, given, twin)
    for layer in layers if other is None else ():
        _own_targets(found[layer.name], here.layer(relative[layer.name]), wanted[layer.name])
    return found


def _add(
    found: dict[str, Seen], layer: Layer, here: Side, relative: str, read: dict[str, Tensor], given: dict[str, Tensor] | None,
    twin: str | None,
) -> None:  # fmt: skip
    """Add one batch to a layer's sums. twin: the layer that was given the same tensor first, perhaps itself."""
    if layer.name not in read or (given is not None and layer.name not in given):
        raise ModelError(f"{type(here.loaded.model).__name__} does not run {layer.name}, so what it is given is not seen.",
                         "Leave the reconstruct step out for this model.")  # fmt: skip
    module = here.layer(relative)
    x = layer_inputs(layer, module, read[layer.name]).float().flatten(0, -2)
    rows = matrix(layer, module.weight).shape[0]
    if layer.name not in found:
        other, shape = found.get(twin or ""), (x.shape[1], x.shape[1])
        gram = torch.zeros(shape, dtype=torch.float64) if other is None else other.gram
        inputs = gram.new_zeros(x.shape[1]) if other is None else other.inputs
        cross = gram.new_zeros((0, 0) if given is None else (rows, x.shape[1]))
        found[layer.name] = Seen(0, gram, cross, inputs, gram.new_zeros(rows), 0.0)
    seen = found[layer.name]
    seen.tokens += len(x)
    if twin in (None, layer.name):
        seen.gram += (x.T @ x).cpu().double()
        seen.inputs += x.sum(0, dtype=torch.float32).cpu().double()
    if given is None:
        return
    y = given.pop(layer.name).float()
    y = (y.flatten(2).transpose(1, 2) if layer.kind == "conv" else y).flatten(0, -2)
    seen.cross += (y.T @ x).cpu().double()
    seen.targets += y.sum(0).cpu().double()
    seen.energy += float(y.square().sum(dtype=torch.float64))


def _own_targets(seen: Seen, module: nn.Module, dense: Tensor) -> None:
    """y = W0 x + b: what the dense weight would give for what the pruned layer reads."""
    dense, bias = dense.detach().to(seen.gram), getattr(module, "bias", None)
    seen.cross = dense @ seen.gram
    seen.targets = dense @ seen.inputs
    seen.energy = float((seen.cross * dense).sum())
    if bias is not None:
        bias = bias.detach().to(seen.gram)
        seen.energy += float(2 * bias @ seen.targets + seen.tokens * bias @ bias)
        seen.cross = seen.cross + torch.outer(bias, seen.inputs)
        seen.targets = seen.targets + seen.tokens * bias


@contextmanager
def _caught(
    layers: Sequence[Layer], relative: dict[str, str], side: Side | None, before: bool
) -> Iterator[dict[str, Tensor] | None]:
    """{layer name: its last input (`before`) or output} while this lasts; None where there is no such side."""
    if side is None:
        yield None
        return
    last: dict[str, Tensor] = {}

    def note_input(name: str) -> Any:
        return lambda module, args: last.__setitem__(name, args[0])

    def note_output(name: str) -> Any:
        return lambda module, args, output: last.__setitem__(name, output.detach())

    handles = []
    for layer in layers:
        module = side.layer(relative[layer.name])
        handles.append(module.register_forward_pre_hook(note_input(layer.name)) if before
                       else module.register_forward_hook(note_output(layer.name)))  # fmt: skip
    try:
        yield last
    finally:
        for handle in handles:
            handle.remove()
