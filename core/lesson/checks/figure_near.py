from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from core.lesson.scene import Verdict, number, words
from core.method import Param, lesson_check


@lesson_check("figure_near", label="A figure read off the screen", tells=("said", "figure"))
def figure_near(
    answer: str,
    figure: Callable[[str], float],
    *,
    of: Annotated[str, Param("Path of the figure: seen/... or last/...", longest=200)] = "last/pruned/perplexity",
    within: Annotated[float, Param("May be off by this share", 0.0, 1.0)] = 0.05,
    times: Annotated[float, Param("Read in units of 1 / this", 1e-9, 1e9)] = 1.0,
) -> Verdict:
    """The number typed is the model's own figure at `of` (times `times`: 100 for percent), give or take a share `within`."""
    said, true = number(answer), times * figure(of)
    why = "" if abs(said - true) <= within * abs(true) else f"{words(said)} is too {'low' if said < true else 'high'}."
    return Verdict(not why, why, {"said": words(said), "figure": words(true)})
