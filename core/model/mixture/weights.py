"""Single weights inside experts to zero, unstructured or N:M: score -> decide -> apply, block by block, with the pruned activations propagated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from core.errors import RecipeError
from core.method import get
from core.model.anatomy import Layer
from core.model.budgets.allocating import check_structure
from core.model.loading import LoadedModel
from core.model.masks import PackedMask, decide
from core.model.measuring.counts import check_in_memory
from core.model.mixture.experts import ExpertLayer, expert_layers
from core.model.mixture.reading import matrices, reads
from core.model.mixture.routing import Routed
from core.model.mixture.search import Visit, passing
from core.model.observe import each_changed, have, of_kind
from core.model.pruning.choosing import chosen_groups, units_by_hand
from core.model.pruning.pruned import Pruned
from core.model.pruning.task import Task
from core.recipe import Prune
from core.report import LayerRow

INSIDE = "experts"  # what the card of such a criterion says
KIND = "expert weights"  # of its statistics


@dataclass
class _Work:
    """A step under way. turned: {layer name: {weight: is each expert's matrix stored (in, out)?}}."""

    task: Task
    shares: Mapping[str, float]
    turned: Mapping[str, Mapping[str, bool]]
    masks: dict[str, PackedMask] = field(default_factory=dict)
    rows: list[LayerRow] = field(default_factory=list)
    scores: dict[str, Tensor] = field(default_factory=dict)


def prune_expert_weights(task: Task) -> Pruned:
    """Carry out a step for the weights inside experts on the model in memory; all other weights stay as they are.

    Each expert's matrices are scored, each compared within itself. Raises RecipeError or ModelError before any weight has changed.
    """
    loaded, step = task.loaded, task.step
    check_in_memory(loaded)
    layers = chosen_groups(expert_layers(loaded.model, loaded.anatomy.blocks), loaded.anatomy, step)
    turned = {layer.name: _turned(loaded, layer) for layer in layers}
    check_structure(
        step, [_as_layer(loaded, layer, name, turned[layer.name][name]) for layer in layers for name in turned[layer.name]]
    )
    work = _Work(task, _shares(loaded, step, layers), turned)
    by_block = {layer.block: layer for layer in layers}
    for block, module, hidden, extra in each_changed(loaded, task.inputs(), task.watcher, task.stage, by_block):
        layer = by_block[block.index]
        _prune_layer(work, layer, Visit(loaded.model, layer, module, hidden, extra, task.watcher))
    return Pruned(loaded, work.masks, rows=tuple(work.rows), scores=work.scores)


def _turned(loaded: LoadedModel, layer: ExpertLayer) -> dict[str, bool]:
    experts = loaded.module(layer.path)
    one = next(iter(matrices(experts).values()))
    hidden = loaded.module(layer.router).weight.shape[-1]
    return {name: read.turned for name, read in reads(experts, 0, one.new_zeros(1, hidden)).items()}


def _as_layer(loaded: LoadedModel, layer: ExpertLayer, name: str, turned: bool) -> Layer:
    """One expert's matrix as the checks of single weights know it."""
    shape = tuple(matrices(loaded.module(layer.path))[name].shape[1:])
    shape = shape[::-1] if turned else shape
    return Layer(f"{layer.name}.{name}", f"{layer.path}.{name}", "other", "linear", shape, layer.block, shape[0] * shape[1])


def _shares(loaded: LoadedModel, step: Prune, layers: Sequence[ExpertLayer]) -> dict[str, float]:
    if step.allocation.method == "by_hand":
        return units_by_hand(step.allocation.shares, loaded.anatomy, layers)
    if step.allocation.method != "uniform":
        raise RecipeError(
            f"Allocation {step.allocation.method} looks at layers, and the weights inside experts are none.",
            "Use uniform or by_hand for them.",
        )
    sizes = {layer.name: layer.parameters for layer in layers}
    return get("allocator", "uniform")({"sizes": sizes, "sparsity": step.sparsity}, step.allocation.params)


def _prune_layer(work: _Work, layer: ExpertLayer, visit: Visit) -> None:
    """Observe one block's experts, and prune each matrix of each."""
    task, turned = work.task, work.turned[layer.name]
    method, step = task.method, task.step
    statistics = _observed(visit, of_kind(method.needed(step.params), KIND), turned)
    task.will_write(*task.loaded.module(layer.path).parameters(recurse=False))
    for name, weight in matrices(task.loaded.module(layer.path)).items():
        keep, means = torch.ones(weight.shape, dtype=torch.bool), []
        for expert in range(layer.count):
            place = f"{layer.name}.{expert}.{name}"
            flat, kept = (each.T if turned[name] else each for each in (weight[expert], keep[expert]))
            given = have(flat.float(), tuple(flat.shape), task.generator(place), statistics[expert, name])
            scores = method(given, step.params)
            kept.copy_(decide(scores, step.structure, work.shares[layer.name], method.card.compare, place, gone=flat == 0))
            flat.masked_fill_(~kept.to(flat.device), 0.0)
            means.append(float(scores.mean()))
        work.masks[f"{layer.path}.{name}"] = PackedMask.of(keep)
        work.scores[f"{layer.name}.{name}"] = torch.tensor(means)
        share, reached = work.shares[layer.name], 1 - float(keep.float().mean())
        work.rows.append(
            LayerRow(
                f"{layer.name}.{name}", layer.block, tuple(weight.shape), weight.numel(), share, reached, sum(means) / len(means)
            )
        )


def _observed(visit: Visit, names: Sequence[str], turned: Mapping[str, bool]) -> dict[tuple[int, str], dict[str, Tensor]]:
    """{(expert, weight): {statistic: tensor}} while all batches pass the block. An expert that no token visits has seen no token."""
    methods = [get("statistic", name) for name in names]
    states: dict[tuple[int, str], dict[str, Any]] = {}
    for name, weight in matrices(visit.model.get_submodule(visit.layer.path)).items():
        none = weight.new_zeros(0, weight.shape[1 if turned[name] else 2], dtype=torch.float32)
        for expert in range(visit.layer.count):
            states[expert, name] = {m.card.name: m.function(None, none, none.new_zeros(0)) for m in methods}

    def fold(routed: Routed) -> None:
        for expert in range(routed.count):
            token, place = torch.where(routed.chosen == expert)
            if len(token):
                gates = routed.gates[token, place].float()
                for name, read in reads(routed.experts, expert, routed.inputs[token]).items():
                    state = states[expert, name]
                    for method in methods:
                        state[method.card.name] = method.function(state[method.card.name], read.inputs.float(), gates)

    passing(visit, fold)
    sequences = sum(len(batch) for batch in visit.hidden)
    return {
        key: {m.card.name: m.extra["finish"](state[m.card.name], sequences) for m in methods} for key, state in states.items()
    }
