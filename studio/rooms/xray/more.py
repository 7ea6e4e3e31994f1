"""The lower half of the X-ray room: one question at a time, with two pictures, and the two deeds (prune a run, leave a weight out)."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio.bench import Bench
from studio.charts import xray, xray_deep, xray_repeat
from studio.known import Observed
from studio.parts import cards, facts
from studio.parts.plotview import PlotlyView, numbered, table_twin
from studio.rooms.xray import looks
from studio.rooms.xray.dive import DEEP, QUIET
from studio.rooms.xray.looks import QUESTIONS, Asked, Look
from studio.rooms.xray.place import STRUCTURES

OF_A_LAYER = ("masks", "spectrum")  # questions about the layer that is chosen above
NO_RUN: dict[str, Any] = {"run": None, "rev": 0}


@dataclass(frozen=True)
class More:
    question: gr.Radio
    against: gr.Dropdown
    block: gr.Dropdown
    structure: gr.Radio
    threshold: gr.Slider
    spike: gr.Dropdown
    run: gr.State  # {"run": [first, how many] or None, "rev": the drawing it was chosen in}
    runs: gr.Dropdown  # the same by keyboard
    deed: gr.Button
    titles: tuple[gr.HTML, gr.HTML]
    views: tuple[PlotlyView, PlotlyView]
    tables: tuple[gr.Dataframe, gr.Dataframe]
    beside: gr.Column
    texts: gr.HTML
    told: gr.HTML

    def inputs(self) -> list[Any]:
        return [self.question, self.against, self.block, self.structure, self.threshold, self.run]

    def outputs(self) -> list[Any]:
        """The order in which `shown` gives their values."""
        return [
            *self.titles,
            *self.views,
            *self.tables,
            self.beside,
            self.run,
            self.runs,
            self.deed,
            self.spike,
            self.told,
            self.texts,
        ]


def build() -> More:
    gr.Markdown("### A closer look")
    question = gr.Radio(
        [(text, name) for name, text in QUESTIONS.items()],
        value="agree",
        show_label=False,
        label="Question",
        elem_id="xray-question",
    )
    with gr.Row(elem_id="xray-controls"):
        against = gr.Dropdown([], label="Compare with", elem_id="xray-against", min_width=160)
        block = gr.Dropdown([], label="Block", elem_id="xray-block", min_width=120, visible=False)
        structure = gr.Radio(
            [(text, name) for name, text in STRUCTURES.items()],
            value="neurons",
            label="Units",
            elem_id="xray-units",
            visible=False,
        )
        threshold = gr.Slider(
            0.3,
            0.99,
            0.9,
            step=0.01,
            label="Near copies from a cosine of",
            elem_id="xray-threshold",
            visible=False,
            min_width=200,
        )
        spike = gr.Dropdown([], label="Weight", elem_id="xray-spike", min_width=260, visible=False)
        runs = gr.Dropdown([], label="Run of blocks", elem_id="xray-run", min_width=220, visible=False)
        deed = gr.Button("Prune", elem_id="xray-deed", scale=0, min_width=230, visible=False)
    run = gr.State(NO_RUN)
    with gr.Row():
        with gr.Column(scale=1, min_width=320):
            first = facts.component("xray-look-finding")
            view = PlotlyView(
                height=340, alt="The answer to the question, drawn; the table under it says the same", elem_id="xray-look"
            )
            table = table_twin("the answer")
        with gr.Column(scale=1, min_width=320) as beside:
            second = facts.component("xray-look2-finding")
            view2 = PlotlyView(
                height=340, alt="The second picture of the answer; the table under it says the same", elem_id="xray-look2"
            )
            table2 = table_twin("the second picture")
    told = facts.component("xray-ablated")
    texts = cards.text_cards(elem_id="xray-texts")
    return More(
        question, against, block, structure, threshold, spike, run, runs, deed, (first, second), (view, view2), (table, table2), beside, texts, told
    )  # fmt: skip


def shown(asked: Asked, found: Look) -> tuple[Any, ...]:
    """Values for `More.outputs()`."""
    titles, views, tables = [], [], []
    for (title, figure, table), note, at in ((found.first, found.note, 0), (found.second, found.second_note, 1)):
        titles.append(
            facts.said(title, badge=found.badge if title and (figure is not None or at == 0) else "", note=note)
            if title
            else None
        )
        hidden = figure is None
        views.append(gr.update(value=numbered(figure), visible=not hidden))
        tables.append(table)
    run = asked.run if asked.question == "runs" else None
    deed = gr.Button(visible=False)
    if asked.question == "runs" and found.first[1] is not None:
        run = run or (0, 1)
        deed = gr.Button(f"Prune {xray_repeat.run_words(run)} (a run)", visible=True)
    elif asked.question == "spikes":
        deed = gr.Button("Ablate this one", visible=bool(found.spikes))
    spikes = (
        gr.Dropdown(list(found.spikes), value=found.spikes[0][1], visible=True) if found.spikes else gr.Dropdown(visible=False)
    )
    runs = (
        gr.Dropdown(list(found.runs), value=f"{run[0]} {run[1]}", visible=True)
        if found.runs and run
        else gr.Dropdown(visible=False)
    )
    held = {"run": list(run) if run else None, "rev": views[0]["value"]["rev"]}
    return (*titles, *views, *tables, gr.Column(visible=found.second[1] is not None), held, runs, deed, spikes, None, None)


def _asked(source: str, bench: Bench, seen: Observed, metric: str | None, layer: str | None, values: tuple[Any, ...]) -> Asked:
    question, against, block, structure, threshold, held = values
    names = [row["name"] for row in seen.data["blocks"]]
    run = (held or NO_RUN)["run"]
    fits = bool(run) and run[0] + run[1] <= len(names) and run[1] < len(names)
    chosen = (run[0], run[1]) if fits else xray_repeat.best_run(seen.data, 1)
    here = block if block in names else (names[0] if names else "")
    return Asked(
        question or "agree",
        metric or "",
        against or "",
        here,
        structure or "neurons",
        float(threshold or 0.9),
        layer or "",
        chosen,
    )


def _other(seen: Observed, metric: str, against: str) -> tuple[list[tuple[str, str]], str]:
    """The scores that `metric` can be compared with, and which of them is: the one that was, else the first."""
    there = dict.fromkeys([*xray.metrics(seen.data), *xray.metrics(seen.data, "layers")])
    others = [(xray.label(name), name) for name in there if name != metric]
    return others, against if against in there and against != metric else (others[0][1] if others else "")


def controls(seen: Observed, question: str, metric: str, against: str = "") -> tuple[Any, ...]:
    """against, block, structure, threshold: shown where the question needs them, with this model's choices."""
    data = seen.data
    others, against = _other(seen, metric, against)
    names = [(xray_deep.words(row["name"]).capitalize(), row["name"]) for row in data["blocks"]]
    blocks = question in ("duplicates", "experts")
    return (
        gr.Dropdown(choices=others, value=against or None, visible=question == "agree"),
        gr.Dropdown(choices=names, visible=blocks, **({} if blocks else {"value": names[0][1] if names else None})),
        gr.Radio(visible=question == "duplicates"),
        gr.Slider(visible=question == "duplicates"),
    )  # fmt: skip


