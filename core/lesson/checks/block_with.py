from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from core.errors import LessonError
from core.lesson.figures import extreme
from core.lesson.scene import Verdict, words
from core.method import Param, lesson_check


@lesson_check("block_with", label="The block with the least or most of a score", tells=("said", "block", "value", "yours"))
def block_with(
    answer: str,
    seen: Mapping[str, Any] | None,
    *,
    score: Annotated[str, Param("Score", longest=60)] = "block_influence",
    which: Annotated[str, Param("Which", choices=("least", "most"))] = "least",
) -> Verdict:
    """The block chosen is the one that the model's own observations name."""
    rows = (seen or {}).get("blocks") or ()
    best = extreme(rows, score, which)
    if best is None:
        raise LessonError(f"Nobody has looked at {score} of this model's blocks yet.", "X-ray this model in the X-ray room.")
    mine = next((row for row in rows if f"Block {row['index']}" == answer), None)
    if mine is None:
        raise LessonError("No block is chosen yet.", "Choose one.")
    if not isinstance(mine["scores"].get(score), (int, float)):
        raise LessonError(f"{answer} has no {score} score that is a number.", "Choose another block.")
    told = {
        "said": answer,
        "block": f"block {best['index']}",
        "value": words(best["scores"][score]),
        "yours": words(mine["scores"][score]),
    }
    other = "less" if which == "least" else "more"
    why = "" if mine is best else f"{answer} has {told['yours']}, and another has {other}."
    return Verdict(mine is best, why, told)
