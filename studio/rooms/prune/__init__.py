"""Prune & recover: choose, read the plan, prune, see what it cost and what training won back."""

from __future__ import annotations

import html
from typing import Any

import gradio as gr

from core import catalogue
from core.errors import ModelError, PrunariumError
from core.recipe import Recipe, parse
from studio import known, target
from studio.bench import Bench, plainly
from studio.parts import cards, facts, views
from studio.rooms.prune import adopting, keeping, kept, onscreen, plandiff
from studio.rooms.prune.controls import Controls, Params, card_of
from studio.rooms.prune.controls import controls as controls_of
from studio.rooms.prune.plans import BY_HAND, STRUCTURE_WORDS, WHOLE, Order, sentence, structures, to_recipe
from studio.rooms.prune.results import results

_QUIET: dict[str, Any] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}
_TELL: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}  # only queued events make a State's change heard


def build(bench: Bench) -> None:
    gr.Markdown(
        "## Prune & recover\nChoose what goes, read the plan, press *Prune*. The run is a process of its own: close the page and it goes on."
    )
    params = Params(gr.State({}), gr.State({}), gr.State(0))
    with gr.Row(elem_classes="split"):
        with gr.Column(scale=5, min_width=300):
            controls = controls_of(bench, params)
        with gr.Column(scale=7, min_width=300):
            plan = cards.sentence(elem_id="plan")
            diff = facts.component("plan-diff")
            with gr.Row():
                go = gr.Button("Prune", variant="primary", elem_id="prune-go", scale=2)
                compare = gr.Button("Compare runs", scale=1)
            codes = views.command_views(elem_id="show-command")
            results(bench)
    laid = keeping.wire(bench, controls, params)
    _wire(bench, controls, params, [plan, diff, go, *codes], laid)
    _wire_controls(bench, controls, params)
    adopting.wire(bench, controls, params)
    compare.click(lambda: gr.Tabs(selected="compare"), None, bench.tabs, **_QUIET)


def _order(bench: Bench, values: tuple[Any, ...]) -> Order:
    params, spread, method, structure, goal, sparsity, limit, allocation, recovery, steps, *rest = values
    source, general, samples, tokens, measures, prompt, name, seed, save = rest
    opened = bench.workspace.read()
    described = known.description(opened.model, bench.workspace.folder) or {}
    return Order(
        model=opened.model, kind=str(described.get("kind") or "decoder"), name=name.strip(), seed=int(seed or 0), method=method,
        params=_admitted(bench, method, params.get(method, {})),
        structure=structure, cost=goal, sparsity=round(sparsity / 100, 4), limit=target.limit(limit),
        allocation=allocation, spread=spread.get(allocation, {}), shares=dict(opened.budget.shares),
        source=source if source == "auto" else bench.admit(source or ""), samples=int(samples or 0), tokens=int(tokens or 0),
        general=general if general == "auto" or not catalogue.asks_general(card_of(method)) else bench.admit(general or ""),
        recovery=recovery, steps=int(steps), measures=tuple(measures), prompt=prompt, save=save,
    )  # fmt: skip


def _admitted(bench: Bench, method: str, params: dict[str, Any]) -> dict[str, Any]:
    """The parameters, those that name a second model looked at as the model itself is: a path must lie in an opened folder."""
    models = {param.name for param in card_of(method).params if param.grammar == "model"}
    return {name: bench.admit(value) if name in models and value.strip() else value for name, value in params.items()}


def _recipe(bench: Bench, values: tuple[Any, ...]) -> Recipe:
    order = _order(bench, values)
    recipe = parse(to_recipe(order))
    catalogue.resolve(recipe)
    described = known.description(order.model, bench.workspace.folder) or {}
    if why := described.get("refused", {}).get(order.structure):
        raise ModelError(why, "Choose something else to go; the Model room lists what this model lacks.")
    return recipe


