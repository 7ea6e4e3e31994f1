"""Prune & recover: choose, read the plan, prune, see what it cost and what training won back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from core import catalogue
from core.errors import ModelError, PrunariumError
from core.recipe import Recipe, n_of_m, parse
from studio import adopting, cards, known, target, views
from studio.bench import Bench, plainly
from studio.params import details
from studio.plans import BY_HAND, PROMPT, WHOLE, Order, sentence, spreads, structures, to_recipe
from studio.results import results

_QUIET: dict[str, Any] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}
_TELL: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}  # only queued events make a State's change heard


@dataclass(frozen=True)
class Params:
    """{name: value} of the parameters that a person has set: of the method, and of the allocator. redrawn: counts up when the method's controls are to
    show others."""

    method: gr.State
    spread: gr.State
    redrawn: gr.State

    def all(self) -> list[gr.State]:
        return [self.method, self.spread]


@dataclass(frozen=True)
class Controls:
    method: gr.Dropdown
    structure: gr.Dropdown
    target: gr.Dropdown
    sparsity: gr.Slider
    limit: gr.Textbox
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
    params = Params(gr.State({}), gr.State({}), gr.State(0))
    with gr.Row(elem_classes="split"):
        with gr.Column(scale=5, min_width=300):
            controls = _controls(bench, params)
        with gr.Column(scale=7, min_width=300):
            plan = cards.sentence(elem_id="plan")
            with gr.Row():
                go = gr.Button("Prune", variant="primary", elem_id="prune-go", scale=2)
                compare = gr.Button("Compare runs", scale=1)
            codes = views.command_views(elem_id="show-command")
            results(bench)
    _wire(bench, controls, params, plan, codes, go)
    _wire_controls(bench, controls, params)
    adopting.wire(bench, controls, params)
    compare.click(lambda: gr.Tabs(selected="compare"), None, bench.tabs, **_QUIET)


def _controls(bench: Bench, params: Params) -> Controls:
    methods = [(card.label, card.name) for card in catalogue.pruners() if not card.problem]
    healers = [("None", "none"), *((card.label, card.name) for card in catalogue.of_kind("recovery") if not card.problem)]
    start = "wanda" if ("Wanda", "wanda") in methods else methods[0][1]
    method = gr.Dropdown(methods, value=start, label="Method", elem_id="method", info=_card(start).summary)
    broken = [f"{card.label} cannot be used: {card.problem}." for card in catalogue.pruners() if card.problem]
    if broken:
        cards.hint(" ".join(broken), elem_id="broken-methods")
    details("About this method", bench.page, method, params.method, _card, "method-details", params.redrawn)
    structure = gr.Dropdown(structures(_card(start)), value="unstructured", label="What goes", elem_id="structure")
    goal, sparsity, limit, allocation = _amount(bench, params)
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
        method,
        structure,
        goal,
        sparsity,
        limit,
        allocation,
        recovery,
        steps,
        source,
        samples,
        tokens,
        measures,
        prompt,
        name,
        seed,
        save,
    )


def _amount(bench: Bench, params: Params) -> tuple[gr.Dropdown, gr.Slider, gr.Number, gr.Radio]:
    """How much goes, what that is a share of, and how it is spread."""
    goal = gr.Dropdown(target.choices("unstructured"), value=target.SHARE, label="Share of", elem_id="target",
                       info="Of what goes, or of what the whole model costs; only what falls with the choice above is offered")  # fmt: skip
    sparsity = gr.Slider(0, 95, 50, step=1, label=target.slider_label(target.SHARE), elem_id="sparsity")
    limit = gr.Textbox(
        "",
        label=target.limit_label(target.SHARE),
        visible=False,
        max_length=20,
        elem_id="limit",
        placeholder="a figure, in the share's place",
    )
    allocation = gr.Radio(
        spreads("unstructured"),
        value="uniform",
        label="How the share is spread over the layers",
        elem_id="allocation",
    )
    details("About how it is spread", bench.page, allocation, params.spread, _spread_card, "spread-details")
    return goal, sparsity, limit, allocation


def _card(name: str) -> catalogue.MethodCard:
    return catalogue.pruner(catalogue.load(), name)


def _spread_card(name: str) -> catalogue.MethodCard | None:
    return None if name == BY_HAND else catalogue.find(catalogue.load(), "allocator", name)


def _order(bench: Bench, values: tuple[Any, ...]) -> Order:
    params, spread, method, structure, goal, sparsity, limit, allocation, recovery, steps, *rest = values
    source, samples, tokens, measures, prompt, name, seed, save = rest
    opened = bench.workspace.read()
    described = known.description(opened.model, bench.workspace.folder) or {}
    return Order(
        model=opened.model, kind=str(described.get("kind") or "decoder"), name=name.strip(), seed=int(seed or 0), method=method,
        params=_admitted(bench, method, params),
        structure=structure, cost=goal, sparsity=round(sparsity / 100, 4), limit=target.limit(limit),
        allocation=allocation, spread=spread, shares=dict(opened.budget.shares),
        source=source if source == "auto" else bench.admit(source or ""), samples=int(samples or 0), tokens=int(tokens or 0),
        recovery=recovery, steps=int(steps), measures=tuple(measures), prompt=prompt, save=save,
    )  # fmt: skip


def _admitted(bench: Bench, method: str, params: dict[str, Any]) -> dict[str, Any]:
    """The parameters, those that name a second model looked at as the model itself is: a path must lie in an opened folder."""
    models = {param.name for param in _card(method).params if param.grammar == "model"}
    return {name: bench.admit(value) if name in models and value.strip() else value for name, value in params.items()}


def _recipe(bench: Bench, values: tuple[Any, ...]) -> Recipe:
    order = _order(bench, values)
    recipe = parse(to_recipe(order))
    catalogue.resolve(recipe)
    described = known.description(order.model, bench.workspace.folder) or {}
    if why := described.get("refused", {}).get(order.structure):
        raise ModelError(why, "Choose something else to go; the Model room lists what this model lacks.")
    return recipe


def _wire(bench: Bench, controls: Controls, params: Params, plan: gr.HTML, codes: list[gr.Code], go: gr.Button) -> None:
    def planned(*values: Any) -> Any:
        try:
            recipe = _recipe(bench, values)
        except PrunariumError as error:
            return {"text": str(error), "wrong": True}, gr.Button(interactive=False), "", "", ""
        described = known.description(recipe.model.source, bench.workspace.folder) or {}
        said = {"text": sentence(recipe, catalogue.load(), str(described.get("kind") or "decoder")), "wrong": False}
        return said, gr.Button(interactive=True), *views.texts(recipe)

    @plainly
    def start(*values: Any) -> str:
        return bench.start(_recipe(bench, values))

    inputs = [*params.all(), *controls.all()]
    changes = [control.change for control in controls.all()]
    signals = [bench.model.change, bench.budget.change, *(state.change for state in params.all())]
    gr.on([*changes, *signals], planned, inputs, [plan, go, *codes], trigger_mode="always_last", **_QUIET)
    go.click(start, inputs, bench.run, **_TELL)


def _wire_controls(bench: Bench, controls: Controls, params: Params) -> None:
    """Controls that depend on each other: each shows only what means something with the others."""

    def method_chosen(name: str, structure: str, redrawn: int) -> Any:
        choices = structures(_card(name))
        kept = structure if structure in [value for _, value in choices] else choices[0][1]
        return gr.Dropdown(info=_card(name).summary), gr.Dropdown(choices=choices, value=kept), {}, redrawn + 1

    def fitting(structure: str, allocation: str, goal: str) -> Any:
        """Only controls that mean something for this structure are shown, and only costs that fall with it are offered."""
        by_hand, choices = allocation == BY_HAND and structure not in WHOLE, target.choices(structure)
        goal = goal if goal in [value for _, value in choices] else target.SHARE
        ways = spreads(structure)
        allocation = allocation if allocation in [value for _, value in ways] else "uniform"
        free, costs = n_of_m(structure) is None and not by_hand, len(choices) > 1
        return (
            gr.Dropdown(choices=choices, value=goal, visible=free and costs),
            gr.Slider(visible=free, label=target.slider_label(goal)),
            gr.Textbox(visible=free and goal != target.SHARE, label=target.limit_label(goal)),
            gr.Radio(choices=ways, value=allocation, visible=structure not in WHOLE),
        )

    def by_hand(name: str, structure: str) -> Any:
        """The budget is what shall be pruned. It has no meaning for what goes whole, so these give way where the method can do without."""
        single = structure in WHOLE and "unstructured" in [value for _, value in structures(_card(name))]
        return "unstructured" if single else gr.skip(), BY_HAND

    chosen = [controls.method, controls.structure, params.method, params.redrawn]
    controls.method.input(method_chosen, [controls.method, controls.structure, params.redrawn], chosen, **_TELL)
    shapes = [controls.structure, controls.allocation]
    fits = [controls.target, controls.sparsity, controls.limit, controls.allocation]
    gr.on([part.change for part in (*shapes, controls.target)], fitting, [*shapes, controls.target], fits, **_QUIET)
    controls.allocation.change(lambda: {}, None, params.spread, **_TELL)  # another allocator has other parameters
    bench.by_hand.change(by_hand, [controls.method, controls.structure], shapes, **_QUIET)
    controls.recovery.input(lambda chosen: gr.Slider(visible=chosen != "none"), controls.recovery, controls.steps, **_QUIET)
