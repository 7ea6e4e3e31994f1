"""Super weights (Yu et al. 2024, arXiv 2411.07191): single weights without which a language model speaks nonsense, found in one forward."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import ModelError
from core.events import Progress, Silent, Watcher
from core.model import blocks
from core.model.anatomy import Layer
from core.model.loading import LoadedModel
from core.model.observe import layer_inputs, matrix, stream
from core.recipe_steps import SUPER_WEIGHTS

PROTECT = SUPER_WEIGHTS  # what a prune step's `protect` calls them
THRESHOLD = 50.0  # the paper's: an activation larger than this is a spike
SEQUENCES = 8  # of the calibration inputs; spikes stand at the first tokens of every text
Peak = tuple[
    Tensor, Tensor
]  # of each output feature: its value where it is largest in size, (out,), and the inputs there, (out, in)


@dataclass(frozen=True)
class SuperWeight:
    """weight[row, column] of `layer` (as out, in), with the spikes that it joins: its input feature's value and its output's, at one token."""

    layer: str
    row: int
    column: int
    weight: float
    input: float
    output: float


def find_super_weights(
    loaded: LoadedModel, ids: Tensor, threshold: float = THRESHOLD, watcher: Watcher | None = None
) -> tuple[SuperWeight, ...]:
    """Super weights of the layers that lead out of the MLPs, block by block, largest output first within a layer.

    Where an output feature of such a layer exceeds `threshold` in size, the token of its peak is looked at: the weight that brings the largest part of
    it is a super weight if its own input exceeds the threshold too. (The paper takes the largest input and the largest output of each layer; so
    more than one a layer is found here without running again.) Raises ModelError where no layer leads out of an MLP.
    """
    watcher = watcher or Silent()
    if not any(layer.role == "down" for layer in loaded.anatomy.layers):
        raise ModelError(
            f"No layer that leads out of an MLP was found in {type(loaded.model).__name__}.",
            "Super weights are known in language models only; leave them out.",
        )
    found: list[SuperWeight] = []
    for block, module, hidden, extra in stream(loaded, ids, watcher, "super weights"):
        peaks: dict[str, Peak] = {}
        with ExitStack() as stack:
            for layer in (layer for layer in block.layers if layer.role == "down"):
                stack.callback(loaded.module(layer.path).register_forward_hook(_watch(layer, peaks)).remove)
            blocks.advance(module, hidden, extra, watcher)
        for layer in (layer for layer in block.layers if layer.name in peaks):
            weight = matrix(layer, loaded.module(layer.path).weight.detach()).float()
            found += _spikes(layer, weight, *peaks[layer.name], threshold)
    return tuple(found)


def _watch(layer: Layer, peaks: dict[str, Peak]) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
    def watch(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        inputs, outputs = layer_inputs(layer, module, args[0]).flatten(0, -2).float(), output.flatten(0, -2).float()
        at = outputs.abs().argmax(0)
        value, there = outputs.gather(0, at[None])[0], inputs[at]
        if layer.name in peaks:
            old, before = peaks[layer.name]
            larger = value.abs() > old.abs()
            value, there = torch.where(larger, value, old), torch.where(larger[:, None], there, before)
        peaks[layer.name] = value, there

    return watch


def _spikes(layer: Layer, weight: Tensor, outputs: Tensor, inputs: Tensor, threshold: float) -> list[SuperWeight]:
    rows = torch.nonzero(outputs.abs() > threshold).flatten()
    columns = (weight[rows] * inputs[rows]).abs().argmax(1)
    spikes = [
        SuperWeight(layer.name, row, column, float(weight[row, column]), float(inputs[row, column]), float(outputs[row]))
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
    ]
    return sorted((spike for spike in spikes if abs(spike.input) > threshold), key=lambda spike: -abs(spike.output))


def protected_entries(loaded: LoadedModel, inputs: Callable[[], Tensor], watcher: Watcher) -> dict[str, tuple[Tensor, Tensor]]:
    """{layer name: (rows, columns)} of the super weights of a model, and says which they are."""
    found = find_super_weights(loaded, inputs()[:SEQUENCES], THRESHOLD, watcher)
    said = ", ".join(f"{spike.layer}[{spike.row}, {spike.column}]" for spike in found[:6]) + (", ..." if len(found) > 6 else "")
    text = (
        f"Super weights kept: {said}."
        if found
        else f"No super weight was found: no spike above {THRESHOLD:g} goes through an MLP."
    )
    watcher.say(Progress("super weights", kind="note", text=text))
    places: dict[str, tuple[list[int], list[int]]] = {}
    for spike in found:
        rows, columns = places.setdefault(spike.layer, ([], []))
        rows.append(spike.row)
        columns.append(spike.column)
    return {name: (torch.tensor(rows), torch.tensor(columns)) for name, (rows, columns) in places.items()}
