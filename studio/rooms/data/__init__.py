"""Data: see the rows as a map, choose how much stays, prove that it is enough, take the selection away."""

from __future__ import annotations

from typing import Any

import gradio as gr
import numpy as np

from studio.bench import Bench, plainly
from studio.charts import data as charts
from studio.parts.plotview import picked
from studio.rooms.data import clusters, crossing, dataplan, dataview, opening, proving
from studio.rooms.data.dataview import View
from studio.rooms.data.drawing import draw, live
from studio.rooms.data.layout import Room, layout
from studio.rooms.data.opening import LATEST, QUIET


def build(bench: Bench) -> None:
    gr.Markdown("## Data\nEach point is a row. Move the slider and see what stays, then prove by training that it is enough.")
    room = layout(bench.page, lambda: clusters.layout(bench))
    show, outputs = opening.wire(bench, room)
    clusters.wire(bench, room, show, outputs)
    _wire_looking(bench, room)
    _wire_runs(bench, room)
    crossing.wire(bench, room, room.proving.crossing)


def _wire_looking(bench: Bench, room: Room) -> None:
    """Colours, shares and picks: answered from what the worker said before."""

    @plainly
    def moved(view: View | None, *looks: Any) -> Any:
        return live(bench, view, *looks) if view is not None and view.ready else gr.skip()

    @plainly
    def whole(view: View | None, *looks: Any) -> Any:
        return draw(bench, view, *looks) if view is not None and view.ready else gr.skip()

    @plainly
    def lassoed(view: View | None, keep: float, event: gr.EventData) -> Any:
        return _picked(bench, view, keep, np.array(picked(event).rows, dtype=int))

    @plainly
    def clicked(view: View | None, keep: float, event: gr.EventData) -> Any:
        if view is None or not view.ready or picked(event).curve:
            return gr.skip()
        frame, _ = dataview.points(bench, view, "pca")
        return dataview.near(bench, view, frame, charts.kept_rows(frame, keep / 100), int(frame["row"].iloc[picked(event).index]))

    @plainly
    def asked(view: View | None, keep: float, event: gr.EventData) -> Any:
        frame, _ = dataview.points(bench, view, "pca")
        return dataview.near(bench, view, frame, charts.kept_rows(frame, keep / 100), int((event._data or {})["row"]))

    @plainly
    def cleared(view: View | None, keep: float) -> Any:
        return _picked(bench, view, keep, np.array([], dtype=int))

    gr.on([room.keep.input, room.colour.input, room.by.input], moved, room.controls(), room.live(), **LATEST)
    gr.on([room.projection.input, room.keep.release], whole, room.controls(), room.drawn(), **LATEST)
    picks = [room.view, room.keep]
    room.map.option_select(lassoed, picks, room.samples, **QUIET)
    room.map.select(clicked, picks, room.samples, **QUIET)
    room.map.clear(cleared, picks, room.samples, **QUIET)
    room.samples.select(asked, picks, room.samples, **QUIET)


def _picked(bench: Bench, view: View | None, keep: float, places: np.ndarray) -> Any:
    """The lassoed rows as cards; both ends of the order where nothing is lassoed."""
    if view is None or not view.ready:
        return gr.skip()
    frame, _ = dataview.points(bench, view, "pca")
    kept, places = charts.kept_rows(frame, keep / 100), places[places < len(frame)]
    return dataview.chosen(bench, view, frame, kept, places) if len(places) else dataview.ends(bench, view, frame, kept)


def _wire_runs(bench: Bench, room: Room) -> None:
    """What takes long is a run of its own: the UMAP map (or the embedding), the selection, the proof."""

    @plainly
    def make_map(view: View | None, keep: float) -> Any:
        return bench.start(dataplan.to_recipe(view.choice, keep / 100, "umap" if view.ready else "pca")) if view else gr.skip()

    @plainly
    def select(view: View | None, keep: float) -> Any:
        return bench.start(dataplan.to_recipe(view.choice, keep / 100)) if view else gr.skip()

    @plainly
    def prove(view: View | None, keep: float, learner: str, shares: str, seeds: float) -> Any:
        if view is None:
            return gr.skip()
        kind, labelled = view.facts["kind"], bool(view.names)
        return bench.start(proving.recipe_of(view.choice, kind, labelled, keep / 100, learner, shares, seeds))

    for button, start in ((room.make_map, make_map), (room.select, select)):
        button.click(start, [room.view, room.keep], bench.run, **QUIET)
    room.proving.prove.click(prove, [room.view, room.keep, *room.proving.controls()], bench.run, **QUIET)
