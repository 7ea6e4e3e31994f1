"""YAML 1.2 text as plain data, and one sentence where it is none. Torch-free."""

from __future__ import annotations

from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from core.errors import PrunariumError, RecipeError

MOST = 1_000_000  # values in one file: a few aliases of aliases say more than any memory holds


def plain(text: str, called: str, error: type[PrunariumError] = RecipeError, above: int = 0) -> Any:
    """Mappings, lists and scalars. called: what the text is, for the sentence; above: lines of the file that stand before it. Raises `error`."""
    try:
        value = YAML(typ="safe", pure=True).load(text)
        size = _written_out(value, {})
    except RecursionError:
        raise error(f"{called} is nested too deep to be read.", "A recipe needs no more than ten levels.") from None
    except (YAMLError, ValueError) as problem:
        mark = getattr(problem, "problem_mark", None)
        place = f" at line {mark.line + 1 + above}, column {mark.column + 1}" if mark else ""
        raise error(f"{called} is not valid YAML{place}.", "Check the indentation, colons, quotes and brackets there.") from None
    if size is None:
        raise error(f"{called} holds a part that contains itself (an anchor & with its alias * inside).", "Write that part out.")
    if size > MOST:
        raise error(f"{called} is more than {MOST:,} values once its aliases are written out.", "Write out what it really says.")
    return value


def _written_out(value: Any, known: dict[int, int | None]) -> int | None:
    """How many values it holds with every alias written out; None where a part contains itself. known: {id: its size}, None while it is counted."""
    if not isinstance(value, (dict, list)):
        return 1
    if id(value) in known:
        return known[id(value)]
    known[id(value)] = None
    sizes = [_written_out(inner, known) for inner in (value.values() if isinstance(value, dict) else value)]
    known[id(value)] = None if None in sizes else 1 + sum(sizes)
    return known[id(value)]
