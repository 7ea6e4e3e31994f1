from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from core.errors import LessonError
from core.lesson.scene import Verdict, number, words
from core.method import Param, lesson_check


@lesson_check("layer_figure", label="A figure of one layer's weights", tells=("said", "figure"))
def layer_figure(
    answer: str,
    ask: Callable[..., Any],
    *,
    layer: Annotated[str, Param("Layer", longest=120)] = "blocks.0.mlp.up_proj",
    of: Annotated[str, Param("What of it", choices=("cut", "std", "mean_magnitude", "max_magnitude"))] = "cut",
    share: Annotated[float, Param("Share that lies below the cut", 0.01, 0.99)] = 0.5,
    within: Annotated[float, Param("May be off by this share", 0.0, 1.0)] = 0.1,
) -> Verdict:
    """The number typed is a figure of a layer's weights, which the opened model itself is asked for."""
    said = number(answer)
    true = ask("layer", name=layer, share=share).get(of)
    if true is None:
        raise LessonError(f"The model has no {of} of {layer}.", "Open the model that the lesson is about.")
    why = "" if abs(said - true) <= within * abs(true) else f"{words(said)} is too {'small' if said < true else 'large'}."
    return Verdict(not why, why, {"said": words(said), "figure": words(true)})
