"""X-ray: which blocks and layers matter, and which repeat each other."""

from __future__ import annotations

import threading
from typing import Any

import gradio as gr

from core.errors import PrunariumError
from studio import facts, known
from studio.bench import Bench, plainly
from studio.charts import xray
from studio.explaining import drawer
from studio.known import Observed
from studio.looking import card, protocol, recipe_for, share_of
from studio.plotview import PlotlyView, picked, table_twin

_INTRO = """## X-ray
Which blocks matter, and which repeat each other. Click a bar or a cell to look into a layer."""
_TOLD: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}  # queued: only then do signals reach other rooms
_QUIET = {**_TOLD, "queue": False}


def build(bench: Bench) -> None:
    gr.Markdown(_INTRO)
    with gr.Row(elem_id="xray-bar", equal_height=False):
        metric = gr.Radio([], label="Importance by", elem_id="xray-metric", scale=4)
        again = gr.Button("X-ray this model", elem_id="xray-run", scale=0, min_width=190, size="md")
    note = facts.component("xray-note")
    with gr.Column() as pictures:
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                bar_title = facts.component("xray-importance-finding")
                bars = PlotlyView(
                    height=330, alt="A bar for each block: its importance by the chosen measure", elem_id="xray-importance"
                )
                bar_table = table_twin("importance of the blocks")
            with gr.Column(scale=2, min_width=320):
                heat_title = facts.component("xray-similarity-finding")
                heat = PlotlyView(
                    height=330, alt="How alike the hidden states after every two blocks are", elem_id="xray-similarity"
                )
                heat_table = table_twin("block similarity")
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                map_title = facts.component("xray-layers-finding")
                layers = PlotlyView(
                    height=330,
                    alt="A cell for each layer: block across, module down, its mean score as colour",
                    elem_id="xray-layers",
                )
                layer_table = table_twin("importance of the layers")
            with gr.Column(scale=2, min_width=320):
                layer = gr.Dropdown([], label="Layer", elem_id="xray-layer", info="Or click a bar or a cell")
                about = facts.component("xray-card")
                weights = PlotlyView(height=220, alt="The layer's weights by value", elem_id="xray-weights", visible=False)
    drawer("block-influence", "cosine-similarity")
    maps = [bar_title, bars, bar_table, heat_title, heat, heat_table, map_title, layers, layer_table, pictures]
    _wire(bench, metric, again, note, maps, layer)
    _wire_layer(bench, metric, bars, layers, layer, about, weights)


def _wire(bench: Bench, metric: gr.Radio, again: gr.Button, note: gr.HTML, maps: list[Any], layer: gr.Dropdown) -> None:
    def draw(source: str | None) -> Any:
        """Everything, for the model that is open now."""
        seen = known.observations(source, bench.runs) if source else None
        if seen is None:
            told = facts.said(
                "Not looked at yet",
                "X-ray this model: one pass over calibration text measures it; the pictures appear when it is done.",
            )
            return (
                gr.Radio([], value=None),
                gr.Button("X-ray this model", variant="primary"),
                told,
                *[gr.skip()] * (len(maps) - 1),
                gr.Column(visible=False),
                gr.Dropdown([], value=None),
            )
        names = [row["name"] for row in seen.data["layers"]]
        choices = xray.metrics(seen.data)
        radio = gr.Radio([(xray.label(name), name) for name in choices], value=choices[0] if choices else None)
        first = choices[0] if choices else ""
        again = gr.Button("X-ray again", variant="secondary")
        return (
            radio,
            again,
            facts.said(note=protocol(seen)),
            *_maps(seen, first),
            gr.Dropdown(names, value=names[-1] if names else None),
        )

    def redraw(source: str | None, name: str | None) -> Any:
        seen = known.observations(source, bench.runs) if source and name else None
        return _maps(seen, name or "") if seen else gr.skip()

    def ended(run: str | None, source: str | None) -> Any:
        seen = known.observations(source, bench.runs) if source and run else None
        return draw(source) if seen and seen.run == run else gr.skip()

    @plainly
    def start(source: str | None) -> Any:
        return bench.start(recipe_for(bench, source or "", curves=False))

    everything = [metric, again, note, *maps, layer]
    bench.model.change(draw, bench.model, everything, **_QUIET)
    bench.ended.change(ended, [bench.ended, bench.model], everything, **_QUIET)
    metric.input(redraw, [bench.model, metric], maps, **_QUIET)
    again.click(start, bench.model, bench.run, **_TOLD)


