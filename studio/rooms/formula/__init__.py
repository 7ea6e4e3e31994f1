"""Formula lab: type a criterion, see what it keeps and what it costs, let a genetic search find a better one, prune with it."""

from __future__ import annotations

import html
from typing import Any

import gradio as gr

from core.errors import PrunariumError
from studio.bench import Bench
from studio.charts import formula as charts
from studio.parts import cards, facts
from studio.parts.explaining import drawer
from studio.parts.plotview import PlotlyView, table_twin
from studio.rooms.formula import evolving, formulas

_INTRO = """## Formula lab
Most pruning criteria are a few symbols. Type one of your own: what it scores lowest in each row goes."""
# in words, for Gradio reads stars in a hint as emphasis
_LANGUAGE = (
    "W the weight, X the norm of its input, G of its gradient; numbers; + - /, a star for times, two for a power; "
    "abs sqrt log exp square minmax zscore rank mean"
)
_FIRST = "abs(W) * X"
_TOLD: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}  # queued: only then do signals reach other rooms
_QUIET = {**_TOLD, "queue": False}


def build(bench: Bench) -> None:
    gr.Markdown(_INTRO)
    with gr.Row(elem_classes="split"):
        with gr.Column(scale=5, min_width=300):
            text = gr.Textbox(
                _FIRST,
                label="Score of a weight",
                info=_LANGUAGE,
                elem_id="formula-text",
                lines=1,
                max_lines=1,
                max_length=400,
                autofocus=False,
            )
            meaning = cards.sentence(elem_id="formula-meaning")
            known = gr.Dropdown(
                [(f"{name}: {expression}", expression) for name, expression in formulas.KNOWN.items()], value=None, label="Or begin with a known one",
                elem_id="formula-known",
            )  # fmt: skip
            share = gr.Slider(10, 90, 60, step=5, label="Share to remove (%)", elem_id="formula-share")
            with gr.Row():
                see = gr.Button("See it", variant="primary", elem_id="formula-see", scale=2)
                use = gr.Button("Use in Prune", elem_id="formula-use", scale=2)
            problem = cards.sentence(elem_id="formula-problem")
            note = facts.component("formula-note")
        with gr.Column(scale=7, min_width=300):
            nothing = cards.hint(
                "Press See it: a heat map of what the formula keeps, and the perplexity that it leaves.", elem_id="formula-none"
            )
            with gr.Column(visible=False) as pictures:
                title = facts.component("formula-finding")
                bars = PlotlyView(
                    height=190, alt="A bar for each criterion: the perplexity it leaves at the same share", elem_id="formula-bars"
                )
                bar_table = table_twin("perplexities")
                view = gr.Radio(
                    [(words, name) for name, (words, *_) in charts.VIEWS.items()],
                    value="agreement",
                    label="Heat map of",
                    elem_id="formula-view",
                )
                heat_title = facts.component("formula-heat-finding")
                heat = PlotlyView(
                    height=300,
                    alt="A cell for each layer: block across, module down, what the formula does there",
                    elem_id="formula-heat",
                )
                heat_table = table_twin("layers under the formula")
    seen = gr.State(None)
    _wire_text(bench, text, meaning, known, share, see, use, [problem, note])
    _wire_picture(
        bench, [text, share], see, view, [seen, problem, nothing, pictures, title, bars, bar_table, heat_title, heat, heat_table]
    )
    evolving.build(bench, text, share)
    drawer("formulas", "perplexity", "estimate-and-measured")


def _wire_text(
    bench: Bench,
    text: gr.Textbox,
    meaning: gr.HTML,
    known: gr.Dropdown,
    share: gr.Slider,
    see: gr.Button,
    use: gr.Button,
    about: list[gr.HTML],
) -> None:
    problem, note = about

    def read(expression: str) -> Any:
        said = formulas.read_as(expression)
        return said, *[gr.Button(interactive=not said["wrong"])] * 2, ""

    def adopt(expression: str, percent: float, before: list[Any] | None) -> Any:
        """The formula becomes the criterion of the prune plan."""
        if formulas.read_as(expression)["wrong"]:
            return gr.skip()
        return gr.Tabs(selected="prune"), [(before or [0])[0] + 1, expression.strip(), percent]

    gr.on([text.change, bench.page.load], read, text, [meaning, see, use, problem], trigger_mode="always_last", **_QUIET)
    known.input(lambda chosen: (chosen or gr.skip(), None), known, [text, known], **_QUIET)
    use.click(adopt, [text, share, bench.formula], [bench.tabs, bench.formula], **_TOLD)
    bench.model.change(
        lambda source: facts.said(note=formulas.where(formulas.model_for(bench, source), source)), bench.model, note, **_QUIET
    )


def _wire_picture(bench: Bench, asked: list[Any], see: gr.Button, view: gr.Radio, shown: list[Any]) -> None:
    seen, *outputs = shown

    def look(expression: str, percent: float, view: str, source: str | None) -> Any:
        """The worker's answer, or its sentence with the picture before it left standing."""
        try:
            found = bench.worker.ask(
                "formula",
                timeout_s=180.0,
                source=formulas.model_for(bench, source),
                expression=expression,
                share=round(percent / 100, 4),
            )
        except PrunariumError as error:
            return gr.skip(), {"text": str(error), "wrong": True}, *[gr.skip()] * (len(outputs) - 1)
        if notice := bench.worker.take_notice():
            gr.Info(html.escape(notice))
        told = facts.said(
            charts.finding(found), f"{found['expression']}, worked out in {found['seconds']:.1f} s.", badge="measured"
        )
        return (
            found,
            None,
            "",
            gr.Column(visible=True),
            told,
            charts.bars(found),
            charts.perplexity_table(found),
            *_heat(found, view),
        )

    def redraw(found: dict[str, Any] | None, view: str) -> Any:
        return _heat(found, view)[:2] if found else gr.skip()

    inside: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": 1, "trigger_mode": "once"}
    gr.on([see.click, asked[0].submit], look, [*asked, view, bench.model], shown, **inside)
    view.input(redraw, [seen, view], outputs[-3:-1], **_QUIET)


def _heat(found: dict[str, Any], view: str) -> tuple[Any, ...]:
    return facts.said(charts.heat_finding(found, view), badge="measured"), charts.heat(found, view), charts.table(found)
