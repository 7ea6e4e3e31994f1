"""Single weights to zero, unstructured or N:M: score -> allocate -> decide -> apply, block by block, with the pruned activations propagated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from core.errors import RecipeError
from core.events import Progress, follow
from core.model import blocks
from core.model.anatomy import Layer
from core.model.budgets.allocating import allocate, asked_of_layers, check_structure, gather, needs_of_allocation
from core.model.gradients import check_has_gradient, gradient_statistics
from core.model.loading import LoadedModel
from core.model.looking.super_weights import PROTECT, protected_entries
from core.model.masks import PackedMask, decide
from core.model.mixture.experts import expert_layers
from core.model.mixture.reading import matrices
from core.model.observe import Statistics, check_collectable, matrix, observe_block, of_kind, stream
from core.model.pruning.choosing import check_spared, chosen_layers
from core.model.pruning.pruned import Pruned
from core.model.pruning.scoring import given_to_score, layer_scores, output_error
from core.model.pruning.task import Task
from core.recipe import n_of_m
from core.report import LayerRow


def prune_weights(task: Task) -> Pruned:
    """Carry out an unstructured or N:M step on the model in memory."""
    loaded, step, method = task.loaded, task.step, task.method
    spared = PROTECT in step.protect
    check_spared(step, method.card.kind)
    layers = chosen_layers(loaded.anatomy, step.only, [name for name in step.protect if name != PROTECT])
    check_structure(step, layers)
    own = method.needed(step.params)
    for layer in layers if of_kind(own, "layer") else ():
        check_collectable(layer, loaded.module(layer.path))
    gradients = _gradients(task, layers, needs_of_allocation(step, method) | own)
    shares = _shares(task, layers, gradients)
    dense = experts_left_dense(loaded)
    if dense:
        said = f"The {dense:,} weights inside experts are in no layer, and stay dense: moe_pruner prunes those, structure experts whole ones."
        task.watcher.say(Progress(task.stage, kind="note", text=said))
    work = _Work(task, shares, gradients, protected_entries(loaded, task.inputs, task.watcher) if spared else {})
    if of_kind(own, "layer", "block"):
        done = _prune_streaming(work)
        return replace(done, said={"expert_weights_left_dense": dense}) if dense else done
    for layer in follow(layers, task.stage, task.watcher):
        with loaded.holding(layer):
            _prune_layer(work, layer, {})
            if layer.block is not None:
                loaded.changed(layer.block)
    done = work.pruned()
    return replace(done, said={"expert_weights_left_dense": dense}) if dense else done


def experts_left_dense(loaded: LoadedModel) -> int:
    """How many weights lie inside the experts of a mixture, where a step for the weights of layers does not come."""
    if "experts" in loaded.anatomy.refused:
        return 0
    layers = expert_layers(loaded.model, loaded.anatomy.blocks)
    return sum(weight.numel() for layer in layers for weight in matrices(loaded.module(layer.path)).values())


def _gradients(task: Task, layers: Sequence[Layer], needs: frozenset[str]) -> dict[str, Statistics]:
    """{layer name: its gradient statistics on the calibration text, and on the general text, which is read first: it may be missing}."""
    loaded, general, watcher = task.loaded, task.texts.general, task.watcher
    second = of_kind(needs, "general gradient")
    if second and general is None:
        raise RecipeError("This criterion reads a second text, and the step names none.",
                          "Say which, such as general: {source: builtin:wikitext2/train}.")  # fmt: skip
    if second:
        check_has_gradient(loaded)  # before a text is read: an image classifier has none
    ids = general() if second else None
    found = gradient_statistics(loaded, layers, of_kind(needs, "gradient"), task.inputs, watcher)
    for name, statistics in gradient_statistics(loaded, layers, second, lambda: ids, watcher).items():
        found[name] = found.get(name, {}) | statistics
    return found


def _shares(task: Task, layers: Sequence[Layer], gradients: Mapping[str, Statistics]) -> dict[str, float]:
    """Allocate: the share that each layer gives. A score that could fail is rehearsed on the same pass of the dense model."""
    step, method = task.step, task.method
    needs, rehearse = needs_of_allocation(step, method), method.extra.get("rehearse")
    asked = asked_of_layers(task, layers)
    if rehearse:
        needs |= method.needed(step.params)
    known = gather(task, layers, needs, gradients)
    for layer in layers if rehearse else ():
        rehearse(given_to_score(task.loaded, layer, known.layers[layer.name], task.seed), step.params)
    return allocate(task, asked, layers, known)


@dataclass
class _Work:
    """A step under way: what it was given (gradients of the dense model; entries, (rows, columns), that stay whatever their score), what it has made."""

    task: Task
    shares: Mapping[str, float]
    gradients: dict[str, Statistics]
    spared: Mapping[str, tuple[Tensor, Tensor]]
    masks: dict[str, PackedMask] = field(default_factory=dict)
    rows: list[LayerRow] = field(default_factory=list)
    scores: dict[str, Tensor] = field(default_factory=dict)

    def add(self, layer: Layer, keep: Tensor, scores: Tensor, error: float | None) -> None:
        """Note a layer's mask (kept, as (out, in)) and what it cost."""
        shaped = keep.T if layer.kind == "conv1d" else keep.reshape(layer.shape)
        self.masks[layer.path] = PackedMask.of(shaped.contiguous())
        weight = self.task.loaded.module(layer.path).weight
        reached, mean = 1 - int(torch.count_nonzero(weight)) / weight.numel(), None  # zeros that were there before count too
        if self.task.method.card.kind == "score":  # a solver has none
            self.scores[f"{layer.name}.rows"], self.scores[f"{layer.name}.columns"] = scores.mean(1), scores.mean(0)
            mean = float(scores.mean())
        share = self.shares[layer.name]
        self.rows.append(LayerRow(layer.name, layer.block, layer.shape, layer.parameters, share, reached, mean, error))

    def pruned(self) -> Pruned:
        return Pruned(self.task.loaded, self.masks, (), tuple(self.rows), self.scores)


