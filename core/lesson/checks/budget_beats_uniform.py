from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated

from core.lesson.scene import Verdict, percent, total, words
from core.method import Param, lesson_check


@lesson_check("budget_beats_uniform", label="A budget that is predicted to beat uniform", tells=("total", "mine", "uniform"))
def budget_beats_uniform(
    shares: Mapping[str, float],
    sizes: Mapping[str, int],
    predict: Callable[[Mapping[str, float]], float],
    *,
    low: Annotated[float, Param("Removes at least", 0.0, 1.0)] = 0.49,
    high: Annotated[float, Param("Removes at most", 0.0, 1.0)] = 1.0,
) -> Verdict:
    """The bars remove between `low` and `high`, and the curves predict less loss than for equal bars that remove as much."""
    now = total(shares, sizes)
    mine, uniform = predict(shares), predict(dict.fromkeys(sizes, now))
    told = {"total": percent(now), "mine": words(mine), "uniform": words(uniform)}
    if now < low - 5e-4:
        return Verdict(False, f"The bars remove {percent(now)} of the weights; at least {percent(low)} has to go.", told)
    if now > high + 5e-4:
        return Verdict(False, f"The bars remove {percent(now)} of the weights; {percent(high)} is enough.", told)
    why = f"Predicted for your bars: {words(mine)}. For equal bars at the same {percent(now)}: {words(uniform)}."
    return Verdict(mine < uniform * (1 - 1e-4), why, told)
