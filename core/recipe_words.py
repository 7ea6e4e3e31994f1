"""What pydantic finds wrong with a recipe, in one sentence with a remedy. Torch-free."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import BaseModel, ValidationError

from core.errors import RecipeError


def said(
    error: ValidationError, recipe: type[BaseModel], called: str = "recipe", examples: str = "assets/recipes"
) -> RecipeError:
    """The first thing wrong, in one sentence: the key as a person wrote it, and the nearest key that exists. `called`: what was read."""
    found = error.errors()
    first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])  # a mistyped key is also a missing one
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = _keys_at(first["loc"][:-1], recipe)
        near = difflib.get_close_matches(str(first["loc"][-1]), known, 1)
        remedy = f"Did you mean {near[0]!r}?" if near else f"Known there: {', '.join(known)}."
        return RecipeError(f"The {called} has an unknown key {place!r}.", remedy)
    if first["type"] == "missing":
        return RecipeError(f"The {called} lacks {place!r}.", f"Add it; see {examples} for examples.")
    message = first["msg"].removeprefix("Value error, ")
    given = "" if first["type"] in ("value_error",) else f" (it says {str(first['input'])[:60]!r})"
    return RecipeError(
        f"In the {called}, {place + ': ' if place else ''}{message[0].lower() + message[1:]}{given}.", "Correct that value."
    )


def _keys_at(loc: tuple[int | str, ...], section: type[BaseModel]) -> list[str]:
    """The keys a section at this place may have."""
    for part in loc:
        if isinstance(part, str) and part in section.model_fields:
            inner = _sections(section.model_fields[part].annotation)
            section = inner[0] if inner else section
    return list(section.model_fields)


def _sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in getattr(annotation, "__args__", ()) for found in _sections(part)]