def _prune_streaming(work: _Work) -> Pruned:
    """Each block: observe it dense, prune its layers, run it again pruned to feed the next one."""
    task, loaded, watcher = work.task, work.task.loaded, work.task.watcher
    names = of_kind(task.method.needed(task.step.params), "layer", "block")
    last = max((b.index for b in loaded.anatomy.blocks if any(layer.name in work.shares for layer in b.layers)), default=-1)
    for block, module, hidden, extra in stream(loaded, task.inputs(), watcher, task.stage):
        touched = tuple(layer for layer in block.layers if layer.name in work.shares)
        if block.index > last:
            continue
        if touched:
            part = replace(block, layers=touched)
            statistics = observe_block(loaded, part, module, hidden, extra, names, watcher)[0]
            for layer in touched:
                _prune_layer(work, layer, statistics[layer.name])
            loaded.changed(block.index)
        if block.index < last:
            blocks.advance(module, hidden, extra, watcher)
    return work.pruned()


def _prune_layer(work: _Work, layer: Layer, statistics: Statistics) -> None:
    """Score one layer, decide its mask, set what falls to zero; a solver does all three at once."""
    task, share = work.task, work.shares[layer.name]
    loaded, step, method = task.loaded, task.step, task.method
    weight, gram = loaded.module(layer.path).weight, statistics.get("gram")
    task.will_write(weight)
    flat = matrix(layer, weight.data)
    statistics = statistics | work.gradients.pop(layer.name, {})
    before = flat.float().clone() if gram is not None else None
    if method.card.kind == "solver":
        given = given_to_score(loaded, layer, statistics, task.seed)
        scores, keep = method(given | {"share": share, "pattern": n_of_m(step.structure), "watcher": task.watcher}, step.params)
    else:
        scores = layer_scores(loaded, layer, method, step.params, statistics, task.seed)
        keep = decide(scores, step.structure, share, method.card.compare, layer.name, work.spared.get(layer.name), flat == 0)
    with torch.no_grad():
        if method.card.kind == "solver":
            flat.copy_(scores)
        flat.masked_fill_(~keep.to(flat.device), 0.0)
    work.add(layer, keep, scores, None if gram is None else output_error(before, flat.float(), gram))
