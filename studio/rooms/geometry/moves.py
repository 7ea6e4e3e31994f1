"""The lower half of the Geometry room: where the rows go, whose neighbourhoods change most, and those rows taken to the Data room."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from core.errors import PrunariumError
from studio.bench import Bench, plainly
from studio.charts import drift as charts
from studio.charts.geometry import words
from studio.parts import facts
from studio.parts.plotview import PlotlyView, picked, table_twin
from studio.rooms.data import samples
from studio.rooms.geometry import asking
from studio.rooms.geometry.asking import Seen

_SHOWN = 12
_SHARE = 5
_TOLD: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
_QUIET = {**_TOLD, "queue": False}


@dataclass(frozen=True)
class Moves:
    layer: gr.Dropdown
    share: gr.Slider
    title: gr.HTML
    map: PlotlyView
    table: gr.Dataframe
    show: gr.Button
    take: gr.Button
    samples: gr.HTML

    def of_map(self) -> list[Any]:
        return [self.title, self.map, self.table]

    def outputs(self) -> list[Any]:
        return [self.layer, *self.of_map(), self.samples]


def build() -> Moves:
    with gr.Row():
        with gr.Column(scale=3, min_width=320):
            title = facts.component("geometry-drift-finding")
            drawn = PlotlyView(
                height=430,
                alt="Each row where it ends, coloured by the neighbours it keeps; arrows for the most changed",
                elem_id="geometry-drift",
            )
            table = table_twin("the most changed rows")
        with gr.Column(scale=2, min_width=320):
            layer = gr.Dropdown([], label="After", elem_id="geometry-layer", filterable=False)
            share = gr.Slider(1, 20, _SHARE, step=1, label="Suggest the most changed (% of the rows)", elem_id="geometry-share")
            with gr.Row():
                show = gr.Button("Show these rows", elem_id="geometry-show", size="md", min_width=140)
                take = gr.Button("Take them to the Data room", elem_id="geometry-take", size="md", min_width=250)
            cards = samples.component("geometry-samples")
    return Moves(layer, share, title, drawn, table, show, take, cards)


def drawn(seen: Seen) -> tuple[Any, ...]:
    """Values for `outputs`: the last place in the model first, for there the model speaks."""
    places = charts.layers(seen.frame())
    layer = gr.Dropdown([(words(name).capitalize(), name) for name in places], value=places[-1])
    return layer, *_map(seen, places[-1], _SHARE), None


def _map(seen: Seen, layer: str, percent: float) -> tuple[Any, ...]:
    frame, share = seen.frame(), percent / 100
    title = facts.said(
        charts.drift_finding(seen.found, frame, layer, share), charts.drift_note(seen.found, layer), badge="measured"
    )
    return title, charts.drift_map(frame, layer, share), charts.drift_table(frame, layer)


def wire(bench: Bench, moves: Moves, data: gr.Dropdown) -> None:
    def moved(source: str | None, rows: str | None, layer: str | None, percent: float) -> Any:
        seen = asking.newest(bench, source, rows or "") if layer else None
        return (*_map(seen, layer or "", percent), None) if seen and layer in charts.layers(seen.frame()) else gr.skip()

    @plainly
    def show(source: str | None, rows: str | None, layer: str | None, percent: float) -> Any:
        seen, chosen = _chosen(bench, source, rows, layer, percent)
        return _cards(bench, seen, layer or "", chosen[:_SHOWN], f"The {len(chosen):,} most changed after {words(layer or '')}")

    @plainly
    def clicked(source: str | None, rows: str | None, layer: str | None, event: gr.EventData) -> Any:
        seen, at = asking.newest(bench, source, rows or ""), picked(event)
        if seen is None or not layer or at.curve:
            return gr.skip()
        return _cards(bench, seen, layer, [int(at.custom)], f"Row {int(at.custom)} after {words(layer)}")

    @plainly
    def take(source: str | None, rows: str | None, layer: str | None, percent: float, before: int | None) -> Any:
        seen, chosen = _chosen(bench, source, rows, layer, percent)
        why = f"Neighbourhoods that change most after {words(layer or '')}, run {seen.run}"
        bench.workspace.change(picked={"source": seen.found["data"]["source"], "rows": chosen, "why": why})
        return gr.Tabs(selected="data"), (before or 0) + 1

    asked = [bench.model, data, moves.layer, moves.share]
    gr.on(
        [moves.layer.input, moves.share.release],
        moved,
        asked,
        [*moves.of_map(), moves.samples],
        trigger_mode="always_last",
        **_QUIET,
    )
    moves.show.click(show, asked, moves.samples, **_TOLD)
    moves.map.select(clicked, asked[:3], moves.samples, **_TOLD)
    moves.take.click(take, [*asked, bench.picked], [bench.tabs, bench.picked], **_TOLD)


def _chosen(bench: Bench, source: str | None, rows: str | None, layer: str | None, percent: float) -> tuple[Seen, list[int]]:
    """The look that is shown and the rows it suggests. Raises PrunariumError where there is none."""
    seen = asking.newest(bench, source, rows or "")
    if seen is None or not layer:
        raise PrunariumError("There is no look at these rows.", "Press Look at the geometry.")
    return seen, charts.most_changed(seen.frame(), layer, percent / 100)


def _cards(bench: Bench, seen: Seen, layer: str, chosen: list[int], title: str) -> dict[str, Any]:
    mine = charts.of_layer(seen.frame(), layer).set_index("row")["shared"]
    notes = {row: f"keeps {100 * float(mine.loc[row]):.0f} %" for row in chosen}
    return samples.shown(
        title, "Share of neighbours kept; the most changed first.", [("", asking.cards(bench, seen.found, chosen, notes))]
    )
