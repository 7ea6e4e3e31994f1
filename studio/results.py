"""What a pruning run tells while it works, and what it found: cards, layers, texts. The lower half of the pruning room."""

from __future__ import annotations

from typing import Any

import gradio as gr

from core import folder
from core.cost import said
from studio import cards, jobs, runs_table
from studio.bench import Bench
from studio.charts.run import layers_figure, live_figure
from studio.plotview import PlotlyView, table_twin

_QUIET: dict[str, Any] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}
_NONE_YET = "No pruning run yet. Choose on the left, read the plan, press Prune."


def results(bench: Bench) -> None:
    """What the followed run tells while it works, and what it found in the end."""
    nothing = cards.hint(_NONE_YET, elem_id="no-run")
    with gr.Column(visible=False) as live_part:
        gr.Markdown("### What the run tells")
        live = PlotlyView(height=240, alt="Figures that the run tells while it works, over its seconds", elem_id="live-curve")
    with gr.Column(visible=False) as done_part:
        figures = cards.figure_cards(elem_id="prune-figures")
        saved = cards.hint("", elem_id="prune-saved")
        figure_table = table_twin("figures", ["Figure", "Dense", "Pruned", "Recovered"])
        layers = PlotlyView(
            height=260, alt="A bar for each layer: the share removed, and the error in its output", elem_id="prune-layers"
        )
        layer_table = table_twin("layers", ["Layer", "Asked %", "Removed %", "Output error"])
        texts = cards.text_cards(elem_id="prune-texts")
    timer = gr.Timer(1.0, active=False)
    everything = [nothing, live_part, live, done_part, figures, saved, figure_table, layers, layer_table, texts, timer]

    def look(name: str | None) -> tuple[Any, ...]:
        at = jobs.status(bench.runs / name) if name else None
        return _seen(at) if at else _nothing(_NONE_YET)

    bench.run.change(look, bench.run, everything, trigger_mode="multiple", **_QUIET)
    bench.ended.change(look, bench.run, everything, trigger_mode="multiple", **_QUIET)
    timer.tick(look, bench.run, everything, **_QUIET)


def _seen(at: folder.Status) -> tuple[Any, ...]:
    """The outputs of `results` for a run: its words and curve so far, and its figures once it has ended."""
    recipe = runs_table.recipe_of(at)
    if recipe is None or not recipe.steps:
        return _nothing(_NONE_YET)
    curves = jobs.curve(at.path)
    curve = gr.Column(visible=bool(curves)), live_figure(curves)
    report = jobs.report(at.path) if at.ended else None
    if not report or not report.get("dense"):
        return "" if curves else _waiting(at), *curve, *_hidden()[2:], gr.Timer(active=not at.ended)
    layers = report.get("layers") or []
    figures = cards.moments(report), _where(at, report), cards.figure_rows(report)
    texts = cards.sample_texts(report, list(recipe.measure.generate))
    return "", *curve, gr.Column(visible=True), *figures, layers_figure(layers), layer_rows(report), texts, gr.Timer(active=False)


def _nothing(words: str) -> tuple[Any, ...]:
    return words, *_hidden(), gr.Timer(active=False)


def _hidden() -> tuple[Any, ...]:
    return gr.Column(visible=False), None, gr.Column(visible=False), [], "", [], None, [], []


def budgets(report: dict[str, Any]) -> str:
    """A sentence for each step with a budget in a cost: what was asked, and what was reached."""
    asked = [step["budget"] for step in report.get("steps") or [] if step.get("budget")]
    return "".join(
        f"Budget: at most {said(at['cost'], at['target'])} asked for, {said(at['cost'], at['reached'])} "
        f"{'measured' if at['cost'] == 'latency' else 'reached'}; there were {said(at['cost'], at['before'])}. "
        for at in asked
    )


def _where(at: folder.Status, report: dict[str, Any]) -> str:
    """What became of the budget; where the saved model lies and how to load it, or how to save one where none was."""
    return budgets(report) + _saved(at, report)


def _saved(at: folder.Status, report: dict[str, Any]) -> str:
    saved = (report.get("protocol") or {}).get("saved")
    if not saved:
        return "The model was not saved: tick Save the pruned model and prune again; the mask and the recipe are in the run's folder."
    place = at.path / folder.MODEL
    size, how = f"{saved['size_bytes'] / 1e6:,.1f} MB, {saved['dtype']}", saved.get("loads_with", "from_pretrained")
    return f"Saved, loaded again and found equal: {place} ({size}). Load it with {how}; its card says how."


def _waiting(at: folder.Status) -> str:
    if at.state == "failed":
        return f"The run failed. {at.problem} {at.remedy}"
    return "The run has not told any figure yet." if not at.ended else f"The run ended without figures ({at.state})."


def layer_rows(report: dict[str, Any]) -> list[list[str]]:
    """The layers' part of a report as rows of a table."""
    return [
        [
            str(layer["name"]),
            f"{100 * layer['asked']:.1f}",
            f"{100 * layer['sparsity']:.1f}",
            "not measured" if layer.get("output_error") is None else f"{layer['output_error']:.3g}",
        ]
        for layer in report.get("layers") or []
    ]
