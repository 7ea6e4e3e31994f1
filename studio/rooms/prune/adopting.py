"""A formula from the Formula lab as the criterion of the prune plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gradio as gr

from core import catalogue
from studio.bench import Bench, plainly
from studio.rooms.prune import kept
from studio.rooms.prune.plans import BY_HAND, structures
from studio.target import SHARE

if TYPE_CHECKING:
    from studio.rooms.prune.controls import Controls, Params


def wire(bench: Bench, controls: Controls, params: Params) -> None:
    """What was adopted becomes the method, with its expression and the share that it was tried at."""

    @plainly
    def adopted(
        told: list[Any] | None, model: str | None, structure: str, allocation: str, params: dict[str, Any], redrawn: int
    ) -> Any:
        if not told:
            return gr.skip()
        _, expression, percent = told
        card = catalogue.pruner(catalogue.load(), "formula")
        choices = structures(card)
        plan = {
            "method": card.name,
            "structure": structure if structure in [value for _, value in choices] else choices[0][1],
            "target": SHARE,
            "sparsity": percent,
            "allocation": "uniform" if allocation == BY_HAND else allocation,
            "params": {**params, card.name: {"expression": expression}},
        }
        kept.keep(bench.workspace.folder, model or "", plan)
        method, shape, *rest = plan.values()
        return gr.Dropdown(value=method, info=card.summary), gr.Dropdown(choices=choices, value=shape), *rest, redrawn + 1

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
    asked = [bench.formula, bench.model, controls.structure, controls.allocation, params.method, params.redrawn]
    bench.formula.change(adopted, asked, changed, **told)
