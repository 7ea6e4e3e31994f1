"""Allocate: a total sparsity becomes one share for each layer. What an allocator asks for comes from at most one pass of the dense model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from core.cost import Price
from core.errors import ModelError, RecipeError
from core.events import Progress
from core.method import Method, get
from core.model.anatomy import Layer
from core.model.budgets.asked import Asked
from core.model.budgets.costing import layer_prices
from core.model.budgets.fitness import SMALLER, trying, weight_masks
from core.model.masks import decide, finite
from core.model.memory import check_fits
from core.model.observe import Statistics, observe_block, of_kind, stream
from core.model.pruning.choosing import by_hand
from core.model.pruning.scoring import criterion, layer_scores, layer_weight, output_error
from core.model.pruning.task import Task
from core.recipe import Prune, n_of_m

LEVELS = tuple(level / 10 for level in range(1, 10))  # shares at which each layer's curve is measured


@dataclass(frozen=True)
class Evidence:
    """What is known of the dense model: statistics of layers (those of gradients too), of blocks, and each layer's error by share removed."""

    layers: dict[str, Statistics] = field(default_factory=dict)
    influence: dict[str, float] = field(default_factory=dict)
    angle: dict[str, float] = field(default_factory=dict)
    curves: dict[str, dict[float, float]] = field(default_factory=dict)


def needs_of_allocation(step: Prune, method: Method) -> frozenset[str]:
    """All that allocating this step needs: "curves", "scores" and the statistics behind them."""
    if step.allocation.method == "by_hand":
        return frozenset()
    asked = get("allocator", step.allocation.method).needs
    if asked & {"scores", "curves"}:
        score, params = criterion(method, step.params)
        asked |= score.needed(params)
    return asked | ({"gram"} if "curves" in asked else frozenset())


def gather(task: Task, layers: Sequence[Layer], needs: frozenset[str], gradients: Mapping[str, Statistics]) -> Evidence:
    """One pass of the dense model where `needs` names what only a pass can tell; its Gram matrices live as long as their block."""
    loaded, step, watcher = task.loaded, task.step, task.watcher
    names = of_kind(needs, "layer", "block")
    found = Evidence({layer.name: dict(gradients.get(layer.name, {})) for layer in layers})
    chosen = {layer.name for layer in layers}
    if names and not loaded.anatomy.blocks and not of_kind(task.method.needed(step.params), "layer", "block"):
        raise ModelError(
            f"This model has no chain of blocks to go through, and allocation {step.allocation.method} needs the activations of one.",
            "Use allocation uniform, erk or pq_index, which need none.",
        )
    for block, module, hidden, extra in stream(loaded, task.inputs(), watcher, "observe") if names else ():
        part = replace(block, layers=tuple(layer for layer in block.layers if layer.name in chosen))
        of_layers, of_block = observe_block(loaded, part, module, hidden, extra, names, watcher, keep_outputs=True)
        for name, known in (("influence", found.influence), ("angle", found.angle)):
            if name in of_block:
                known[block.name] = float(of_block[name])
        for layer in part.layers:
            statistics = found.layers[layer.name] | of_layers[layer.name]
            if "curves" in needs:
                watcher.check()
                found.curves[layer.name] = _curve(task, layer, statistics)
            kept = set(statistics) - ({"gram"} if "curves" in needs else set())
            found.layers[layer.name] = {name: statistics[name] for name in sorted(kept)}
    return found


def _curve(task: Task, layer: Layer, statistics: Statistics) -> dict[float, float]:
    """{share removed: relative output error} of one layer alone, with the masks that the step's criterion would make; from 0 to 1."""
    score, params = criterion(task.method, task.step.params)
    scores, weight = layer_scores(task.loaded, layer, score, params, statistics, task.seed), layer_weight(task.loaded, layer)
    curve = {0.0: 0.0}
    for level in LEVELS:
        keep = decide(scores, "unstructured", level, score.card.compare, layer.name).to(weight.device)
        curve[level] = output_error(weight, weight * keep, statistics["gram"])
    return curve | {1.0: 1.0}


def asked_of_layers(task: Task, layers: Sequence[Layer]) -> Asked:
    """How much the step asks of these layers in all. Raises RecipeError where they cannot give as much."""
    step, card, owed = task.step, task.method.card, task.owed
    sizes = {layer.name: weights(layer) for layer in layers}
    asked = Asked(step, owed, sizes)
    by_row = card.kind == "score" and card.compare == "row" and step.structure == "unstructured"
    return asked.priced(
        layer_prices(task.loaded, layers, by_row, owed)
        if owed
        else {name: Price.linear(size, 1.0) for name, size in sizes.items()}
    )


def allocate(task: Task, asked: Asked, layers: Sequence[Layer], known: Evidence) -> dict[str, float]:
    """The share that each layer gives. `known`: what `gather` found for `needs_of_allocation`."""
    loaded, step, method, watcher = task.loaded, task.step, task.method, task.watcher
    if step.allocation.method == "by_hand":
        return by_hand(step.allocation.shares, loaded.anatomy, layers)
    allocator, by_name = get("allocator", step.allocation.method), {layer.name: layer for layer in layers}
    score, params = criterion(method, step.params)
    if allocator.needs & {"scores", "curves"} and score is not method:
        said = f"{method.card.label} has no scores to compare: the budget is allocated by {score.card.label}'s."
        watcher.say(Progress("allocate", kind="note", text=said))
    block_names = {block.index: block.name for block in loaded.anatomy.blocks}

    def scores(name: str) -> Tensor:
        return finite(layer_scores(loaded, by_name[name], score, params, known.layers[name], task.seed), name).flatten().cpu()

    given = {
        "sizes": asked.sizes,
        "shapes": {layer.name: layer.shape for layer in layers},
        "blocks": {layer.name: block_names.get(layer.block, "") for layer in layers},
        "weights": lambda name: layer_weight(loaded, by_name[name]),
        "statistics": known.layers.__getitem__,
        "scores": scores,
        "influence": known.influence,
        "angle": known.angle,
        "curves": known.curves,
        "watcher": watcher,
        "generator": task.generator("allocate"),
    }
    if "fitness" not in allocator.needs:
        return asked.spread(allocator, given)
    if loaded.device.type == "cpu":
        check_fits(4 * sum(asked.sizes.values()), "Trying out budgets, which keeps a score of every weight,", SMALLER)
    masks = weight_masks(loaded, layers, {name: scores(name) for name in by_name}, score.card.compare)
    with trying(loaded, masks, task.inputs(), watcher) as fitness:
        return asked.spread(allocator, given | {"fitness": fitness, "sequences": fitness.sequences})


def weights(layer: Layer) -> int:
    """How many weights a layer has that may go: its biases are not pruned."""
    return math.prod(layer.shape)


def check_structure(step: Prune, layers: Sequence[Layer]) -> None:
    """Refuse, before anything has changed, an N:M that does not divide a layer, or that is allocated."""
    if not n_of_m(step.structure):
        return
    if step.allocation.method != "uniform":
        raise RecipeError(
            f"{step.structure} fixes the share of every layer.", "Leave allocation out, or choose structure: unstructured."
        )
    for layer in layers:
        decide(torch.zeros(1, weights(layer) // layer.shape[0]), step.structure, step.sparsity, "row", layer.name)
