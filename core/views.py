"""A recipe as a person would type it: the shell command and the Python that run it. The YAML view is `core.recipe.to_yaml`."""

from __future__ import annotations

import pprint
import re

from core.recipe import Recipe, to_dict


def to_command(recipe: Recipe, path: str | None = None) -> str:
    """The shell line that runs the recipe once it is saved at `path`."""
    name = slug(recipe.name)
    return f"python3 launch.py run {path or name + '.yaml'} --out runs/{name}"


def to_python(recipe: Recipe) -> str:
    """The Python that runs the recipe from the checkout's folder."""
    name = slug(recipe.name)
    body = pprint.pformat(to_dict(recipe), sort_dicts=False, width=100)
    return (
        "from pathlib import Path\n\nfrom core.recipe import parse\nfrom core.run import run\n\n"
        f"recipe = parse({body})\nreport = run(recipe, Path('runs/{name}'))\n"
    )


def slug(name: str) -> str:
    """A recipe's name as a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)