def wire(bench: Bench, more: More, metric: gr.Radio, layer: gr.Dropdown, moves: list[Any]) -> None:
    """moves: events that may have changed the layer."""

    def answer(source: str | None, name: str | None, at: str | None, *values: Any) -> Any:
        seen = bench.observed(source)
        if seen is None:
            return gr.skip()
        asked = _asked(source or "", bench, seen, name, at, values)
        found = looks.look(bench, source or "", seen, asked)
        if notice := bench.worker.take_notice():
            gr.Info(html.escape(notice))
        return shown(asked, found)

    def of_layer(source: str | None, name: str | None, at: str | None, *values: Any) -> Any:
        return answer(source, name, at, *values) if values[0] in OF_A_LAYER else gr.skip()

    def of_metric(source: str | None, name: str | None, at: str | None, *values: Any) -> Any:
        """The room's score is one side of the comparison."""
        seen = bench.observed(source)
        if seen is None or values[0] != "agree":
            return gr.skip()
        against = _other(seen, name or "", values[1] or "")[1]
        return controls(seen, "agree", name or "", against)[0], *answer(source, name, at, "agree", against, *values[2:])

    def fit(source: str | None, question: str, name: str | None) -> Any:
        seen = bench.observed(source)
        return controls(seen, question, name or "") if seen else gr.skip()

    told = [bench.model, metric, layer, *more.inputs()]
    fitted = [more.against, more.block, more.structure, more.threshold]
    more.question.input(fit, [bench.model, more.question, metric], fitted, **QUIET).then(answer, told, more.outputs(), **DEEP)
    for control in (more.against, more.block, more.structure):
        control.input(answer, told, more.outputs(), **DEEP)
    metric.input(of_metric, told, [more.against, *more.outputs()], **QUIET)
    for move in moves:
        move.then(of_layer, told, more.outputs(), **DEEP)
    more.threshold.release(answer, told, more.outputs(), **DEEP)


def first(bench: Bench, source: str, seen: Observed, metric: str) -> tuple[Any, ...]:
    """Values for question, the four controls and `More.outputs()` when a model is opened: the question that needs no worker."""
    asked = Asked("agree", metric, "", "", "neurons", 0.9, "")
    return ("agree", *controls(seen, "agree", metric), *shown(asked, looks.look(bench, source, seen, asked)))
