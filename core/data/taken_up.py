"""Lines of a job that is made of many fits: kept as they are done, and taken over by the run that goes on with it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from core import folder
from core.data.dataset import Dataset
from core.errors import RecipeError
from core.recipe import Recipe, to_dict


def taken_up(recipe: Recipe, dataset: Dataset, path: Path | None, name: str) -> list[dict[str, Any]]:
    """The lines in the file `name` of the run in `recipe.resume`, copied into this run's folder `path`. Raises RecipeError where they are of another recipe
    or of other rows."""
    asked = {key: value for key, value in to_dict(recipe, full=True).items() if key not in ("name", "resume")}
    key = hashlib.sha256(json.dumps([asked, dataset.fingerprint], sort_keys=True, default=str).encode()).hexdigest()
    if recipe.resume and not Path(recipe.resume).is_dir():
        raise RecipeError(
            f"resume names {recipe.resume}, and there is no run folder.", "Name the folder of a stopped run, or leave resume out."
        )
    before = folder.read_lines(Path(recipe.resume) / name) if recipe.resume else []
    if before and before[0].get("key") != key:
        raise RecipeError(
            f"The work in {recipe.resume} was that of another recipe or of other rows.",
            "Resume with the recipe that it has, unchanged.",
        )
    if path:
        for line in ({"key": key}, *before[1:]):
            folder.append_line(path / name, line)
    return before[1:]
