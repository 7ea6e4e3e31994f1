from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from core.lesson.runs import matching
from core.lesson.scene import Done, Verdict, percent, words
from core.method import Param, lesson_check


@lesson_check("run_beats", label="One run beats another", tells=("mine", "theirs", "by"))
def run_beats(
    runs: Sequence[Done],
    *,
    method: Annotated[str, Param("Method", longest=60)] = "wanda",
    allocation: Annotated[str, Param("How it is spread", longest=60)] = "uniform",
    other_method: Annotated[str, Param("Method of the other", longest=60)] = "wanda",
    other_allocation: Annotated[str, Param("How the other is spread", longest=60)] = "uniform",
    low: Annotated[float, Param("Both remove at least", 0.0, 1.0)] = 0.0,
    high: Annotated[float, Param("Both remove at most", 0.0, 1.0)] = 1.0,
) -> Verdict:
    """The best run of the first kind leaves less perplexity than the newest of the second, both measured on the same text."""
    theirs = matching(runs, other_method, "unstructured", other_allocation, False, low, high)
    if theirs is None:
        return Verdict(
            False, f"There is no {other_method} run, spread {other_allocation.replace('_', ' ')}, to compare with yet."
        )
    same = [run for run in runs if run.protocol == theirs.protocol]
    kind = {"method": method, "structure": "unstructured", "allocation": allocation, "healed": False, "low": low, "high": high}
    mine = min((run for run in same if matching([run], **kind)), key=lambda run: run.times, default=None)
    if mine is None:
        away = next((run for run in runs if matching([run], method, "unstructured", allocation, False, 0.0, 1.0)), None)
        said = f" Your newest removed {percent(away.removed)}, on {away.protocol[1]} × {away.protocol[2]} tokens." if away else ""
        return Verdict(False, f"There is no run of yours yet that compares with it.{said}")
    ours, other = mine.value("pruned"), theirs.value("pruned")
    told = {"mine": words(ours), "theirs": words(other), "by": percent(abs(1 - ours / other))}
    why = f"Yours measured {words(ours)}, the other {words(other)}."
    return Verdict(ours < other, why, told)
