"""A formula from the Formula lab as the criterion of the prune plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gradio as gr

from core import catalogue
from studio.bench import Bench
from studio.rooms.prune.plans import BY_HAND, structures
from studio.target import SHARE

if TYPE_CHECKING:
    from studio.rooms.prune.controls import Controls, Params


def wire(bench: Bench, controls: Controls, params: Params) -> None:
    """What was adopted becomes the method, with its expression and the share that it was tried at."""

    def adopted(told: list[Any] | None, structure: str, allocation: str, redrawn: int) -> Any:
        if not told:
            return gr.skip()
        _, expression, percent = told
        card = catalogue.pruner(catalogue.load(), "formula")
        choices = structures(card)
        kept = structure if structure in [value for _, value in choices] else choices[0][1]
        return (
            gr.Dropdown(value=card.name, info=card.summary), gr.Dropdown(choices=choices, value=kept), SHARE, percent,
            "uniform" if allocation == BY_HAND else allocation, {"expression": expression}, redrawn + 1,
        )  # fmt: skip

    changed = [
        controls.method,
        controls.structure,
        controls.target,
        controls.sparsity,
        controls.allocation,
        params.method,
        params.redrawn,
    ]
    told: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    bench.formula.change(adopted, [bench.formula, controls.structure, controls.allocation, params.redrawn], changed, **told)
