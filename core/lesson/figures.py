"""The figures in a lesson's words: `{{figure: PATH}}`, read from what was measured, never typed in. Torch-free.

PATH is `NAME/...` into the report that a recipe of the lesson gave (kept beside the lesson, measured anew by a test and by `launch.py lesson measure`), or
`seen/...` into the observations that come with the model. `A / B` is their ratio; `| %` writes a share in percent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from core import folder
from core.errors import LessonError
from core.lesson.scene import percent, words

DEMOS = Path(__file__).resolve().parents[2] / "assets" / "demo"
_PLACE = re.compile(r"\{\{\s*figure:\s*([^{}]*?)\s*\}\}")


def beside(lesson: Path) -> Path:
    """Where the figures of a lesson file lie."""
    return lesson.with_suffix(".figures.json")


def roots(lesson: Path, model: str) -> dict[str, Any]:
    """What the paths of a lesson may start with."""
    demo = DEMOS / model.removeprefix("builtin:") / folder.OBSERVATIONS
    return {**_read(beside(lesson)), "seen": _read(demo) if model.startswith("builtin:") and "/" not in model[8:] else None}


def _read(file: Path) -> dict[str, Any]:
    try:
        value = folder.read_json(file)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def found(path: str, known: Mapping[str, Any]) -> float:
    """The figure at `path` (or the ratio of two). Raises LessonError where there is none."""
    if " / " in path:
        above, below = (found(part, known) for part in path.split(" / ", 1))
        if below == 0:
            raise LessonError(f"The ratio {path.strip()!r} divides by zero.", "Name another figure.")
        return above / below
    value: Any = known
    for part in path.strip().split("/"):
        value = _inside(value, part)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
        raise LessonError(f"There is no figure {path.strip()!r}.", "Correct its path, or measure the lesson's recipes first.")
    return float(value)


def _inside(value: Any, part: str) -> Any:
    """One step down: a key, a place in a list, `count` of it, the entry of a list with that name, or `least:SCORE` and `most:SCORE` of a list."""
    if isinstance(value, Mapping):
        return value.get(part)
    if not isinstance(value, Sequence) or isinstance(value, str):
        return None
    if part == "count":
        return len(value)
    which, colon, score = part.partition(":")
    if colon and which in ("least", "most"):
        return extreme(value, score, which)
    if part.lstrip("-").isdigit():
        return value[int(part)] if -len(value) <= int(part) < len(value) else None
    return next((entry for entry in value if isinstance(entry, Mapping) and entry.get("name") == part), None)


def extreme(rows: Sequence[Mapping[str, Any]], score: str, which: str) -> Mapping[str, Any] | None:
    """The row with the least or most of a score; None where no row has it."""
    scored = [row for row in rows if isinstance((row.get("scores") or {}).get(score), (int, float))]
    choose = min if which == "least" else max
    return choose(scored, key=lambda row: row["scores"][score]) if scored else None


def filled(text: str, known: Mapping[str, Any]) -> str:
    """The text with every figure in it. Raises LessonError on the first that there is none of."""

    def written(hit: re.Match[str]) -> str:
        path, bar, form = (part.strip() for part in hit[1].partition("|"))
        value = found(path, known)
        if bar and form != "%":
            raise LessonError(f"A figure cannot be written as {form!r}.", "Write | % for a share, or nothing.")
        return percent(value) if bar else f"{value:.0f}" if value == int(value) and abs(value) < 1000 else words(value)

    return _PLACE.sub(written, text)


def named(text: str) -> list[str]:
    """The paths that a text names."""
    return [hit.partition("|")[0].strip() for hit in _PLACE.findall(text)]
