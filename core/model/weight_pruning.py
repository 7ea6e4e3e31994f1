"""Single weights to zero, unstructured or N:M: score -> allocate -> decide -> apply, block by block, with the pruned activations propagated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from core.cost import Owed
from core.errors import RecipeError
from core.events import Watcher, follow
from core.method import Method
from core.model import blocks
from core.model.allocating import allocate, asked_of_layers, check_structure, gather, needs_of_allocation
from core.model.anatomy import Layer
from core.model.choosing import chosen_layers
from core.model.gradients import check_has_gradient, gradient_statistics
from core.model.loading import LoadedModel
from core.model.masks import PackedMask, decide
from core.model.observe import Statistics, check_collectable, matrix, observe_block, of_kind, stream
from core.model.pruned import Pruned
from core.model.scoring import given_to_score, layer_scores, output_error
from core.model.super_weights import PROTECT, protected_entries
from core.recipe import Prune, n_of_m
from core.report import LayerRow


def prune_weights(
    loaded: LoadedModel, step: Prune, method: Method, inputs: Callable[[], Tensor], seed: int, watcher: Watcher,
    owed: Owed | None = None, general: Callable[[], Tensor] | None = None,
) -> Pruned:  # fmt: skip
    """Carry out an unstructured or N:M step on the model in memory. owed: its budget; general(): ids of its second text, for a method that reads one."""
    spared = PROTECT in step.protect
    if spared and method.card.kind == "solver":
        raise RecipeError(f"{step.method} chooses its weights while it solves, so single ones cannot be protected from it.",
                          "Leave super_weights out of protect, or use a criterion such as wanda.")  # fmt: skip
    layers = chosen_layers(loaded.anatomy, step.only, [name for name in step.protect if name != PROTECT])
    check_structure(step, layers)
    own = method.needed(step.params)
    for layer in layers if of_kind(own, "layer") else ():
        check_collectable(layer, loaded.module(layer.path))
    gradients = _gradients(loaded, layers, needs_of_allocation(step, method) | own, inputs, general, watcher)
    shares = _shares(loaded, step, method, layers, gradients, inputs, seed, watcher, owed)
    work = _Work(
        loaded, step, method, shares, gradients, protected_entries(loaded, inputs, watcher) if spared else {}, seed, watcher
    )
    if of_kind(own, "layer", "block"):
        return _prune_streaming(work, inputs())
    for layer in follow(layers, f"prune: {step.method}", watcher):
        with loaded.holding(layer):
            _prune_layer(work, layer, {})
            if layer.block is not None:
                loaded.changed(layer.block)
    return work.pruned()


def _gradients(loaded: LoadedModel, layers: Sequence[Layer], needs: frozenset[str], inputs: Callable[[], Tensor],
               general: Callable[[], Tensor] | None, watcher: Watcher) -> dict[str, Statistics]:  # fmt: skip
    """{layer name: its gradient statistics on the calibration text, and on the general text, which is read first: it may be missing}."""
    second = of_kind(needs, "general gradient")
    if second and general is None:
        raise RecipeError("This criterion reads a second text, and the step names none.",
                          "Say which, such as general: {source: builtin:wikitext2/train}.")  # fmt: skip
    if second:
        check_has_gradient(loaded)  # before a text is read: an image classifier has none
    ids = general() if second else None
    found = gradient_statistics(loaded, layers, of_kind(needs, "gradient"), inputs, watcher)
    for name, statistics in gradient_statistics(loaded, layers, second, lambda: ids, watcher).items():
        found[name] = found.get(name, {}) | statistics
    return found


def _shares(loaded: LoadedModel, step: Prune, method: Method, layers: Sequence[Layer], gradients: Mapping[str, Statistics],
            inputs: Callable[[], Tensor], seed: int, watcher: Watcher, owed: Owed | None) -> dict[str, float]:  # fmt: skip
    """Allocate: the share that each layer gives. A score that could fail is rehearsed on the same pass of the dense model."""
    needs, rehearse = needs_of_allocation(step, method), method.extra.get("rehearse")
    asked = asked_of_layers(loaded, step, method, layers, owed)
    if rehearse:
        needs |= method.needed(step.params)
    known = gather(loaded, step, method, layers, needs, gradients, inputs, seed, watcher)
    for layer in layers if rehearse else ():
        rehearse(given_to_score(loaded, layer, known.layers[layer.name], seed), step.params)
    return allocate(loaded, asked, method, layers, known, inputs, seed, watcher)


@dataclass
class _Work:
    """A step under way: what it was given (gradients of the dense model; entries, (rows, columns), that stay whatever their score), what it has made."""

    loaded: LoadedModel
    step: Prune
    method: Method
    shares: Mapping[str, float]
    gradients: dict[str, Statistics]
    spared: Mapping[str, tuple[Tensor, Tensor]]
    seed: int
    watcher: Watcher
    masks: dict[str, PackedMask] = field(default_factory=dict)
    rows: list[LayerRow] = field(default_factory=list)
    scores: dict[str, Tensor] = field(default_factory=dict)

    def add(self, layer: Layer, keep: Tensor, scores: Tensor, error: float | None) -> None:
        """Note a layer's mask (kept, as (out, in)) and what it cost."""
        shaped = keep.T if layer.kind == "conv1d" else keep.reshape(layer.shape)
        self.masks[layer.path] = PackedMask.of(shaped.contiguous())
        reached, mean = 1 - float(keep.float().mean()), None
        if self.method.card.kind == "score":  # a solver has none
            self.scores[f"{layer.name}.rows"], self.scores[f"{layer.name}.columns"] = scores.mean(1), scores.mean(0)
            mean = float(scores.mean())
        share = self.shares[layer.name]
        self.rows.append(LayerRow(layer.name, layer.block, layer.shape, layer.parameters, share, reached, mean, error))

    def pruned(self) -> Pruned:
        return Pruned(self.loaded, self.masks, (), tuple(self.rows), self.scores)


