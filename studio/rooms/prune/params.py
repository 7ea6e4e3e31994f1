"""A control for each parameter of a method, generated from its card, with what the method's own file says about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gradio as gr

from core.catalogue import MethodCard, ParamCard

_TELL: dict[str, Any] = {
    "show_progress": "hidden",
    "show_progress_on": [],
    "api_visibility": "private",
}  # only queued events make a State's change heard

# Renders of one page write to one table of components: two at once, as when a page loads, find it changed under them.
_ONE_BY_ONE: dict[str, Any] = {"concurrency_id": "details", "concurrency_limit": 1, "show_progress": "hidden"}
_WIDEST_SLIDER = 1e6  # beyond it a value is typed


def details(title: str, page: gr.Blocks, chosen: gr.components.Component, params: gr.State, card_of: Callable[[str], MethodCard | None],
            elem_id: str, redrawn: gr.State) -> None:  # fmt: skip
    """A folded part with the words and controls of the method that `chosen` names. params: {method: {name: value}} of those that were moved.

    redrawn: changes where `params` was set from elsewhere; the controls then show it.
    """
    with gr.Accordion(title, open=False, elem_id=elem_id):

        @gr.render(inputs=[chosen, params], triggers=[chosen.change, redrawn.change, page.load], **_ONE_BY_ONE)
        def shown(name: str, given: dict[str, Any]) -> None:
            card = card_of(name)
            if card is None:
                return
            for param in card.params:
                set_to = given.get(name, {}).get(param.name, param.default)
                control(replace(param, default=set_to), name, params)
            gr.Markdown(card.doc)
            if card.paper:
                gr.Markdown(f"*{card.paper.said}*")


def control(param: ParamCard, method: str, params: gr.State) -> None:
    """One control; what a person sets goes into `params` under the method's and the parameter's name."""
    if param.type == "bool":
        made: Any = gr.Checkbox(param.default, label=param.label, interactive=True)
    elif param.type == "str" and not param.choices:
        made = gr.Textbox(param.default, label=param.label, max_length=param.longest, interactive=True)
    elif param.choices:
        made = gr.Dropdown(list(param.choices), value=param.default, label=param.label, interactive=True)
    elif param.low is not None and param.high is not None and param.high - param.low <= _WIDEST_SLIDER:
        step = 1 if param.type == "int" else (param.high - param.low) / 100
        made = gr.Slider(param.low, param.high, param.default, step=step, label=param.label, interactive=True)
    else:
        made = gr.Number(param.default, label=param.label, precision=0 if param.type == "int" else None, interactive=True)

    def keep(now: dict[str, Any], value: Any) -> dict[str, Any]:
        return {**now, method: {**now.get(method, {}), param.name: value}}

    event = made.release if isinstance(made, gr.Slider) else made.input
    event(keep, [params, made], params, **_TELL, trigger_mode="always_last")
