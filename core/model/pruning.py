"""The prune step: which way it goes depends on the structure that it removes."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from core.catalogue import PRUNERS
from core.errors import ModelError
from core.events import Watcher
from core.method import Method, get, load_methods
from core.model.depth_pruning import prune_depth
from core.model.expert_pruning import prune_experts
from core.model.groups import STRUCTURES as UNITS
from core.model.loading import LoadedModel
from core.model.pruned import Pruned
from core.model.unit_pruning import prune_units
from core.model.weight_pruning import prune_weights
from core.recipe import Prune

__all__ = ["Pruned", "prune", "pruner"]


def prune(loaded: LoadedModel, step: Prune, inputs: Callable[[], Tensor], seed: int, watcher: Watcher) -> Pruned:
    """Carry out one prune step on the model in memory.

    inputs() gives the calibration ids or pixels, asked for only where the method needs activations. Raises RecipeError or ModelError before
    any weight has changed where the step does not fit the model.
    """
    if step.structure in loaded.anatomy.refused:
        raise ModelError(
            loaded.anatomy.refused[step.structure], "Choose a structure that this model has; the Model room lists them."
        )
    ways = {"blocks": prune_depth, "sublayers": prune_depth, "experts": prune_experts, **dict.fromkeys(UNITS, prune_units)}
    return ways.get(step.structure, prune_weights)(loaded, step, pruner(step.method), inputs, seed, watcher)


def pruner(name: str) -> Method:
    """The method of that name that a prune step may use, of whichever kind. Raises RecipeError."""
    methods = load_methods()
    return get(next((kind for kind in PRUNERS if (kind, name) in methods), "score"), name)
