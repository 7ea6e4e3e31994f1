"""A control for each parameter of a method, generated from its card, with what the method's own file says about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gradio as gr

from core.catalogue import MethodCard, ParamCard

_TELL: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}  # only queued events make a State's change heard


def details(title: str, page: gr.Blocks, chosen: gr.components.Component, params: gr.State, card_of: Callable[[str], MethodCard | None],
            elem_id: str, redrawn: gr.State | None = None) -> None:  # fmt: skip
    """A folded part with the words and controls of the method that `chosen` names. params: {name: value} of those that were moved.

    redrawn: where `params` may be set from elsewhere, what changes after it and `chosen` did; the controls then show them.
    """
    with gr.Accordion(title, open=False, elem_id=elem_id):
        changed = chosen.change if redrawn is None else redrawn.change

        @gr.render(inputs=[chosen, params], triggers=[changed, page.load], queue=False, show_progress="hidden")
        def shown(name: str, given: dict[str, Any]) -> None:
            card = card_of(name)
            if card is None:
                return
            for param in card.params:
                control(param if redrawn is None else replace(param, default=given.get(param.name, param.default)), params)
            gr.Markdown(card.doc)
            if card.paper:
                gr.Markdown(f"*{card.paper.said}*")


def control(param: ParamCard, params: gr.State) -> None:
    """One control; what a person sets goes into `params` under the parameter's name."""
    if param.type == "bool":
        made: Any = gr.Checkbox(param.default, label=param.label, interactive=True)
    elif param.type == "str" and not param.choices:
        made = gr.Textbox(param.default, label=param.label, max_length=param.longest, interactive=True)
    elif param.choices:
        made = gr.Dropdown(list(param.choices), value=param.default, label=param.label, interactive=True)
    elif param.low is not None and param.high is not None:
        step = 1 if param.type == "int" else (param.high - param.low) / 100
        made = gr.Slider(param.low, param.high, param.default, step=step, label=param.label, interactive=True)
    else:
        made = gr.Number(param.default, label=param.label, precision=0 if param.type == "int" else None, interactive=True)

    def keep(now: dict[str, Any], value: Any) -> dict[str, Any]:
        return {**now, param.name: value}

    event = made.release if isinstance(made, gr.Slider) else made.change
    event(keep, [params, made], params, **_TELL)
