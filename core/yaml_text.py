"""YAML 1.2 text as plain data, and one sentence where it is none. Torch-free."""

from __future__ import annotations

from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from core.errors import PrunariumError, RecipeError


def plain(text: str, called: str, error: type[PrunariumError] = RecipeError, above: int = 0) -> Any:
    """Mappings, lists and scalars. called: what the text is, for the sentence; above: lines of the file that stand before it. Raises `error`."""
    try:
        return YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError) as problem:
        mark = getattr(problem, "problem_mark", None)
        place = f" at line {mark.line + 1 + above}, column {mark.column + 1}" if mark else ""
        raise error(f"{called} is not valid YAML{place}.", "Check the indentation, colons, quotes and brackets there.") from None