def _wire(bench: Bench, controls: Controls, params: Params, shown: list[Any], laid: Any) -> None:
    """`laid`: the event after which the controls stand as the plan was left."""
    read = gr.State(None)  # what the plan on screen was read from

    def planned(*values: Any) -> Any:
        try:
            recipe = _recipe(bench, values)
        except PrunariumError as error:
            return None, {"text": str(error), "wrong": True}, None, gr.Button(interactive=False), "", "", ""
        described = known.description(recipe.model.source, bench.workspace.folder) or {}
        diff = plandiff.shown(recipe, bench.runs, described)
        said = {"text": sentence(recipe, catalogue.load(), str(described.get("kind") or "decoder")), "wrong": False}
        return onscreen.of(recipe), said, diff, gr.Button(interactive=True), *views.texts(recipe)

    def start(on_screen: Any, *values: Any) -> Any:
        """Only what the plan says: what another window has opened or moved meanwhile is shown first, and pruned by the next press."""
        opened = bench.workspace.read()
        try:
            recipe = _recipe(bench, values)
            onscreen.same(on_screen, recipe)
            return bench.start(recipe), gr.skip(), gr.skip()
        except PrunariumError as error:
            gr.Warning(html.escape(str(error)), title="Not done")
            same_model = not on_screen or on_screen[0] == opened.model
            return gr.skip(), opened.model, opened.revision if same_model else gr.skip()  # another model draws every room anew

    inputs = [*params.all(), *controls.all()]
    changes = [control.change for control in controls.all()]
    laid.then(planned, inputs, [read, *shown], **_QUIET)
    signals = [bench.budget.change, bench.ended.change, *(state.change for state in params.all())]
    gr.on([*changes, *signals], planned, inputs, [read, *shown], trigger_mode="always_last", **_QUIET)
    pressed = shown[2].click(start, [read, *inputs], [bench.run, bench.model, bench.budget], **_TELL)
    pressed.then(planned, inputs, [read, *shown], **_QUIET)


def _wire_controls(bench: Bench, controls: Controls, params: Params) -> None:
    """Controls that depend on each other: each shows only what means something with the others."""

    def method_chosen(name: str, structure: str) -> Any:
        choices = structures(card_of(name))
        wrong = {} if structure in [value for _, value in choices] else {"value": choices[0][1]}
        general = gr.Dropdown(visible=catalogue.asks_general(card_of(name)))
        return gr.Dropdown(info=card_of(name).summary), gr.Dropdown(choices=choices, **wrong), general

    @plainly
    def by_hand(model: str | None, name: str, structure: str, pressed: list[Any] | None) -> Any:
        """The budget is what shall be pruned, and removes what its bars say, where the method can. It has no meaning for what goes whole."""
        can, wanted = [value for _, value in structures(card_of(name))], (pressed or [0, ""])[1] or "unstructured"
        if wanted not in can and structure not in WHOLE:
            told = f"{card_of(name).label} removes no {STRUCTURE_WORDS[wanted]}: choose another method for this budget."
            gr.Warning(html.escape(told))
        other = structure in (*WHOLE, "neurons", "heads", "unstructured") and structure != wanted and wanted in can
        kept.keep(bench.workspace.folder, model or "", {"allocation": BY_HAND, **({"structure": wanted} if other else {})})
        return wanted if other else gr.skip(), BY_HAND

    chosen = [controls.method, controls.structure, controls.general]
    controls.method.input(method_chosen, [controls.method, controls.structure], chosen, **_TELL, trigger_mode="always_last")
    fitted = [controls.structure, controls.allocation, controls.target]
    fits = [controls.target, controls.sparsity, controls.limit, controls.allocation]
    gr.on([part.change for part in fitted], keeping.shapes, fitted, fits, **_QUIET)
    chosen = [bench.model, controls.method, controls.structure, bench.by_hand]
    bench.by_hand.change(by_hand, chosen, [controls.structure, controls.allocation], **_QUIET)
    controls.recovery.input(lambda chosen: gr.Slider(visible=chosen != "none"), controls.recovery, controls.steps, **_QUIET)
