"""The prune step: which way it goes depends on the structure that it removes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from core.catalogue import PRUNERS
from core.errors import ModelError, RecipeError
from core.events import Watcher
from core.method import Method, get, load_methods
from core.model.budgets.costing import owed, told
from core.model.depth.pruning import prune_depth
from core.model.inputs.texts import NO_TEXTS, Texts
from core.model.learned.pruning import prune_learned
from core.model.loading import LoadedModel
from core.model.measuring.counts import check_in_memory
from core.model.mixture.pruning import prune_experts
from core.model.mixture.weights import INSIDE, prune_expert_weights
from core.model.pruning.before import put_back_on_failure
from core.model.pruning.choosing import chosen_units
from core.model.pruning.pruned import Pruned
from core.model.pruning.second import second_models
from core.model.pruning.task import Task
from core.model.pruning.weights import prune_weights
from core.model.units.groups import UNITS
from core.model.units.pruning import prune_units
from core.model.width.pruning import prune_width
from core.model.width.stream_width import STRUCTURE as WIDTH
from core.recipe import Prune

__all__ = ["Pruned", "prune", "pruner"]


def prune(
    loaded: LoadedModel,
    step: Prune,
    inputs: Callable[[], Tensor],
    seed: int,
    watcher: Watcher,
    texts: Texts = NO_TEXTS,
    put_back: bool = True,
) -> Pruned:
    """Carry out one prune step on the model in memory.

    inputs() gives the calibration ids or pixels, asked for only where the method needs activations; texts: what else it may read. Raises
    RecipeError or ModelError before any weight has changed where the step does not fit the model. put_back: whatever is raised later, a stop too, leaves
    the model as it was, for which a copy of what has changed is held until the step is done; a run, which then lets its model go, needs none.
    """
    if step.structure in loaded.anatomy.refused:
        raise ModelError(
            loaded.anatomy.refused[step.structure], "Choose a structure that this model has; the Model room lists them."
        )
    _check_numbers(loaded)
    task = Task(loaded, step, pruner(step.method), inputs, seed, watcher, texts)
    with put_back_on_failure(loaded, watcher) if put_back else nullcontext() as before:
        return _carried_out(replace(task, before=before))


def _carried_out(task: Task) -> Pruned:
    way = _way(task)
    if way not in PRICED:
        return way(task)
    asked = owed(task.loaded, task.step, task.watcher)
    done = way(replace(task, owed=asked))
    return told(done, asked, task.watcher) if asked else done


def _way(task: Task) -> Callable[[Task], Pruned]:
    """Who carries it out: the kind of the method decides where it must, else the structure; single weights where neither is special."""
    card = task.method.card
    if card.inside == INSIDE:
        return prune_expert_weights
    return BY_KIND.get(card.kind) or BY_STRUCTURE.get(task.step.structure, prune_weights)


def _check_numbers(loaded: LoadedModel) -> None:
    """Raise ModelError where a weight is NaN or infinite: its scores would say so too, with the blocks before it already cut.

    A sum tells, at a small part of the price of looking at each weight. A model read block by block is not read for this.
    """
    for layer in loaded.anatomy.layers if loaded.lazy is None else ():
        weight = loaded.module(layer.path).weight.detach()
        if not torch.isfinite(weight.sum(dtype=torch.float32)) and not torch.isfinite(weight).all():
            raise ModelError(
                f"The weights of {layer.name} are not all numbers.",
                "The file is damaged, or its training failed: take another copy of the model.",
            )


def _transform(task: Task) -> Pruned:
    """A method that changes the whole model itself, given by name what it may ask for. A budget by hand is refused: it decides for all."""
    loaded, step = task.loaded, task.step
    check_in_memory(loaded)
    if step.allocation.method != "uniform":
        raise RecipeError(
            f"{step.method} decides for the whole model at once, so it takes no allocation.", "Leave allocation out."
        )
    if (step.only or step.protect) and step.structure != "blocks":
        raise RecipeError(
            f"Structure {step.structure} is taken from the whole model, so no part can be chosen.", "Leave only and protect out."
        )
    paths = {block.name: block.path for block in loaded.anatomy.blocks}
    units = tuple(chosen_units(paths, "block", step.only, step.protect)) if step.structure == "blocks" else ()
    seconds = second_models(loaded, task.method, step.params)
    given = {
        **{f"{name}_model": second for name, second in seconds.items()}, "loaded": loaded, "share": step.sparsity, "units": units,
        "inputs": task.inputs, "generator": task.generator(step.method), "watcher": task.watcher,
    }  # fmt: skip
    task.will_write(*loaded.model.parameters())
    return task.method(given, step.params)


BY_KIND = {"transform": _transform, "learned": prune_learned}
BY_STRUCTURE = {
    "blocks": prune_depth, "sublayers": prune_depth, "experts": prune_experts, WIDTH: prune_width, **dict.fromkeys(UNITS, prune_units)
}  # fmt: skip
PRICED = (prune_depth, prune_experts, prune_units, prune_weights)  # those that a budget in a cost may steer


def pruner(name: str) -> Method:
    """The method of that name that a prune step may use, of whichever kind. Raises RecipeError."""
    methods = load_methods()
    return get(next((kind for kind in PRUNERS if (kind, name) in methods), "score"), name)
