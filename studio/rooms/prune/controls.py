"""The controls of the pruning room: what goes, how much, how it is spread, what is read, trained, measured and kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from core import catalogue
from studio import target
from studio.bench import Bench
from studio.parts import cards
from studio.rooms.prune import scope
from studio.rooms.prune.params import details
from studio.rooms.prune.plans import BY_HAND, PROMPT, TILE, spreads, structures


@dataclass(frozen=True)
class Params:
    """{method: {name: value}} of the parameters that a person has set: of the methods, of the allocators, of the reconstructions, of the recoveries. redrawn:
    counts up when their controls are to show others."""

    method: gr.State
    spread: gr.State
    mend: gr.State
    heal: gr.State
    redrawn: gr.State

    def all(self) -> list[gr.State]:
        return [self.method, self.spread, self.mend, self.heal]


@dataclass(frozen=True)
class Controls:
    """`fold`: holds those that choose parts; every other field is a control, under the name by which the plan is kept."""

    fold: gr.Accordion
    method: gr.Dropdown
    structure: gr.Dropdown
    keep_n: gr.Number
    of_m: gr.Number
    tile: gr.Number
    only: gr.Dropdown
    protect: gr.Dropdown
    spare: gr.Checkbox
    target: gr.Dropdown
    sparsity: gr.Slider
    limit: gr.Textbox
    allocation: gr.Radio
    refit: gr.Radio
    recovery: gr.Radio
    steps: gr.Slider
    source: gr.Dropdown
    general: gr.Dropdown
    samples: gr.Number
    tokens: gr.Number
    measures: gr.CheckboxGroup
    prompt: gr.Textbox
    name: gr.Textbox
    seed: gr.Number
    save: gr.Checkbox

    def named(self) -> dict[str, gr.components.Component]:
        return {name: part for name, part in vars(self).items() if name != "fold"}

    def all(self) -> list[gr.components.Component]:
        return list(self.named().values())

    def shaped(self) -> list[gr.components.Component]:
        """The outputs of keeping.shapes."""
        return [self.keep_n, self.of_m, self.tile, self.target, self.sparsity, self.limit, self.allocation]

    def scoped(self) -> list[Any]:
        """The outputs of scope.offered."""
        return [self.fold, self.only, self.protect, self.spare]


def controls(bench: Bench, params: Params) -> Controls:
    methods = [(card.label, card.name) for card in catalogue.pruners() if not card.problem]
    start = "wanda" if ("Wanda", "wanda") in methods else methods[0][1]
    method = gr.Dropdown(methods, value=start, label="Method", elem_id="method", info=card_of(start).summary)
    broken = [f"{card.label} cannot be used: {card.problem}." for card in catalogue.pruners() if card.problem]
    if broken:
        cards.hint(" ".join(broken), elem_id="broken-methods")
    details("About this method", bench.page, method, params.method, card_of, "method-details", params.redrawn)
    structure = gr.Dropdown(structures(card_of(start)), value="unstructured", label="What goes", elem_id="structure")
    sizes = _sizes()
    fold, *parts = scope.controls()
    goal, sparsity, limit, allocation = _amount(bench, params)
    refit = gr.Radio(_ways("reconstruction"), value="none", label="Refit: layers put right without training", elem_id="refit")
    details("About this refit", bench.page, refit, params.mend, mend_card, "mend-details", params.redrawn)
    recovery = gr.Radio(_ways("recovery"), value="none", label="Recovery: training after pruning", elem_id="recovery")
    steps = gr.Slider(10, 1000, 100, step=10, label="Training steps", visible=False, elem_id="recovery-steps")
    details("About this recovery", bench.page, recovery, params.heal, heal_card, "heal-details", params.redrawn)
    read = _calibration()
    kept = _measure_and_keep()
    return Controls(
        fold, method, structure, *sizes, *parts, goal, sparsity, limit, allocation, refit, recovery, steps, *read, *kept
    )


def _sizes() -> tuple[gr.Number, gr.Number, gr.Number]:
    """N, M, the side of a tile: shown where they mean something. No bounds: the plan says what is wrong."""
    with gr.Row():
        keep_n = gr.Number(2, label="N: inputs kept", precision=0, visible=False, elem_id="keep-n", min_width=120)
        of_m = gr.Number(4, label="of each M", precision=0, visible=False, elem_id="of-m", min_width=120)
        tile = gr.Number(TILE, label="Weights a side of a tile", precision=0, visible=False, elem_id="tile", min_width=120)
    return keep_n, of_m, tile


def _calibration() -> tuple[gr.Dropdown, gr.Dropdown, gr.Number, gr.Number]:
    """Source, general text, sequences, tokens. No bounds on the numbers: the recipe's own check says what is wrong, in the plan."""
    with gr.Accordion("Calibration", open=False):
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
        general = gr.Dropdown(
            sources[:-1], value="auto", label="General text", allow_custom_value=True, visible=False, elem_id="general",
            info="What the method weighs the calibration text, the domain, against",
        )  # fmt: skip
        with gr.Row():
            samples = gr.Number(128, label="Sequences", precision=0, elem_id="samples")
            tokens = gr.Number(512, label="Tokens each", precision=0, elem_id="tokens")
    return source, general, samples, tokens


def _measure_and_keep() -> tuple[gr.CheckboxGroup, gr.Textbox, gr.Textbox, gr.Number, gr.Checkbox]:
    """What is measured, prompts, name, seed, whether the model is saved."""
    with gr.Accordion("Measure and keep", open=False):
        chosen = [
            ("Quality: perplexity or accuracy", "quality"), ("Latency", "latency"), ("Sample text", "text"),
            ("Corrupted images", "corruptions"), ("Feature geometry", "geometry"),
        ]  # fmt: skip
        measures = gr.CheckboxGroup(chosen, value=["quality", "text"], label="Measure, dense and after each step")
        prompt = gr.Textbox(PROMPT, label="Prompts for the sample text, one a line", lines=2)
        save = gr.Checkbox(False, label="Save the pruned model")
        with gr.Row():
            name = gr.Textbox("", label="Name of the run", placeholder="made from the choices", scale=2)
            seed = gr.Number(0, label="Seed", precision=0, scale=1)
    return measures, prompt, name, seed, save


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
    details("About how it is spread", bench.page, allocation, params.spread, spread_card, "spread-details", params.redrawn)
    return goal, sparsity, limit, allocation


def card_of(name: str) -> catalogue.MethodCard:
    return catalogue.pruner(catalogue.load(), name)


def _ways(kind: str) -> list[tuple[str, str]]:
    return [("None", "none"), *((card.label, card.name) for card in catalogue.of_kind(kind) if not card.problem)]


def mend_card(name: str) -> catalogue.MethodCard | None:
    return None if name == "none" else catalogue.find(catalogue.load(), "reconstruction", name)


def heal_card(name: str) -> catalogue.MethodCard | None:
    return None if name == "none" else catalogue.find(catalogue.load(), "recovery", name)


def spread_card(name: str) -> catalogue.MethodCard | None:
    return None if name == BY_HAND else catalogue.find(catalogue.load(), "allocator", name)
