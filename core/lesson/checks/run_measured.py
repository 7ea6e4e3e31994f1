from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from core.errors import PrunariumError
from core.lesson.runs import matching
from core.lesson.scene import Done, Verdict, number, percent, words
from core.method import Param, lesson_check


@lesson_check(
    "run_measured",
    label="A run of this kind has been measured",
    tells=("dense", "pruned", "times", "recovered", "removed", "said"),
)
def run_measured(
    runs: Sequence[Done],
    answers: Mapping[int, str],
    *,
    method: Annotated[str, Param("Method", longest=60)] = "magnitude",
    structure: Annotated[str, Param("What goes", longest=20)] = "unstructured",
    allocation: Annotated[str, Param("How it is spread", longest=60)] = "",
    healed: Annotated[bool, Param("With recovery")] = False,
    low: Annotated[float, Param("Removes at least", 0.0, 1.0)] = 0.0,
    high: Annotated[float, Param("Removes at most", 0.0, 1.0)] = 1.0,
    guess: Annotated[int, Param("Step with the guess (0: none)", 0, 99)] = 0,
) -> Verdict:
    """The newest finished run of this kind; its figures, and the guess of an earlier step, are told."""
    run = matching(runs, method, structure, allocation, healed, low, high)
    if run is None:
        return Verdict(False, "No finished run of this kind yet.")
    told = {
        "dense": words(run.dense),
        "pruned": words(run.value("pruned")),
        "times": words(run.times),
        "recovered": words(run.value("recovered")) if run.healed else "not trained",
        "removed": percent(run.removed),
        "said": _guess(answers.get(guess, "")),
    }
    return Verdict(True, "", told)


def _guess(text: str) -> str:
    try:
        return f"{number(text):g}"
    except PrunariumError:
        return "nothing yet"
