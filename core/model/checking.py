"""What is refused before anything is measured or changed: steps that a model cannot take."""

from __future__ import annotations

import shutil

from core.errors import ModelError, ResourceError
from core.model.budgets.allocating import needs_of_allocation
from core.model.depth.pruning import needs_loss
from core.model.depth.sublayers import sublayer_units
from core.model.depth.trials import NO_LOSS
from core.model.loading import LoadedModel
from core.model.measuring.counts import check_in_memory, size_when_saved_bytes
from core.model.measuring.likelihood import check_causal
from core.model.observe import of_kind
from core.model.pruning.beforehand import check_step
from core.model.pruning.second import second_models
from core.model.pruning.step import pruner
from core.model.reconstructing.step import check_reconstruct
from core.recipe import STRUCTURES, Recipe


def check_steps(recipe: Recipe, loaded: LoadedModel) -> None:
    """Refuse, before anything is measured or changed, a step that this model cannot take."""
    shapes_change = False  # what later steps name may then be gone, or as they need it only then
    for step in recipe.steps:
        if step.recover and loaded.tokenizer is None:
            raise ModelError("Recovery trains on text, and this model has no tokenizer.", "Leave the recover step out for it.")
        if step.reconstruct:
            check_reconstruct(loaded, step.reconstruct)
        if step.prune and step.prune.structure in loaded.anatomy.refused:
            raise ModelError(loaded.anatomy.refused[step.prune.structure], "Choose a structure that this model has.")
        if step.prune:
            method = pruner(step.prune.method)
            second_models(loaded, method, step.prune.params)
            if not shapes_change:
                check_step(loaded, step.prune, method)
                shapes_change = step.prune.structure in STRUCTURES and step.prune.structure not in ("unstructured", "tiles")
            if needs_loss(method) or "fitness" in needs_of_allocation(step.prune, method):
                check_causal(loaded.model, NO_LOSS)
        if step.prune and step.prune.structure in ("sublayers", "mixed"):
            sublayer_units(loaded)
    if loaded.lazy is not None:
        check_lean(recipe, loaded)


def check_lean(recipe: Recipe, loaded: LoadedModel) -> None:
    """Refuse what cannot be done with a model larger than memory: merged weights, gradients, a disk without room for the changed blocks."""
    loaded.lazy.check_plain()
    for step in recipe.steps:
        if step.prune is None:
            check_in_memory(loaded)
        method = pruner(step.prune.method)
        needs = method.needed(step.prune.params) | needs_of_allocation(step.prune, method)
        gradients = of_kind(needs, "gradient", "general gradient")
        if gradients or "fitness" in needs or (step.prune.budget and step.prune.budget.cost != "parameters"):
            check_in_memory(loaded)
    room = size_when_saved_bytes(loaded.model, loaded.source_dtype) * (2 if recipe.save.model else 1)
    there = next(parent for parent in (loaded.beside.absolute(), *loaded.beside.absolute().parents) if parent.exists())
    if (free := shutil.disk_usage(there).free) < room:
        raise ResourceError(
            f"The disk is too full: pruning {loaded.name} block by block needs {room / 1e6:,.0f} MB in {there}, and {free / 1e6:,.0f} MB are free.",
            "Free some space, or choose a folder on another disk with --out.",
        )
