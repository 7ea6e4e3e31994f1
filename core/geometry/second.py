"""The model that a geometry is set beside: another one, or what a finished run left of this one."""

from __future__ import annotations

from pathlib import Path

import torch

from core import folder
from core.compare.masks import masks
from core.errors import PrunariumError, RecipeError
from core.model.loading import LoadedModel, load
from core.recipe import Model, Recipe, read


def second(against: str, model: Model, loaded: LoadedModel) -> tuple[LoadedModel, str, bool]:
    """(the second model, what else than its file decides it, does it have the first one's axes?).

    against: builtin:NAME, a folder or a hub id, or the folder of a finished run of this very model: its saved model, or else the first model's weights
    under that run's mask (`loaded` is then changed in place: collect from it before). Raises RecipeError where the run left neither.
    """
    path = Path(against).expanduser()
    if not (path / folder.RECIPE).is_file():
        return load(against, model.dtype, model.device), "", False
    asked = read(path / folder.RECIPE)
    if asked.model is None or asked.model.source != model.source:
        raise RecipeError(f"The run {path.name} is of another model than {model.source}.", "Choose a run of the same model.")
    if (path / folder.MODEL).is_dir():
        return load(str(path / folder.MODEL), model.dtype, model.device), "", True
    return loaded, _masked(loaded, path, asked), True


def _masked(loaded: LoadedModel, path: Path, asked: Recipe) -> str:
    """Lay the run's mask on the weights; returns words that name the mask."""
    if any(step.prune is None or not _only_zeros(step.prune.structure) for step in asked.steps):
        raise RecipeError(
            f"The run {path.name} changed weights or widths and saved no model, so it cannot be asked again.",
            "Run it again with save: {model: true}, or ask for the geometry in the same recipe as its steps.",
        )
    found = masks(path)
    if not found:
        raise RecipeError(f"The run {path.name} left no mask and no model.", "Choose a run that pruned something.")
    weights = {}
    for name, keep in found.items():
        try:
            weights[name] = loaded.model.get_parameter(name)
        except AttributeError:
            raise RecipeError(f"The run {path.name} masks {name}, which this model has not.", "Choose another run.") from None
        if tuple(weights[name].shape) != keep.shape:
            raise RecipeError(f"The mask of {name} in {path.name} is of another shape.", "Choose a run of this very model.")
    with torch.no_grad():
        for name, weight in weights.items():
            weight.mul_(torch.from_numpy(found[name].copy()).to(weight.device))
    stamp = (path / folder.MASK).stat()
    return f"mask {path.resolve()} {stamp.st_mtime_ns} {stamp.st_size}"


def _only_zeros(structure: str) -> bool:
    """Does this structure leave every weight where it is, zero or not?"""
    return structure == "unstructured" or ":" in structure or structure == "tiles"


def short(against: str) -> str:
    """What the second side is called."""
    try:
        return Path(against).name if Path(against).is_dir() else against.removeprefix("builtin:").rsplit("/", 1)[-1]
    except PrunariumError:
        return against
