"""A stopped run taken up again: what it had finished is kept in one small file, and a run of the same recipe goes on from there to the same bits.

Kept after the dense measurement and after each step with its measurement, where the model's shape is still the source's: masks, scores, figures, the
state of the random numbers, and the weights where more than zeros has changed. A step that was cut off in its middle is done anew from its beginning.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from core import folder
from core.errors import PrunariumError, RecipeError
from core.method import get
from core.model.circumstances import circumstances, differences
from core.model.files.source import fingerprint
from core.model.loading import LoadedModel
from core.model.masks import PackedMask, weight_under
from core.recipe import Recipe, read, to_dict
from core.report import LayerRow, Metrics

_MOMENTS = ("dense", "pruned", "recovered")


@dataclass(frozen=True)
class Taken:
    """What an earlier run had finished. steps_done: how many of the recipe's steps; figures: {dense, pruned, recovered: Metrics or None}."""

    steps_done: int
    figures: dict[str, Metrics | None]
    steps: list[dict[str, Any]]
    rows: list[LayerRow]
    protocol: dict[str, Any]
    masks: dict[str, PackedMask]
    scores: dict[str, Tensor]
    weights: dict[str, Tensor]
    random: Tensor


def keep(path: Path, recipe: Recipe, loaded: LoadedModel, taken: Taken) -> bool:
    """Write, or write anew, what is finished so far. False where the disk refuses: what was kept before stands."""
    tensors = {f"score/{name}": value.float().contiguous() for name, value in taken.scores.items()}
    tensors |= {f"mask/{name}": torch.from_numpy(mask.bits) for name, mask in taken.masks.items()}
    tensors |= {f"weight/{name}": value for name, value in taken.weights.items()}
    told = {
        "recipe": _asked(recipe),
        "model": fingerprint(loaded.location),
        "circumstances": circumstances(recipe, loaded.device),
        "steps_done": taken.steps_done,
        "figures": {name: asdict(one) if one else None for name, one in taken.figures.items()},
        "steps": taken.steps,
        "rows": [asdict(row) for row in taken.rows],
        "protocol": taken.protocol,
        "shapes": {name: list(mask.shape) for name, mask in taken.masks.items()},
    }
    beside = path / f".{folder.RESUME}"
    try:  # straight to the disk: weights in memory a second time could be more than there is
        save_file({**tensors, "random": taken.random}, beside, {"told": json.dumps(folder.finite(told))})
        beside.replace(path / folder.RESUME)
    except (OSError, SafetensorError):
        beside.unlink(missing_ok=True)
        return False
    return True


def changed_weights(loaded: LoadedModel, recipe: Recipe, steps_done: int) -> dict[str, Tensor]:
    """The weights as they are now; none where all that was done is zeros, which the masks say."""
    kinds = [step.prune and _is_score(step.prune.method) for step in recipe.steps[:steps_done]]
    if all(kinds):
        return {}
    return {name: value.detach().cpu().contiguous() for name, value in loaded.model.named_parameters()}


def _is_score(method: str) -> bool:
    try:
        return get("score", method).card.kind == "score"
    except PrunariumError:
        return False


