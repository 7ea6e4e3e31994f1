"""The card of the layer beside the X-ray's picture: facts, distributions, and what its score means. Wiring; drawing is in charts."""

from __future__ import annotations

import html
import threading
from dataclasses import dataclass
from typing import Any

import gradio as gr

from core import catalogue
from core.errors import PrunariumError
from studio.bench import Bench, plainly
from studio.charts import xray, xray_spectrum
from studio.looking import card, share_of, statistics
from studio.parts import explaining, facts
from studio.parts.plotview import PlotlyView
from studio.rooms.xray.dive import QUIET

LIMIT_S = 120.0
SHOWN = {"weights": "Weights", "scores": "Scores", "inputs": "Inputs"}


@dataclass(frozen=True)
class Beside:
    layer: gr.Dropdown
    about: gr.HTML
    which: gr.Radio
    title: gr.HTML
    weights: PlotlyView
    meaning: gr.Markdown


def build() -> Beside:
    layer = gr.Dropdown([], label="Layer", elem_id="xray-layer", info="Or click a bar or a cell")
    about = facts.component("xray-card")
    which = gr.Radio(
        [(text, name) for name, text in SHOWN.items()],
        value="weights",
        show_label=False,
        label="Distribution of",
        elem_id="xray-which",
    )
    title = facts.component("xray-weights-finding")
    weights = PlotlyView(
        height=210, alt="The layer's weights, their scores or its inputs, by value", elem_id="xray-weights", visible=False
    )
    with gr.Accordion("Explain this score", open=False, elem_classes="twin", elem_id="xray-explain"):
        meaning = gr.Markdown("", elem_id="xray-meaning")
    return Beside(layer, about, which, title, weights, meaning)


def wire(bench: Bench, beside: Beside, metric: gr.Radio, score: gr.Dropdown, moves: list[Any]) -> None:
    """score: the one chosen inside a block. moves: events that may have changed the layer; the weights follow them, from the worker."""

    def describe(source: str | None, name: str | None) -> Any:
        seen = bench.observed(source)
        return card(bench, seen, name) if seen and name else None

    @plainly
    def look_inside(source: str | None, name: str | None, which: str, by: str | None) -> Any:
        """What only the worker has."""
        if not source or not name:
            return gr.skip()
        told, figure = _distribution(bench, source, name, which, by or "")
        if notice := bench.worker.take_notice():
            gr.Info(html.escape(notice))
        return told, gr.update(value=figure, visible=figure is not None)

    def warm(source: str | None, event: gr.SelectData) -> None:
        """Somebody came to look: the worker's slow imports happen while they read."""
        if source and event.value == "X-ray":
            threading.Thread(target=_warm, args=(bench, source), daemon=True).start()

    bench.tabs.select(warm, bench.model, None, **QUIET)
    inside: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": 1, "trigger_mode": "always_last"}
    told, shown = [bench.model, beside.layer, beside.which, metric], [beside.title, beside.weights]
    for move in moves:
        move.then(look_inside, told, shown, **inside)
    beside.which.input(look_inside, told, shown, **inside)
    gr.on([beside.layer.change, bench.budget.change], describe, [bench.model, beside.layer], beside.about, **QUIET)
    bench.model.change(lambda: (None, gr.update(visible=False)), None, shown, **QUIET)
    metric.change(meaning, metric, beside.meaning, **QUIET)
    score.input(meaning, score, beside.meaning, **QUIET)


def _distribution(bench: Bench, source: str, name: str, which: str, metric: str) -> tuple[dict[str, Any], Any]:
    """A finding and a figure: of the weights, of their scores, or of what the layer is given."""
    if which == "inputs":
        found = bench.worker.about(source, "xray_inputs", timeout_s=LIMIT_S, name=name)
        return facts.said(xray_spectrum.activation_finding(found), badge="measured"), xray_spectrum.activation_bars(found)
    share = share_of(bench, name) or None
    if which == "scores":
        found = bench.worker.about(
            source, "xray_weights", timeout_s=LIMIT_S, name=name, metric=metric, window=[0, 1, 0, 1], share=share
        )
        return facts.said(xray_spectrum.score_finding(found), badge="measured"), xray_spectrum.score_bars(found)
    found = bench.worker.about(source, "layer", timeout_s=LIMIT_S, name=name, share=share)
    return statistics(found), xray.histogram(found)


def meaning(metric: str | None) -> str:
    """What a score is, by its method's own file: formula, intuition, when it lies, the paper. A person's own method is text, not markup."""
    if metric == xray.ABLATION:
        return explaining.text("ablation")
    found = next((found for found in catalogue.of_kind("score") if found.name == metric), None)
    if found is None:
        return ""
    words = "\n\n".join(html.escape(part, quote=False) for part in found.doc.split("\n\n"))
    paper = found.paper
    said = f"\n\n*{html.escape(paper.said)}*" if paper else ""
    return f"**{html.escape(found.label)}.** {words}{said}"


def _warm(bench: Bench, source: str) -> None:
    try:
        bench.worker.about(source, "catalogue", timeout_s=120.0)
    except PrunariumError:
        return  # whoever asks a real question is told
