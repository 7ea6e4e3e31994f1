"""Whole experts out of a mixture: score -> decide -> cut, block by block, with the cut model's activations propagated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from inspect import signature

import torch
from torch import Tensor

from core.cost import Owed, steps_needed
from core.errors import RecipeError
from core.events import follow
from core.method import Method, get
from core.model.anatomy import read_anatomy
from core.model.budgets.asked import check_met
from core.model.budgets.costing import expert_price
from core.model.loading import LoadedModel
from core.model.masks import finite, nearest
from core.model.measuring.counts import check_in_memory
from core.model.mixture.check import check
from core.model.mixture.experts import ExpertLayer, cut_experts, expert_layers, rows, tell, tell_one
from core.model.mixture.search import Visit, observed, searched
from core.model.observe import each_changed, have, of_kind
from core.model.pruning.choosing import chosen_groups, units_by_hand
from core.model.pruning.pruned import Pruned, UnitCut
from core.model.pruning.second import second_models
from core.model.pruning.task import Task
from core.model.width.widths import settle
from core.report import LayerRow
from kernels.masks import keep_highest


@dataclass
class _Work:
    """A step under way. goes: how many experts each layer gives, by its name. seconds: other models that the method names, by its parameters."""

    task: Task
    seconds: Mapping[str, LoadedModel]
    shares: Mapping[str, float]
    goes: Mapping[str, int]
    rows: list[LayerRow] = field(default_factory=list)
    scores: dict[str, Tensor] = field(default_factory=dict)
    cuts: list[UnitCut] = field(default_factory=list)


def prune_experts(task: Task) -> Pruned:
    """Carry out a step for experts on the model in memory: what goes is really gone, and the config says so.

    The router never chooses what is gone, and chooses among the rest as it always did. Where fewer experts are left than a token visits, it visits
    all that are left. Raises RecipeError or ModelError before any weight has changed.
    """
    loaded, method = task.loaded, task.method
    check_in_memory(loaded)
    layers = expert_layers(loaded.model, loaded.anatomy.blocks)
    chosen = chosen_groups(layers, loaded.anatomy, task.step)
    shares, goes = _shares(task, layers, chosen)
    check(loaded, layers, layers[0].count - goes[layers[0].name])
    work = _Work(task, second_models(loaded, method, task.step.params), shares, goes)
    if method.card.kind == "search" or _statistics(method):
        _prune_streaming(work, chosen)
    else:
        for layer in follow(chosen, task.stage, task.watcher):
            _prune_layer(work, layer, None)
    done, said = told(loaded, layers[0], layers[0].count - goes[layers[0].name])
    return Pruned(done, rows=tuple(work.rows), scores=work.scores, cuts=tuple(work.cuts), said=said)


def told(loaded: LoadedModel, layer: ExpertLayer, kept: int) -> tuple[LoadedModel, dict[str, int]]:
    """After every block was cut: the model and its config say how many experts are left, and so does what is returned for the report."""
    tell(loaded.model, layer, kept)
    tell_one(loaded.model.config.get_text_config(), layer, kept)
    settle(loaded.model)
    return replace(loaded, anatomy=read_anatomy(loaded.model)), {"experts_a_token": min(layer.top_k, kept)}


def _shares(task: Task, layers: Sequence[ExpertLayer], chosen: Sequence[ExpertLayer]) -> tuple[dict[str, float], dict[str, int]]:
    """The share that each chosen layer gives, and how many experts that is, of all layers. One config's number holds for all blocks."""
    loaded, step = task.loaded, task.step
    if step.allocation.method == "by_hand":
        shares = units_by_hand(step.allocation.shares, loaded.anatomy, chosen)
    else:
        sparsity = step.sparsity if task.owed is None else _share_owed(loaded, chosen, task.owed)
        given = {"sizes": {layer.name: layer.count for layer in chosen}, "sparsity": sparsity}
        shares = get("allocator", step.allocation.method)(given, step.allocation.params)
        if task.owed is None:
            check_met(
                sum(min(share * layer.count, layer.count - 1) for layer, share in zip(chosen, shares.values(), strict=True)),
                step,
                given["sizes"],
            )
    goes = {layer.name: min(nearest(shares.get(layer.name, 0.0) * layer.count), layer.count - 1) for layer in layers}
    kept = {layer.name: layer.count - goes[layer.name] for layer in layers}
    if len(set(kept.values())) > 1:
        few, many = min(kept, key=lambda name: kept[name]), max(kept, key=lambda name: kept[name])
        raise RecipeError(
            f"Blocks would keep unequal numbers of experts ({few}: {kept[few]}, {many}: {kept[many]}), and a config holds one for all.",
            "Give every block with experts the same share, and protect none of them.",
        )
    return shares, goes


