"""Prune & recover: choose, read the plan, prune, see what it cost and what training won back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from core import catalogue
from core.errors import PrunariumError
from core.recipe import Recipe, n_of_m, parse
from studio import adopting, cards, known, views
from studio.bench import Bench, plainly
from studio.plans import BY_HAND, PROMPT, WHOLE, Order, sentence, structures, to_recipe
from studio.results import results

_QUIET: dict[str, Any] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}
_TELL: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}  # only queued events make a State's change heard


@dataclass(frozen=True)
class Controls:
    method: gr.Dropdown
    structure: gr.Dropdown
    sparsity: gr.Slider
    allocation: gr.Radio
    recovery: gr.Radio
    steps: gr.Slider
    source: gr.Dropdown
    samples: gr.Number
    tokens: gr.Number
    measures: gr.CheckboxGroup
    prompt: gr.Textbox
    name: gr.Textbox
    seed: gr.Number
    save: gr.Checkbox

    def all(self) -> list[gr.components.Component]:
        return list(vars(self).values())


def build(bench: Bench) -> None:
    gr.Markdown(
        "## Prune & recover\nChoose what goes, read the plan, press *Prune*. The run is a process of its own: close the page and it goes on."
    )
    params, redrawn = gr.State({}), gr.State(0)
    with gr.Row(elem_classes="split"):
        with gr.Column(scale=5, min_width=300):
            controls = _controls(bench, params, redrawn)
        with gr.Column(scale=7, min_width=300):
            plan = cards.sentence(elem_id="plan")
            with gr.Row():
                go = gr.Button("Prune", variant="primary", elem_id="prune-go", scale=2)
                compare = gr.Button("Compare runs", scale=1)
            codes = views.command_views(elem_id="show-command")
            results(bench)
    _wire(bench, controls, params, plan, codes, go)
    _wire_controls(bench, controls, params)
    adopting.wire(bench, controls, params, redrawn)
    compare.click(lambda: gr.Tabs(selected="compare"), None, bench.tabs, **_QUIET)


def _controls(bench: Bench, params: gr.State, redrawn: gr.State) -> Controls:
    methods = [(card.label, card.name) for card in catalogue.pruners() if not card.problem]
    spread = [(card.label, card.name) for card in catalogue.of_kind("allocator") if not card.problem]
    healers = [("None", "none"), *((card.label, card.name) for card in catalogue.of_kind("recovery") if not card.problem)]
    start = "wanda" if ("Wanda", "wanda") in methods else methods[0][1]
    method = gr.Dropdown(methods, value=start, label="Method", elem_id="method", info=_card(start).summary)
    broken = [f"{card.label} cannot be used: {card.problem}." for card in catalogue.pruners() if card.problem]
    if broken:
        cards.hint(" ".join(broken), elem_id="broken-methods")
    _method_details(bench, method, params, redrawn)
    structure = gr.Dropdown(structures(_card(start)), value="unstructured", label="What goes", elem_id="structure")
    sparsity = gr.Slider(0, 95, 50, step=1, label="Share to remove (%)", elem_id="sparsity")
    allocation = gr.Radio(
        [*sorted(spread, key=lambda choice: choice[1] != "uniform"), ("The budget by hand", BY_HAND)],
        value="uniform",
        label="How the share is spread over the layers",
        elem_id="allocation",
    )
    recovery = gr.Radio(healers, value="none", label="Recovery: training after pruning", elem_id="recovery")
    steps = gr.Slider(10, 1000, 100, step=10, label="Training steps", visible=False, elem_id="recovery-steps")
    with gr.Accordion(
        "Calibration", open=False
    ):  # no bounds on the numbers: the recipe's own check says what is wrong, in the plan
        sources = [
            ("The model's standard text or images", "auto"),
            "builtin:wikitext2/train",
            "builtin:python-docs",
            "builtin:mnist5k/train",
        ]
        source = gr.Dropdown(
            sources,
            value="auto",
            label="Source",
            allow_custom_value=True,
            info="A built-in, or a text file or table in an opened folder",
        )
        with gr.Row():
            samples = gr.Number(128, label="Sequences", precision=0, elem_id="samples")
            tokens = gr.Number(512, label="Tokens each", precision=0, elem_id="tokens")
    with gr.Accordion("Measure and keep", open=False):
        chosen = [("Quality: perplexity or accuracy", "quality"), ("Latency", "latency"), ("Sample text", "text")]
        measures = gr.CheckboxGroup(chosen, value=["quality", "text"], label="Measure, dense and after each step")
        prompt = gr.Textbox(PROMPT, label="Prompts for the sample text, one a line", lines=2)
        save = gr.Checkbox(False, label="Save the pruned model")
        with gr.Row():
            name = gr.Textbox("", label="Name of the run", placeholder="made from the choices", scale=2)
            seed = gr.Number(0, label="Seed", precision=0, scale=1)
    return Controls(
        method, structure, sparsity, allocation, recovery, steps, source, samples, tokens, measures, prompt, name, seed, save
    )


def _card(name: str) -> catalogue.MethodCard:
    return catalogue.pruner(catalogue.load(), name)


def _method_details(bench: Bench, method: gr.Dropdown, params: gr.State, redrawn: gr.State) -> None:
    """What the method's own file says about it, and a control for each of its parameters."""
    with gr.Accordion("About this method", open=False):
        triggers = [method.change, redrawn.change, bench.page.load]

        @gr.render(inputs=[method, params], triggers=triggers, queue=False, show_progress="hidden")
        def details(name: str, given: dict[str, Any]) -> None:
            card = _card(name)
            gr.Markdown(card.doc)
            if card.paper:
                gr.Markdown(f"*{card.paper.authors} ({card.paper.year}), {card.paper.title}, arXiv {card.paper.arxiv}*")
            for param in card.params:
                _param(replace(param, default=given.get(param.name, param.default)), params)


