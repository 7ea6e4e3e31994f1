from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated

from core.lesson.scene import Verdict, number, words
from core.method import Param, lesson_check


@lesson_check("budget_predicted", label="The prediction read off the Budget room", tells=("said", "figure"))
def budget_predicted(
    answer: str,
    shares: Mapping[str, float],
    predict: Callable[[Mapping[str, float]], float],
    *,
    within: Annotated[float, Param("May be off by this share", 0.0, 1.0)] = 0.02,
) -> Verdict:
    """The number typed is what the curves predict for the bars as they stand now."""
    said, true = number(answer), predict(shares)
    why = (
        "" if abs(said - true) <= within * abs(true) else f"{words(said)} is not what stands there for the bars as they are now."
    )
    return Verdict(not why, why, {"said": words(said), "figure": words(true)})