def _wire_layer(
    bench: Bench, metric: gr.Radio, bars: PlotlyView, layers: PlotlyView, layer: gr.Dropdown, about: gr.HTML, weights: PlotlyView
) -> None:
    def of_bar(source: str | None, event: gr.EventData) -> Any:
        """A click on a block's bar: the largest layer of that block."""
        seen = known.observations(source or "", bench.runs)
        at = picked(event).index
        if seen is None or not 0 <= at < len(seen.data["blocks"]):
            return gr.skip()
        mine = [row for row in seen.data["layers"] if row["block"] == seen.data["blocks"][at]["name"]]
        return max(mine, key=lambda row: row["parameters"])["name"] if mine else gr.skip()

    def of_cell(source: str | None, event: gr.EventData) -> Any:
        seen = known.observations(source or "", bench.runs)
        told = picked(event)
        column, row = _cell(seen, told.x, told.y) if seen else (-1, -1)
        return (xray.layer_at(seen.data, column, row) if seen else None) or gr.skip()

    def describe(source: str | None, name: str | None) -> Any:
        seen = known.observations(source or "", bench.runs)
        return card(bench, seen, name) if seen and name else None

    @plainly
    def look_inside(source: str | None, name: str | None) -> Any:
        """The weights themselves, which only the worker has."""
        if not source or not name:
            return gr.skip()
        share = share_of(bench, name)
        found = bench.worker.about(source, "layer", timeout_s=120.0, name=name, share=share or None)
        if notice := bench.worker.take_notice():
            gr.Info(notice)
        return gr.update(value=xray.histogram(found), visible=True)

    def warm(source: str | None, event: gr.SelectData) -> None:
        """Somebody came to look: the worker's slow imports happen while they read."""
        if source and event.value == "X-ray":
            threading.Thread(target=_warm, args=(bench, source), daemon=True).start()

    bench.tabs.select(warm, bench.model, None, **_QUIET)
    inside: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": 1, "trigger_mode": "always_last"}
    bars.select(of_bar, bench.model, layer, **_QUIET).then(look_inside, [bench.model, layer], weights, **inside)
    layers.select(of_cell, bench.model, layer, **_QUIET).then(look_inside, [bench.model, layer], weights, **inside)
    layer.input(look_inside, [bench.model, layer], weights, **inside)
    gr.on([layer.change, bench.budget.change], describe, [bench.model, layer], about, **_QUIET)
    bench.model.change(lambda: gr.update(visible=False), None, weights, **_QUIET)


def _warm(bench: Bench, source: str) -> None:
    try:
        bench.worker.about(source, "catalogue", timeout_s=120.0)
    except PrunariumError:
        return  # whoever asks a real question is told


def _maps(seen: Observed, metric: str) -> tuple[Any, ...]:
    data, badge = seen.data, seen.badge
    of_layers = metric if metric in xray.metrics(data, "layers") else next(reversed(xray.metrics(data, "layers")), "")
    return (
        facts.said(xray.importance_finding(data, metric), badge=badge),
        xray.importance(data, metric),
        xray.block_table(data),
        facts.said(xray.similarity_finding(data), badge=badge),
        xray.similarity(data),
        xray.similarity_table(data),
        facts.said(xray.layer_finding(data, of_layers), badge=badge),
        xray.layer_map(data, of_layers),
        xray.layer_table(data),
        gr.Column(visible=True),
    )


def _cell(seen: Observed, x: Any, y: Any) -> tuple[int, int]:
    """Column and row of a clicked cell from the words on its axes."""
    blocks = [str(block["index"]) for block in seen.data["blocks"]]
    rows = xray.modules(seen.data)
    return (blocks.index(str(x)) if str(x) in blocks else -1, rows.index(str(y)) if str(y) in rows else -1)
