"""The plan's controls and the file that keeps them: every hand is written down, and a page that loads is set as the plan was left."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from core import catalogue
from studio import known, target
from studio.bench import Bench, plainly
from studio.rooms.prune import kept, scope
from studio.rooms.prune.controls import Controls, Params, card_of
from studio.rooms.prune.plans import ANY, BY_HAND, WHOLE, fixed, spreads, structures

_QUIET: dict[str, Any] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}
_TELL: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}  # only queued events make a State's change heard
# What was kept goes in where the hand has not been since it was asked for.
_LAY = """(told, ...now) => { if (!told) return now; const {saw, kept} = JSON.parse(told); if (!kept) return now;
return now.map((value, n) => JSON.stringify(value ?? null) === JSON.stringify(saw[n] ?? null) ? kept[n] : value); }"""


@dataclass(frozen=True)
class _Known:
    """What this page last knew of the plan. laid: how often it was set from the file; the page says which of these it has seen, so that a hand which was
    quicker than the answer is not taken for a change of everything."""

    laid: int
    model: str
    values: dict[str, Any]


def shapes(structure: str, allocation: str, goal: str) -> tuple[Any, ...]:
    """The outputs of Controls.shaped: only controls that mean something for this structure are shown, and only costs that fall with it are offered. A
    value is sent only where it must change: a hand may be on it."""
    by_hand, choices, ways = allocation == BY_HAND and structure not in WHOLE, target.choices(structure), spreads(structure)
    fits = goal in [value for _, value in choices], allocation in [value for _, value in ways]
    goal = goal if fits[0] else target.SHARE
    free, costs = not fixed(structure) and not by_hand, len(choices) > 1
    return (
        gr.Number(visible=structure == ANY),
        gr.Number(visible=structure == ANY),
        gr.Number(visible=structure == "tiles"),
        gr.Dropdown(choices=choices, visible=free and costs, **({} if fits[0] else {"value": goal})),
        gr.Slider(visible=free, label=target.slider_label(goal)),
        gr.Textbox(visible=free and goal != target.SHARE, label=target.limit_label(goal)),
        gr.Radio(
            choices=ways, visible=structure not in WHOLE and not fixed(structure), **({} if fits[1] else {"value": "uniform"})
        ),
    )


def wire(bench: Bench, controls: Controls, params: Params) -> Any:
    """Returns the event after which the plan stands as it was left: whoever shows the plan follows it."""
    names = [*kept.PARAMS, *controls.named()]
    parts = [*params.all(), *controls.all()]
    fresh = dict(zip(names, [*({} for _ in kept.PARAMS), *(part.value for part in controls.all())], strict=True))
    before = gr.State(_Known(0, "", fresh))
    told = gr.Textbox(visible=False)  # what was laid last, as the page knows it
    dependent = [controls.method, controls.structure, controls.general, *controls.shaped(), controls.steps, *controls.scoped()]

    @plainly
    def hand(event: gr.EventData, model: str | None, was: _Known, seen: str, *values: Any) -> Any:
        """Something was changed by hand: that, and what else differs from what this page knew, is written, and nothing else. (A hand while the plan was
        laid is in the browser alone: to put it back then differs from nothing that is known here.)"""
        if not model:
            return gr.skip()
        now, laid = dict(zip(names, values, strict=False)), json.loads(seen or '{"laid": 0}')
        older = dict(zip(controls.named(), laid.get("kept") or laid.get("saw") or (), strict=False))
        base = was.values if laid["laid"] == was.laid else fresh | older
        there = kept.read(bench.workspace.folder, model)
        changed = {
            name: one
            for name, one in now.items()
            if name not in there or one != base[name] or name == touched.get(event.target._id)
        }
        kept.keep(bench.workspace.folder, model, changed)
        return replace(was, model=model, values=was.values | changed)

    def lay(model: str | None, redrawn: int, was: _Known, *values: Any) -> tuple[Any, ...]:
        """The page loads, or another model is open. A model without a plan takes over the one on the screen."""
        now, laid = dict(zip(names, values, strict=True)), was.laid + 1
        there = kept.read(bench.workspace.folder, model) if model else {}
        quick = {name: one for name, one in now.items() if one != was.values[name]} if model and not was.model else {}
        if there and quick:  # a hand before the page knew which model is open
            kept.keep(bench.workspace.folder, model or "", quick)
            there |= quick
        saw = [now[name] for name in controls.named()]
        described = known.description(model, bench.workspace.folder) if model else None
        if not there:
            if model and was.model not in ("", model):
                kept.keep(bench.workspace.folder, model, now)
            word = json.dumps({"laid": laid, "saw": saw})
            return word, *[gr.skip()] * (len(dependent) + len(kept.PARAMS) + 1), _Known(laid, model or "", now)
        plan = now | kept.fitting(now | there)
        word = json.dumps({"laid": laid, "saw": saw, "kept": [plan[name] for name in controls.named()]})
        return word, *_shown(plan, described), *(plan[name] for name in kept.PARAMS), redrawn + 1, _Known(laid, model or "", plan)

    touched = {part._id: name for name, part in controls.named().items()}
    by_hand = [part.input for part in controls.all()]
    gr.on(by_hand, hand, [bench.model, before, told, *parts], before, trigger_mode="always_last", **_QUIET)
    moved = [
        state.change for state in params.all()
    ]  # on their own: when these are laid, the controls' values are still on their way
    gr.on(moved, hand, [bench.model, before, told, *params.all()], before, trigger_mode="always_last", **_QUIET)
    states = [*params.all(), params.redrawn, before]
    asked = bench.model.change(lay, [bench.model, params.redrawn, before, *parts], [told, *dependent, *states], **_TELL)
    return asked.then(None, [told, *controls.all()], controls.all(), js=_LAY, **_QUIET)


def _shown(plan: dict[str, Any], described: dict[str, Any] | None) -> tuple[Any, ...]:
    """What the dependent controls offer for this plan; their values follow."""
    card = card_of(plan["method"])
    fits = shapes(plan["structure"], plan["allocation"], plan["target"])
    return (
        gr.Dropdown(info=card.summary),
        gr.Dropdown(choices=structures(card)),
        gr.Dropdown(visible=catalogue.asks_general(card)),
        *fits,
        gr.Slider(visible=plan["recovery"] != "none"),
        *scope.offered(described, card, plan["structure"]),
    )