def _share_owed(loaded: LoadedModel, layers: Sequence[ExpertLayer], owed: Owed) -> float:
    """The smallest share of every block's experts that meets a budget. Raises RecipeError where none does."""
    price = expert_price(loaded, layers, owed)
    owed.check(price(price.most))
    return steps_needed(price, owed.amount) / price.steps


def _statistics(method: Method) -> tuple[str, ...]:
    return of_kind(method.needed(), "experts")


def _prune_streaming(work: _Work, layers: Sequence[ExpertLayer]) -> None:
    """Each block: observe its experts, cut them, run it again cut to feed the next one."""
    task, by_block = work.task, {layer.block: layer for layer in layers}
    for block, module, hidden, extra in each_changed(task.loaded, task.inputs(), task.watcher, task.stage, by_block):
        layer = by_block[block.index]
        _prune_layer(work, layer, Visit(task.loaded.model, layer, module, hidden, extra, task.watcher))


def _prune_layer(work: _Work, layer: ExpertLayer, visit: Visit | None) -> None:
    """Decide which experts of one block go, and cut them out. visit: its inputs, where the method asks for such."""
    task, scores, error = work.task, None, None
    if task.method.card.kind == "search":
        keep, error = searched(visit, task.method, task.step.params, work.goes[layer.name], task.generator(layer.name))
    else:
        scores = _scores(work, layer, observed(visit, _statistics(task.method)) if visit else {})
        keep = keep_highest(scores[None], work.goes[layer.name])[0].cpu()
        work.scores[layer.name] = scores.cpu()
    if not keep.all():
        cut_experts(task.loaded.model, layer, keep)
    mean, reached = None if scores is None else float(scores.mean()), int((~keep).sum()) / layer.count
    share = work.shares[layer.name]
    work.rows.append(LayerRow(layer.name, layer.block, (layer.count,), layer.parameters, share, reached, mean, error))
    work.cuts.append(UnitCut(layer, keep))


def _scores(work: _Work, layer: ExpertLayer, statistics: Mapping[str, Tensor]) -> Tensor:
    """A score for each expert, float32: of a method for single weights, the sum over the expert's. Raises ModelError where one is no finite number."""
    task, method, params = work.task, work.task.method, work.task.step.params
    if "weight" in signature(method.function).parameters:
        experts = task.loaded.module(layer.path)
        thick = [parameter.detach() for parameter in experts.parameters(recurse=False) if parameter.dim() == 3]
        draw = task.generator(layer.name)
        scores = torch.stack([
            sum(method(have(weight[e].float(), tuple(weight[e].shape), draw, {}), params).double().sum() for weight in thick)
            for e in range(layer.count)
        ]).float()  # fmt: skip
    else:
        given = have(None, (layer.count,), task.generator(layer.name), statistics) | _routers(work, layer)
        scores = method(given, params).float()
    return finite(scores, layer.name)


def _routers(work: _Work, layer: ExpertLayer) -> dict[str, Tensor]:
    """The router's rows, (experts, hidden) float32, of this model and of each second one."""
    found = {}
    for name, model in {"": work.task.loaded, **work.seconds}.items():
        with model.block(layer.block):
            module, weight, axis = rows(model.model, layer)[0]
            found[f"{name}_router".lstrip("_")] = getattr(module, weight).detach().movedim(axis, 0).float()
    return found
