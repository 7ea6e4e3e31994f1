from __future__ import annotations

from typing import Annotated

from core.lesson.scene import Verdict, number
from core.method import Param, lesson_check


@lesson_check("prediction", label="A guess before the run", tells=("said",))
def prediction(
    answer: str,
    *,
    low: Annotated[float, Param("Lowest that makes sense", -1e12, 1e12)] = 0.0,
    high: Annotated[float, Param("Highest that makes sense", -1e12, 1e12)] = 1e9,
) -> Verdict:
    """A number is typed that could be meant. Nothing is right or wrong about a guess: it is kept and held against the run."""
    value = number(answer)
    why = "" if low <= value <= high else f"A guess between {low:g} and {high:g} makes sense here."
    return Verdict(not why, why, {"said": f"{value:g}"})