def _prune_streaming(work: _Work, inputs: Tensor) -> Pruned:
    """Each block: observe it dense, prune its layers, run it again pruned to feed the next one."""
    loaded, names = work.loaded, of_kind(work.method.needed(work.step.params), "layer", "block")
    last = max((b.index for b in loaded.anatomy.blocks if any(layer.name in work.shares for layer in b.layers)), default=-1)
    for block, module, hidden, extra in stream(loaded, inputs, work.watcher, f"prune: {work.step.method}"):
        touched = tuple(layer for layer in block.layers if layer.name in work.shares)
        if block.index > last:
            continue
        if touched:
            part = replace(block, layers=touched)
            statistics = observe_block(loaded, part, module, hidden, extra, names, work.watcher)[0]
            for layer in touched:
                _prune_layer(work, layer, statistics[layer.name])
            loaded.changed(block.index)
        if block.index < last:
            blocks.advance(module, hidden, extra, work.watcher)
    return work.pruned()


def _prune_layer(work: _Work, layer: Layer, statistics: Statistics) -> None:
    """Score one layer, decide its mask, set what falls to zero; a solver does all three at once."""
    step, method, share = work.step, work.method, work.shares[layer.name]
    flat, gram = matrix(layer, work.loaded.module(layer.path).weight.data), statistics.get("gram")
    statistics = statistics | work.gradients.pop(layer.name, {})
    before = flat.float().clone() if gram is not None else None
    if method.card.kind == "solver":
        given = given_to_score(work.loaded, layer, statistics, work.seed)
        scores, keep = method(given | {"share": share, "pattern": n_of_m(step.structure), "watcher": work.watcher}, step.params)
    else:
        scores = layer_scores(work.loaded, layer, method, step.params, statistics, work.seed)
        keep = _decided(work, layer, scores)
    with torch.no_grad():
        if method.card.kind == "solver":
            flat.copy_(scores)
        flat.masked_fill_(~keep.to(flat.device), 0.0)
    work.add(layer, keep, scores, None if gram is None else output_error(before, flat.float(), gram))


def _decided(work: _Work, layer: Layer, scores: Tensor) -> Tensor:
    """The layer's mask; its spared entries stay, and others go in their place."""
    share, compare = work.shares[layer.name], work.method.card.compare
    if layer.name not in work.spared:
        return decide(scores, work.step.structure, share, compare, layer.name)
    rows, columns = (places.to(scores.device) for places in work.spared[layer.name])
    keep = decide(
        scores.index_put((rows, columns), scores.new_tensor(torch.inf)), work.step.structure, share, compare, layer.name
    )
    return keep.index_put((rows, columns), keep.new_tensor(True))  # where all were to go, too
