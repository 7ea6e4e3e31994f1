from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from core.lesson.scene import Done, Verdict, words
from core.method import Param, lesson_check


@lesson_check("worse_than", label="A run that ruins the model", tells=("pruned", "dense", "times"))
def worse_than(
    runs: Sequence[Done],
    *,
    method: Annotated[str, Param("Method", longest=60)] = "block_influence",
    structure: Annotated[str, Param("What goes", longest=20)] = "blocks",
    times: Annotated[float, Param("Times the dense perplexity", 1.0, 1e9)] = 10.0,
) -> Verdict:
    """Among the finished runs of this kind there is one that left at least `times` the dense model's perplexity."""
    mine = [run for run in runs if run.prune.method == method and run.prune.structure == structure]
    run = next((run for run in mine if run.times >= times), None)
    if run is None:
        return Verdict(False, f"No run of this kind has left {times:g} times the perplexity yet.")
    return Verdict(True, "", {"pruned": words(run.value("pruned")), "dense": words(run.dense), "times": words(run.times)})
