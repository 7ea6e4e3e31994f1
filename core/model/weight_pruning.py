"""Single weights to zero, unstructured or N:M: score -> allocate -> decide -> apply, block by block, with the pruned activations propagated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from core.events import Watcher, follow
from core.method import Method
from core.model import blocks
from core.model.allocating import allocate, check_structure, gather, needs_of_allocation
from core.model.anatomy import Layer
from core.model.choosing import chosen_layers
from core.model.gradients import gradient_statistics
from core.model.loading import LoadedModel
from core.model.masks import PackedMask, decide, generator
from core.model.observe import Statistics, have, matrix, observe_block, of_kind, stream
from core.model.pruned import Pruned
from core.model.scoring import layer_scores, output_error
from core.recipe import Prune, n_of_m
from core.report import LayerRow


def prune_weights(
    loaded: LoadedModel, step: Prune, method: Method, inputs: Callable[[], Tensor], seed: int, watcher: Watcher
) -> Pruned:
    """Carry out an unstructured or N:M step on the model in memory."""
    layers = chosen_layers(loaded.anatomy, step.only, step.protect)
    check_structure(step, layers)
    needs = needs_of_allocation(step, method)
    own = method.needed(step.params)
    gradients = gradient_statistics(loaded, layers, of_kind(needs | own, "gradient"), inputs, watcher)
    known = gather(loaded, step, method, layers, needs, gradients, inputs, seed, watcher)
    shares = allocate(loaded, step, method, layers, known, seed, watcher)
    if of_kind(own, "layer", "block"):
        return _prune_streaming(loaded, step, method, shares, gradients, inputs(), seed, watcher)
    found = _Found()
    for layer in follow(layers, f"prune: {step.method}", watcher):
        _prune_layer(loaded, layer, step, method, shares[layer.name], gradients.pop(layer.name, {}), seed, found, watcher)
    return found.pruned(loaded)


def _prune_streaming(loaded: LoadedModel, step: Prune, method: Method, shares: Mapping[str, float],
                     gradients: dict[str, Statistics], inputs: Tensor, seed: int, watcher: Watcher) -> Pruned:  # fmt: skip
    """Each block: observe it dense, prune its layers, run it again pruned to feed the next one. `gradients`: of the dense model."""
    found, names = _Found(), of_kind(method.needed(step.params), "layer", "block")
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
            given = statistics[layer.name] | gradients.pop(layer.name, {})
            _prune_layer(loaded, layer, step, method, shares[layer.name], given, seed, found, watcher)
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
        scores = layer_scores(loaded, layer, method, step.params, statistics, seed)
        keep = decide(scores, step.structure, share, method.card.compare, layer.name)
    with torch.no_grad():
        if method.card.kind == "solver":
            flat.copy_(scores)
        flat.masked_fill_(~keep.to(flat.device), 0.0)
    found.add(layer, keep, scores, share, None if gram is None else output_error(before, flat.float(), gram))
