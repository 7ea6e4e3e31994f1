"""Shares said by hand in one line: `name: share, name: share`."""

from __future__ import annotations

from core.errors import RecipeError

LONGEST = 8000  # characters of such a line


def read_shares(text: str, what: str, example: str) -> dict[str, float]:
    """`a: 0.5, b: 0.25` -> {"a": 0.5, "b": 0.25}, in that order. Raises RecipeError for a name without a number from 0 up, or said twice."""
    found: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.replace("\n", ",").split(","))):
        name, _, number = part.rpartition(":")
        name = name.strip()
        try:
            share = float(number)
        except ValueError:
            share = -1.0
        if not name or not 0 <= share < float("inf"):
            raise RecipeError(f"{what}: {part!r} is not a name with a number from 0 up.", f"Write it as in {example}.")
        if name in found:
            raise RecipeError(f"{what} names {name!r} twice.", "Say one share for each name.")
        found[name] = share
    return found
