"""Rows that a person points at in the Data room: a lasso, a click, a word to find, a zoom. They stand out on the map and lie beside it as cards."""

from __future__ import annotations

from typing import Any

import gradio as gr
import numpy as np

from studio.bench import Bench, plainly
from studio.charts import data as charts
from studio.charts import data_dense as dense
from studio.parts.plotview import marked, picked
from studio.rooms.data import dataview
from studio.rooms.data.dataview import View
from studio.rooms.data.drawing import Zoom, note, the_map, zoomed
from studio.rooms.data.layout import Room
from studio.rooms.data.opening import QUIET


def wire(bench: Bench, room: Room) -> None:
    looks, both = room.controls(), [room.map, room.samples]
    room.map.option_select(_lassoed(bench), looks, room.samples, **QUIET)
    room.map.select(_clicked(bench), looks, both, **QUIET)
    room.map.clear(_cleared(bench), looks, both, **QUIET)
    room.map.apply(_zoomed(bench), looks, [room.map, room.map_note, room.zoom], **QUIET, trigger_mode="always_last")
    room.samples.select(_asked(bench), looks, both, **QUIET)
    room.find.submit(_found(bench), [room.find, *looks], both, **QUIET)


def _lassoed(bench: Bench) -> Any:
    @plainly
    def lassoed(
        view: View | None, keep: float, colour: str, projection: str, by: str, zoom: Zoom | None, event: gr.EventData
    ) -> Any:
        outline = picked(event).outline
        if view is None or not view.ready or len(outline) < 3:
            return gr.skip()
        frame, kept = _rows(bench, view, keep)
        places = dataview.inside(bench, view, projection, outline)
        return dataview.chosen(bench, view, frame, kept, places) if len(places) else dataview.ends(bench, view, frame, kept)

    return lassoed


def _clicked(bench: Bench) -> Any:
    @plainly
    def clicked(
        view: View | None, keep: float, colour: str, projection: str, by: str, zoom: Zoom | None, event: gr.EventData
    ) -> Any:
        at = picked(event)
        if view is None or not view.ready or at.curve:
            return gr.skip()
        frame, _ = _rows(bench, view, keep)
        place = at.index if at.custom is None else int(at.custom)
        return _near(bench, view, keep, colour, projection, zoom, int(frame["row"].iloc[place]))

    return clicked


def _asked(bench: Bench) -> Any:
    @plainly
    def asked(
        view: View | None, keep: float, colour: str, projection: str, by: str, zoom: Zoom | None, event: gr.EventData
    ) -> Any:
        """A card was pressed."""
        if view is None or not view.ready:
            return gr.skip()
        return _near(bench, view, keep, colour, projection, zoom, int((event._data or {})["row"]))

    return asked


def _near(bench: Bench, view: View, keep: float, colour: str, projection: str, zoom: Zoom | None, row: int) -> Any:
    frame, kept = _rows(bench, view, keep)
    cards, places = dataview.near(bench, view, frame, kept, row)
    return _marked(bench, view, keep, colour, projection, zoom, places), cards


def _cleared(bench: Bench) -> Any:
    @plainly
    def cleared(view: View | None, keep: float, colour: str, projection: str, by: str, zoom: Zoom | None) -> Any:
        if view is None or not view.ready:
            return gr.skip()
        return _marked(bench, view, keep, colour, projection, zoom, None), dataview.ends(bench, view, *_rows(bench, view, keep))

    return cleared


def _found(bench: Bench) -> Any:
    cleared = _cleared(bench)

    @plainly
    def found(query: str, view: View | None, keep: float, colour: str, projection: str, by: str, zoom: Zoom | None) -> Any:
        if view is None or not view.ready:
            return gr.skip()
        if not query.strip():
            return cleared(view, keep, colour, projection, by, zoom)
        frame, kept = _rows(bench, view, keep)
        places = dataview.found(bench, view, frame, query)
        cards = dataview.chosen(bench, view, frame, kept, places, f"with \u201c{query.strip()[:60]}\u201d")
        return _marked(bench, view, keep, colour, projection, zoom, places), cards

    return found


def _zoomed(bench: Bench) -> Any:
    @plainly
    def moved(
        view: View | None, keep: float, colour: str, projection: str, by: str, zoom: Zoom | None, event: gr.EventData
    ) -> Any:
        """Of very many rows, those in the window come as points."""
        if view is None or not view.ready:
            return gr.skip()
        now = zoomed(view, projection, picked(event).window)
        return the_map(bench, view, keep, colour, projection, now), note(bench, view, projection, now), now

    return moved


def _rows(bench: Bench, view: View, keep: float) -> tuple[Any, np.ndarray]:
    frame, _ = dataview.points(bench, view, "pca")
    return frame, charts.kept_rows(frame, keep / 100)


def _marked(
    bench: Bench, view: View, keep: float, colour: str, projection: str, zoom: Zoom | None, places: np.ndarray | None
) -> Any:
    """These places in front: a word to the picture that stands, but a new one where its points are only a sample."""
    if view.facts["rows"] > dense.FROM_ROWS:
        return the_map(bench, view, keep, colour, projection, zoom, places)
    return marked(None if places is None else places.tolist())
