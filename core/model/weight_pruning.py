"""Single weights to zero, unstructured or N:M: score -> allocate -> decide -> apply, block by block, with the pruned activations propagated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from core.errors import RecipeError
from core.events import Watcher, follow
from core.method import Method, get
from core.model import blocks
from core.model.anatomy import Layer
from core.model.choosing import by_hand, chosen_layers
from core.model.loading import LoadedModel
from core.model.masks import PackedMask, decide, generator
from core.model.observe import have, matrix, observe_block, statistics_of, stream
from core.model.pruned import Pruned
from core.recipe import Prune, n_of_m
from core.report import LayerRow


def prune_weights(
    loaded: LoadedModel, step: Prune, method: Method, inputs: Callable[[], Tensor], seed: int, watcher: Watcher
) -> Pruned:
    """Carry out an unstructured or N:M step on the model in memory."""
    layers = chosen_layers(loaded.anatomy, step.only, step.protect)
    shares = _shares(loaded, step, method, layers, inputs, seed, watcher)
    if statistics_of([method]):
        return _prune_streaming(loaded, step, method, shares, inputs(), seed, watcher)
    found = _Found()
    for layer in follow(layers, f"prune: {step.method}", watcher):
        _prune_layer(loaded, layer, step, method, shares[layer.name], {}, seed, found, watcher)
    return found.pruned(loaded)


def _shares(loaded: LoadedModel, step: Prune, method: Method, layers: Sequence[Layer], inputs: Callable[[], Tensor], seed: int,
            watcher: Watcher) -> dict[str, float]:  # fmt: skip
    """Allocate: the share that each layer gives."""
    if n_of_m(step.structure):
        if step.allocation.method != "uniform":
            raise RecipeError(
                f"{step.structure} fixes the share of every layer.", "Leave allocation out, or choose structure: unstructured."
            )
        for layer in layers:  # refuse before anything has changed
            decide(torch.zeros(1, layer_columns(layer)), step.structure, step.sparsity, "row", layer.name)
    if step.allocation.method == "by_hand":
        return by_hand(step.allocation.shares, loaded.anatomy, layers)
    allocator = get("allocator", step.allocation.method)
    given: dict[str, object] = {"sizes": {layer.name: layer.parameters for layer in layers}, "sparsity": step.sparsity}
    if "scores" in allocator.needs:
        statistics = _dense_statistics(loaded, method, inputs, watcher)
        by_name = {layer.name: layer for layer in layers}

        def scores(name: str) -> Tensor:
            return _scores(loaded, by_name[name], step, method, statistics.get(name, {}), seed).flatten().cpu()

        given["scores"] = scores
    return allocator(given, step.allocation.params)


def layer_columns(layer: Layer) -> int:
    """Inputs of a layer's weight as a matrix."""
    return layer.parameters // layer.shape[0]


def _dense_statistics(
    loaded: LoadedModel, method: Method, inputs: Callable[[], Tensor], watcher: Watcher
) -> dict[str, dict[str, Tensor]]:
    """Statistics of every layer of the model as it stands, for scores that are compared across layers."""
    names, found = statistics_of([method]), {}
    if names:
        for block, module, hidden, extra in stream(loaded, inputs(), watcher, "observe"):
            found |= observe_block(loaded, block, module, hidden, extra, names, watcher, keep_outputs=True)[0]
    return found


def _prune_streaming(loaded: LoadedModel, step: Prune, method: Method, shares: Mapping[str, float], inputs: Tensor, seed: int,
                     watcher: Watcher) -> Pruned:  # fmt: skip
    """Each block: observe it dense, prune its layers, run it again pruned to feed the next one."""
    found, names = _Found(), statistics_of([method])
    last = max((b.index for b in loaded.anatomy.blocks if any(layer.name in shares for layer in b.layers)), default=-1)
    for block, module, hidden, extra in stream(loaded, inputs, watcher, f"prune: {step.method}"):
        touched = [layer for layer in block.layers if layer.name in shares]
        if block.index > last:
            continue
        statistics = (
            observe_block(loaded, replace(block, layers=tuple(touched)), module, hidden, extra, names, watcher)[0]
            if touched
            else {}
        )
        for layer in touched:
            _prune_layer(loaded, layer, step, method, shares[layer.name], statistics[layer.name], seed, found, watcher)
        if block.index < last:
            blocks.advance(module, hidden, extra, watcher)
    return found.pruned(loaded)


@dataclass
class _Found:
    """What has been pruned so far."""

    masks: dict[str, PackedMask] = field(default_factory=dict)
    rows: list[LayerRow] = field(default_factory=list)
    scores: dict[str, Tensor] = field(default_factory=dict)

    def add(self, layer: Layer, keep: Tensor, scores: Tensor, share: float, error: float | None) -> None:
        """Note a layer's mask (kept, as (out, in)) and what it cost."""
        shaped = keep.T if layer.kind == "conv1d" else keep.reshape(layer.shape)
        self.masks[layer.path] = PackedMask.of(shaped.contiguous())
        self.scores[f"{layer.name}.rows"], self.scores[f"{layer.name}.columns"] = scores.mean(1), scores.mean(0)
        reached, mean = 1 - float(keep.float().mean()), float(scores.mean())
        self.rows.append(LayerRow(layer.name, layer.block, layer.shape, layer.parameters, share, reached, mean, error))

    def pruned(self, loaded: LoadedModel) -> Pruned:
        return Pruned(loaded, self.masks, (), tuple(self.rows), self.scores)


def _scores(
    loaded: LoadedModel, layer: Layer, step: Prune, method: Method, statistics: Mapping[str, Tensor], seed: int
) -> Tensor:
    weight = matrix(layer, loaded.module(layer.path).weight.detach()).float()
    return method(have(weight, tuple(weight.shape), generator(seed, layer.name), statistics), step.params)


def _prune_layer(loaded: LoadedModel, layer: Layer, step: Prune, method: Method, share: float, statistics: Mapping[str, Tensor], seed: int,
                 found: _Found, watcher: Watcher) -> None:  # fmt: skip
    """Score one layer, decide its mask, set what falls to zero; a solver does all three at once."""
    flat, gram = matrix(layer, loaded.module(layer.path).weight.data), statistics.get("gram")
    before = flat.float().clone() if gram is not None else None
    if method.card.kind == "solver":
        given = have(flat.float(), tuple(flat.shape), generator(seed, layer.name), statistics)
        given |= {"share": share, "pattern": n_of_m(step.structure), "watcher": watcher}
        scores, keep = method(given, step.params)
    else:
        scores = _scores(loaded, layer, step, method, statistics, seed)
        keep = decide(scores, step.structure, share, method.card.compare, layer.name)
    with torch.no_grad():
        if method.card.kind == "solver":
            flat.copy_(scores)
        flat.masked_fill_(~keep.to(flat.device), 0.0)
    found.add(layer, keep, scores, share, None if gram is None else output_error(before, flat.float(), gram))


def output_error(before: Tensor, after: Tensor, gram: Tensor) -> float:
    """How much of a layer's output on the calibration inputs is lost: |(before - after) X|^2 / |before X|^2, from gram = X X^T. Weights (out, in)."""
    gram, lost = gram.to(before.device, torch.float32), before - after
    whole = float((before @ gram).mul_(before).sum(dtype=torch.float64))
    return float((lost @ gram).mul_(lost).sum(dtype=torch.float64)) / whole if whole > 0 else 0.0