def _param(param: catalogue.ParamCard, params: gr.State) -> None:
    if param.type == "bool":
        control: Any = gr.Checkbox(param.default, label=param.label, interactive=True)
    elif param.type == "str" and not param.choices:
        control = gr.Textbox(param.default, label=param.label, max_length=param.longest, interactive=True)
    elif param.choices:
        control = gr.Dropdown(list(param.choices), value=param.default, label=param.label, interactive=True)
    elif param.low is not None and param.high is not None:
        step = 1 if param.type == "int" else (param.high - param.low) / 100
        control = gr.Slider(param.low, param.high, param.default, step=step, label=param.label, interactive=True)
    else:
        control = gr.Number(param.default, label=param.label, precision=0 if param.type == "int" else None, interactive=True)

    def keep(now: dict[str, Any], value: Any) -> dict[str, Any]:
        return {**now, param.name: value}

    event = control.release if isinstance(control, gr.Slider) else control.change
    event(keep, [params, control], params, **_TELL)


def _order(bench: Bench, params: dict[str, Any], values: tuple[Any, ...]) -> Order:
    (method, structure, sparsity, allocation, recovery, steps, source, samples, tokens, measures, prompt, name, seed, save) = (
        values
    )
    opened = bench.workspace.read()
    described = known.description(opened.model, bench.workspace.folder) or {}
    return Order(
        model=opened.model, kind=str(described.get("kind") or "decoder"), name=name.strip(), seed=int(seed or 0), method=method, params=params,
        structure=structure, sparsity=round(sparsity / 100, 4), allocation=allocation, shares=dict(opened.budget.shares),
        source=source if source == "auto" else bench.admit(source or ""), samples=int(samples or 0), tokens=int(tokens or 0),
        recovery=recovery, steps=int(steps), measures=tuple(measures), prompt=prompt, save=save,
    )  # fmt: skip


def _recipe(bench: Bench, params: dict[str, Any], values: tuple[Any, ...]) -> Recipe:
    recipe = parse(to_recipe(_order(bench, params, values)))
    catalogue.resolve(recipe)
    return recipe


def _wire(bench: Bench, controls: Controls, params: gr.State, plan: gr.HTML, codes: list[gr.Code], go: gr.Button) -> None:
    def planned(params: dict[str, Any], *values: Any) -> Any:
        try:
            recipe = _recipe(bench, params, values)
        except PrunariumError as error:
            return {"text": str(error), "wrong": True}, gr.Button(interactive=False), "", "", ""
        said = {"text": sentence(recipe, catalogue.load()), "wrong": False}
        return said, gr.Button(interactive=True), *views.texts(recipe)

    @plainly
    def start(params: dict[str, Any], *values: Any) -> str:
        return bench.start(_recipe(bench, params, values))

    inputs = [params, *controls.all()]
    changes = [control.change for control in controls.all()]
    signals = [bench.model.change, bench.budget.change, params.change]
    gr.on([*changes, *signals], planned, inputs, [plan, go, *codes], trigger_mode="always_last", **_QUIET)
    go.click(start, inputs, bench.run, **_TELL)


def _wire_controls(bench: Bench, controls: Controls, params: gr.State) -> None:
    """Controls that depend on each other: each shows only what means something with the others."""

    def method_chosen(name: str, structure: str) -> Any:
        choices = structures(_card(name))
        kept = structure if structure in [value for _, value in choices] else choices[0][1]
        return gr.Dropdown(info=_card(name).summary), gr.Dropdown(choices=choices, value=kept), {}

    def fitting(structure: str, allocation: str) -> Any:
        """Only controls that mean something for this structure are shown."""
        by_hand = allocation == BY_HAND and structure not in WHOLE
        return gr.Slider(visible=n_of_m(structure) is None and not by_hand), gr.Radio(visible=structure not in WHOLE)

    def by_hand(name: str, structure: str) -> Any:
        """The budget is what shall be pruned. It has no meaning for what goes whole, so these give way where the method can do without."""
        single = structure in WHOLE and "unstructured" in [value for _, value in structures(_card(name))]
        return "unstructured" if single else gr.skip(), BY_HAND

    controls.method.input(
        method_chosen, [controls.method, controls.structure], [controls.method, controls.structure, params], **_TELL
    )
    shapes = [controls.structure, controls.allocation]
    gr.on([part.change for part in shapes], fitting, shapes, [controls.sparsity, controls.allocation], **_QUIET)
    bench.by_hand.change(by_hand, [controls.method, controls.structure], shapes, **_QUIET)
    controls.recovery.input(lambda chosen: gr.Slider(visible=chosen != "none"), controls.recovery, controls.steps, **_QUIET)
