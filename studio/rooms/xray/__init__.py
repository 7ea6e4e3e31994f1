"""X-ray: which parts matter, from blocks down to single weights, and which repeat each other. Layout, and what a new model or run redraws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio.bench import Bench, plainly
from studio.charts import xray, xray_states
from studio.known import Observed
from studio.looking import protocol, recipe_for
from studio.parts import facts
from studio.parts.explaining import drawer
from studio.parts.plotview import PlotlyView, picked, table_twin
from studio.rooms.xray import deeds, layer_card
from studio.rooms.xray import dive as xray_dive
from studio.rooms.xray import more as xray_more
from studio.rooms.xray import place as places
from studio.rooms.xray.dive import QUIET
from studio.rooms.xray.place import Place

_INTRO = """## X-ray
Which parts matter, and which repeat each other. Click a bar to go into a block, a cell to go into a layer; the trail above the picture leads back."""
_TOLD: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}  # queued: only then do signals reach other rooms


@dataclass(frozen=True)
class Maps:
    """The two maps of the whole model: all modules, and how alike the states between blocks are."""

    layers_title: gr.HTML
    layers: PlotlyView
    layer_table: gr.Dataframe
    heat_title: gr.HTML
    heat: PlotlyView
    heat_table: gr.Dataframe
    measure: gr.Radio

    def of_layers(self) -> list[Any]:
        return [self.layers_title, self.layers, self.layer_table]

    def of_states(self) -> list[Any]:
        return [self.heat_title, self.heat, self.heat_table]


def build(bench: Bench) -> None:
    gr.Markdown(_INTRO)
    with gr.Row(elem_id="xray-bar", equal_height=False):
        metric = gr.Radio([], label="Importance by", elem_id="xray-metric", scale=4)
        again = gr.Button("X-ray this model", elem_id="xray-run", scale=0, min_width=190, size="md")
    note = facts.component("xray-note")
    with gr.Column() as pictures:
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                dive = xray_dive.build()
            with gr.Column(scale=2, min_width=320):
                beside = layer_card.build()
        maps = _maps()
        more = xray_more.build()
    drawer(
        "block-influence", "cosine-similarity", "angular-distance", "cka", "rank-correlation", "effective-rank", "super-weights"
    )
    parts = [metric, again, note, pictures, *dive.all(), *maps.of_layers(), *maps.of_states(), maps.measure, beside.layer]
    parts += [more.question, more.against, more.block, more.structure, more.threshold, *more.outputs()]
    _wire(bench, metric, again, parts)
    _wire_maps(bench, metric, maps, dive)
    moves = xray_dive.wire(bench, dive, metric, beside.layer)
    moves.append(_wire_cells(bench, metric, maps, dive, beside.layer))
    layer_card.wire(bench, beside, metric, dive.score, moves)
    xray_more.wire(bench, more, metric, beside.layer, moves)
    deeds.wire(bench, more)


def _maps() -> Maps:
    with gr.Row():
        with gr.Column(scale=3, min_width=320):
            layers_title = facts.component("xray-layers-finding")
            alt = "A cell for each layer: block across, module down, its mean score as colour"
            layers = PlotlyView(height=330, alt=alt, elem_id="xray-layers")
            layer_table = table_twin("importance of the layers")
        with gr.Column(scale=2, min_width=320):
            heat_title = facts.component("xray-similarity-finding")
            heat = PlotlyView(height=330, alt="How alike the hidden states after every two blocks are", elem_id="xray-similarity")
            measure = gr.Radio([], show_label=False, label="States compared by", elem_id="xray-measure")
            heat_table = table_twin("block similarity")
    return Maps(layers_title, layers, layer_table, heat_title, heat, heat_table, measure)


def _wire(bench: Bench, metric: gr.Radio, again: gr.Button, parts: list[Any]) -> None:
    def draw(source: str | None) -> Any:
        """Everything, for the model that is open now."""
        seen = bench.observed(source)
        if seen is None:
            told = facts.said(
                "Not looked at yet",
                "X-ray this model: one pass over calibration text measures it; the pictures appear when it is done.",
            )
            button = gr.Button("X-ray this model", variant="primary")
            return (gr.Radio([], value=None), button, told, gr.Column(visible=False), *[gr.skip()] * (len(parts) - 4))
        choices, names = xray.metrics(seen.data), [row["name"] for row in seen.data["layers"]]
        first = choices[0] if choices else ""
        ways = [(xray_states.MEASURES.get(name, name), name) for name in xray_states.measures(seen.data)]
        return (
            gr.Radio([(xray.label(name), name) for name in choices], value=first or None),
            gr.Button("X-ray again", variant="secondary"),
            facts.said(note=f"{protocol(seen)} {xray.thinned(seen.data)}".strip()),
            gr.Column(visible=True),
            *xray_dive.drawn(bench, source or "", seen, Place(), first),
            *_of_layers(seen, first),
            *_of_states(seen, "cosine"),
            gr.Radio(ways, value=ways[0][1] if ways else None, visible=len(ways) > 1),
            gr.Dropdown(names, value=names[-1] if names else None),
            *xray_more.first(bench, source or "", seen, first),
        )

    def ended(run: str | None, source: str | None) -> Any:
        seen = bench.observed(source) if run else None
        return draw(source) if seen and seen.run == run else gr.skip()

    @plainly
    def start(source: str | None) -> Any:
        return bench.start(recipe_for(bench, source or "", curves=False))

    bench.model.change(draw, bench.model, parts, **QUIET)
    bench.ended.change(ended, [bench.ended, bench.model], parts, **QUIET)
    again.click(start, bench.model, bench.run, **_TOLD)


def _wire_maps(bench: Bench, metric: gr.Radio, maps: Maps, dive: xray_dive.Dive) -> None:
    def redraw(source: str | None, name: str | None, held: Any, how: str) -> Any:
        seen = bench.observed(source) if name else None
        if seen is None:
            return gr.skip()
        place = places.read({**places.plain(places.read(held)), "metric": ""})
        return *xray_dive.drawn(bench, source or "", seen, place, name or "", how), *_of_layers(seen, name or "")

    def compare(source: str | None, measure: str | None) -> Any:
        seen = bench.observed(source) if measure else None
        return _of_states(seen, measure or "cosine") if seen else gr.skip()

    metric.input(redraw, [bench.model, metric, dive.place, dive.how], [*dive.all(), *maps.of_layers()], **QUIET)
    maps.measure.input(compare, [bench.model, maps.measure], maps.of_states(), **QUIET)


def _wire_cells(bench: Bench, metric: gr.Radio, maps: Maps, dive: xray_dive.Dive, layer: gr.Dropdown) -> Any:
    def of_cell(source: str | None, name: str | None, how: str, event: gr.EventData) -> Any:
        seen, told = bench.observed(source), picked(event)
        column, row = _cell(seen, told.x, told.y) if seen else (-1, -1)
        chosen = xray.layer_at(seen.data, column, row) if seen else None
        if not chosen:
            return gr.skip()
        return *xray_dive.drawn(bench, source or "", seen, places.of_layer(seen.data, chosen), name or "", how), chosen

    return maps.layers.select(of_cell, [bench.model, metric, dive.how], [*dive.all(), layer], **xray_dive.DEEP)


def _of_layers(seen: Observed, metric: str) -> tuple[Any, ...]:
    data = seen.data
    by = xray.of_layers(data, metric)
    return (
        facts.said(xray.layer_finding(data, by), badge=seen.badge),
        xray.layer_map(data, by),
        xray.layer_table(data),
    )


def _of_states(seen: Observed, measure: str) -> tuple[Any, ...]:
    data = seen.data
    title = facts.said(xray_states.similarity_finding(data, measure), badge=seen.badge)
    return title, xray_states.similarity(data, measure), xray_states.similarity_table(data, measure)


def _cell(seen: Observed, x: Any, y: Any) -> tuple[int, int]:
    """Column and row of a clicked cell from the words on its axes."""
    blocks = [str(block["index"]) for block in seen.data["blocks"]]
    rows = xray.modules(seen.data)
    return (blocks.index(str(x)) if str(x) in blocks else -1, rows.index(str(y)) if str(y) in rows else -1)
