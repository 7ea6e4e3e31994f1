"""Geometry: a data set in every block of the open model, by itself or before and after pruning. Layout, and what a new model or run redraws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio import damage
from studio.bench import Bench, plainly
from studio.charts import geometry as charts
from studio.charts import likeness
from studio.parts import cards, facts
from studio.parts.explaining import drawer
from studio.parts.plotview import PlotlyView, table_twin
from studio.rooms.geometry import asking, hurt, moves
from studio.rooms.geometry.asking import Seen

_INTRO = """## Geometry
How the model lays out a data set, block by block: how many directions it uses, how classes gather, and which rows pruning moves."""
_NONE = "Not looked at yet. One pass reads the rows in all blocks at once; the pictures appear when the run is done."
_DATA = ("builtin:trec/train", "builtin:rotten-tomatoes", "builtin:disaster-tweets", "builtin:mnist5k/heldout", "builtin:digits")
_TOLD: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}  # queued: only then do signals reach other rooms
_QUIET = {**_TOLD, "queue": False}


@dataclass(frozen=True)
class Asked:
    """What a look is made of."""

    data: gr.Dropdown
    against: gr.Dropdown
    pool: gr.Radio
    rows: gr.Slider
    neighbours: gr.Slider
    go: gr.Button


@dataclass(frozen=True)
class Curves:
    """The two pictures that need no row: a measure from block to block, and how alike the blocks are."""

    measure: gr.Dropdown
    title: gr.HTML
    lines: PlotlyView
    table: gr.Dataframe
    heat_title: gr.HTML
    heat: PlotlyView
    between: gr.Radio
    heat_table: gr.Dataframe

    def of_lines(self) -> list[Any]:
        return [self.title, self.lines, self.table]

    def of_heat(self) -> list[Any]:
        return [self.heat_title, self.heat, self.heat_table]


def build(bench: Bench) -> None:
    gr.Markdown(_INTRO)
    asked = _asked()
    nothing = cards.hint(_NONE, elem_id="geometry-none")
    note = facts.component("geometry-note")
    with gr.Column(visible=False) as pictures:
        curves = _curves()
        shift = moves.build()
    pays = hurt.build()
    drawer("intrinsic-dimension", "effective-rank", "anisotropy", "hubness", "neural-collapse", "cka", "drift")
    _wire(bench, asked, [nothing, note, pictures], curves, shift, pays)
    moves.wire(bench, shift, asked.data)
    hurt.wire(bench, pays, asked.data)


def _asked() -> Asked:
    with gr.Row(equal_height=False):
        data = gr.Dropdown(list(_DATA), value=None, label="Rows", info="A built-in set, a file, or a hub id", allow_custom_value=True,
                           elem_id="geometry-data", scale=3, min_width=260)  # fmt: skip
        against = gr.Dropdown([("Nothing: from block to block", "")], value="", label="Set it against", info="Pruned by a finished run, or as the budget says",
                              elem_id="geometry-against", scale=3, min_width=260)  # fmt: skip
        go = gr.Button("Look at the geometry", variant="primary", elem_id="geometry-go", scale=0, min_width=215, size="md")
    with gr.Accordion("How it is read", open=False), gr.Row():
        pool = gr.Radio(
            [("Mean over tokens", "mean"), ("Last token", "last")], value="mean", label="A text is", elem_id="geometry-pool"
        )
        rows = gr.Slider(100, 5000, 800, step=100, label="Rows read at most", elem_id="geometry-rows")
        neighbours = gr.Slider(5, 50, 10, step=5, label="Neighbours of a row", elem_id="geometry-neighbours")
    return Asked(data, against, pool, rows, neighbours, go)


def _curves() -> Curves:
    with gr.Row():
        with gr.Column(scale=3, min_width=320):
            measure = gr.Dropdown([], label="Measure", elem_id="geometry-measure", filterable=False)
            title = facts.component("geometry-finding")
            lines = PlotlyView(
                height=340, alt="A measure from block to block, its level of chance dotted", elem_id="geometry-curves"
            )
            table = table_twin("the measure by block")
        with gr.Column(scale=2, min_width=320):
            between = gr.Radio([], label="Blocks compared", elem_id="geometry-between")
            heat_title = facts.component("geometry-cka-finding")
            heat = PlotlyView(height=340, alt="How alike the rows lie after every two blocks", elem_id="geometry-cka")
            heat_table = table_twin("likeness of blocks")
    return Curves(measure, title, lines, table, heat_title, heat, between, heat_table)


def _wire(bench: Bench, asked: Asked, around: list[Any], curves: Curves, shift: moves.Moves, pays: hurt.Hurt) -> None:
    nothing, note, pictures = around
    parts = [
        nothing,
        note,
        pictures,
        asked.go,
        curves.measure,
        *curves.of_lines(),
        curves.between,
        *curves.of_heat(),
        *shift.outputs(),
    ]
    whole = [*parts, *pays.outputs()]

    def draw(source: str | None, data: str | None) -> Any:
        seen = asking.newest(bench, source, data or "")
        if seen is None:
            button = gr.Button("Look at the geometry", variant="primary")
            return _NONE, None, gr.Column(visible=False), button, *[gr.skip()] * (len(parts) - 4)
        choices = charts.shown(seen.found)
        two = len(seen.found["sides"]) > 1
        first = "kept" if two else choices[0][1]
        ways = [("Of this model", "own"), *([("One model with the other", "both")] if two else [])]
        return (
            "", facts.said(note=_protocol(seen)), gr.Column(visible=True), gr.Button("Look again", variant="secondary"),
            gr.Dropdown(choices, value=first), *_lines(seen, first), gr.Radio(ways, value=ways[-1][1], visible=two), *_heat(seen, ways[-1][1]),
            *moves.drawn(seen),
        )  # fmt: skip

    def both(source: str | None, data: str | None) -> Any:
        return *draw(source, data), *hurt.drawn(bench, source, data)

    def opened(source: str | None) -> Any:
        data = asking.usual_data(bench, source)
        return data, gr.Dropdown(asking.sides(bench, source), value=asking.ALONE), *both(source, data)

    def ended(run: str | None, source: str | None, data: str | None, against: str | None) -> Any:
        choices = asking.sides(bench, source)
        kept = against if against in [value for _, value in choices] else asking.ALONE
        drawn = draw(source, data) if asking.looks(bench, run) else [gr.skip()] * len(parts)
        paid = hurt.drawn(bench, source, data) if damage.measures(bench.runs, run) else [gr.skip()] * len(pays.outputs())
        return gr.Dropdown(choices, value=kept), *drawn, *paid

    @plainly
    def start(source: str | None, data: str, against: str, pool: str, rows: float, neighbours: float) -> Any:
        return bench.start(
            asking.recipe_for(bench, source or "", data, pool, int(rows), int(neighbours), against or asking.ALONE)
        )

    def sides(source: str | None, against: str | None) -> Any:
        choices = asking.sides(bench, source)
        return gr.Dropdown(choices, value=against if against in [value for _, value in choices] else asking.ALONE)

    gr.on([bench.model.change, bench.data.change], opened, bench.model, [asked.data, asked.against, *whole], **_QUIET)
    bench.ended.change(ended, [bench.ended, bench.model, asked.data, asked.against], [asked.against, *whole], **_QUIET)
    bench.budget.change(sides, [bench.model, asked.against], asked.against, **_QUIET)
    asked.data.input(both, [bench.model, asked.data], whole, **_QUIET)
    asked.go.click(start, [bench.model, asked.data, asked.against, asked.pool, asked.rows, asked.neighbours], bench.run, **_TOLD)
    _wire_looks(bench, asked, curves)


def _wire_looks(bench: Bench, asked: Asked, curves: Curves) -> None:
    def measured(source: str | None, data: str | None, measure: str | None) -> Any:
        seen = asking.newest(bench, source, data or "") if measure else None
        return _lines(seen, measure or "") if seen else gr.skip()

    def compared(source: str | None, data: str | None, between: str | None) -> Any:
        seen = asking.newest(bench, source, data or "") if between else None
        return _heat(seen, between or "") if seen else gr.skip()

    curves.measure.input(measured, [bench.model, asked.data, curves.measure], curves.of_lines(), **_QUIET)
    curves.between.input(compared, [bench.model, asked.data, curves.between], curves.of_heat(), **_QUIET)


def _lines(seen: Seen, measure: str) -> tuple[Any, ...]:
    title = facts.said(charts.curve_finding(seen.found, measure), badge="measured")
    return title, charts.curves(seen.found, measure), charts.curve_table(seen.found, measure)


def _heat(seen: Seen, between: str) -> tuple[Any, ...]:
    both = between == "both"
    title = facts.said(likeness.cka_finding(seen.found, both), badge="measured")
    return title, likeness.cka_map(seen.found, both), likeness.cka_table(seen.found, both)


def _protocol(seen: Seen) -> str:
    """Where the pictures come from, and what was left out, in sentences."""
    found = seen.found
    pool = {"mean": "mean over tokens", "last": "last token", "places": "mean over places"}.get(found["pool"], found["pool"])
    lost = found["data"]["rows"] - min(min(side["distinct"]) for side in found["sides"])
    doubles = f" {lost} exact duplicates were left out of dimensions and hubs." if lost else ""
    return (
        f"Run {seen.run}: {found['data']['rows']:,} rows of {found['data']['name']}, {pool}. {' '.join(found['notes'])}{doubles}"
    )