def take_up(recipe: Recipe, loaded: LoadedModel) -> Taken | None:
    """What the run in `recipe.resume` had finished; None where that is nothing. Raises RecipeError where it was another recipe or another model, or
    was begun with other threads, libraries, device or texts."""
    place = Path(recipe.resume or "")
    if not place.is_dir():
        raise RecipeError(
            f"resume names {place}, and there is no run folder.", "Name the folder of a stopped run, or leave resume out."
        )
    _check_same(place, recipe)
    if loaded.lazy is not None:
        return None  # read block by block, there is no model in memory to make what it was
    try:
        with safe_open(place / folder.RESUME, "pt") as file:
            told = json.loads(file.metadata()["told"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        raise RecipeError(
            f"What {place.name} had finished is damaged and cannot be read.", "Leave resume out, to start from the beginning."
        ) from None
    if told["recipe"] != _asked(recipe) or told["model"] != fingerprint(loaded.location):
        raise RecipeError(
            f"The run in {place} was one of another recipe or another model.", "Resume with the recipe that it has, unchanged."
        )
    _check_circumstances(place, told.get("circumstances"), recipe, loaded)
    part = {
        kind: {name.removeprefix(f"{kind}/"): value for name, value in tensors.items() if name.startswith(f"{kind}/")}
        for kind in ("mask", "score", "weight")
    }
    masks = {name: PackedMask(bits.numpy().astype(np.uint8), tuple(told["shapes"][name])) for name, bits in part["mask"].items()}
    figures = {name: _metrics(told["figures"][name]) for name in _MOMENTS}
    rows = [LayerRow(**{**row, "shape": tuple(row["shape"])}) for row in told["rows"]]
    return Taken(
        told["steps_done"],
        figures,
        told["steps"],
        rows,
        told["protocol"],
        masks,
        part["score"],
        part["weight"],
        tensors["random"],
    )


def shapes(loaded: LoadedModel) -> dict[str, tuple[int, ...]]:
    """{parameter: shape}: a model can be taken up as long as these are the source's."""
    return {name: tuple(parameter.shape) for name, parameter in loaded.model.named_parameters()}


def restore(loaded: LoadedModel, taken: Taken) -> None:
    """Make the freshly loaded model what it was. Raises RecipeError where what was kept does not fit it."""
    there = shapes(loaded)
    if any(there.get(name) != tuple(value.shape) for name, value in taken.weights.items()):
        raise RecipeError(
            "What that run had finished does not fit this model's shapes.", "Leave resume out, to start from the beginning."
        )
    with torch.no_grad():
        for name, value in taken.weights.items():
            loaded.model.get_parameter(name).copy_(value)
        for path, mask in taken.masks.items():
            _, weight = weight_under(loaded.model, path)
            weight.masked_fill_(~mask.unpack().to(weight.device), 0.0)
    torch.set_rng_state(taken.random)


def words(recipe: Recipe, taken: Taken | None) -> str:
    """What is taken up and what is done again, for the log and the page."""
    name = Path(recipe.resume or "").name
    if taken is None:
        return f"{name} had finished nothing that can be taken up: everything is done from the beginning."
    done = (
        f"the dense measurement and {taken.steps_done} of {len(recipe.steps)} steps"
        if taken.steps_done
        else "the dense measurement"
    )
    return f"Taken up from {name}: {done}. Loading is repeated, and what was cut off in its middle."


def _metrics(told: Mapping[str, Any] | None) -> Metrics | None:
    if told is None:
        return None
    lists = {name: tuple(value) for name, value in told.items() if isinstance(value, list)}
    return Metrics(**{**told, **lists})


def _check_same(place: Path, recipe: Recipe) -> None:
    try:
        before = read(place / folder.RECIPE)
    except PrunariumError:
        return  # it ended before it wrote its recipe: nothing is taken up
    if _asked(before) != _asked(recipe):
        raise RecipeError(f"The run in {place} was one of another recipe.", "Resume with the recipe that it has, unchanged.")


def _check_circumstances(place: Path, before: Any, recipe: Recipe, loaded: LoadedModel) -> None:
    """Raises RecipeError where the rest of the run would not come to the bits that it would have come to."""
    otherwise = "Resume it as it was begun, or leave resume out, to start from the beginning."
    if not isinstance(before, dict):
        raise RecipeError(f"The run in {place} does not say with what threads and versions it was begun.", otherwise)
    if told := differences(before, circumstances(recipe, loaded.device)):
        raise RecipeError(
            f"The run in {place} was begun otherwise, and its end would not be its own: {'; '.join(told)}.", otherwise
        )


def _asked(recipe: Recipe) -> dict[str, Any]:
    """What decides the result."""
    whole = to_dict(recipe, full=True)
    return json.loads(json.dumps({name: value for name, value in whole.items() if name not in ("name", "resume")}))
