"""Rows that a person points at in the Data room: a lasso, a click, a word to find, a zoom. They stand out on the map and lie beside it as cards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from studio.bench import Bench, plainly
from studio.charts import data as charts
from studio.charts import data_dense as dense
from studio.parts.plotview import marked, picked
from studio.rooms.data import dataview, drawing, samples
from studio.rooms.data import looked as looking
from studio.rooms.data.dataview import View
from studio.rooms.data.layout import Room
from studio.rooms.data.looked import Looked
from studio.rooms.data.opening import QUIET

Answer = Callable[..., Any]


def wire(bench: Bench, room: Room) -> None:
    looks, out = room.controls(), [room.map, room.samples, room.map_table, room.looked]
    room.map.option_select(_lassoed(bench), looks, out, **QUIET)
    room.map.select(_clicked(bench), looks, out, **QUIET)
    room.samples.select(_card_pressed(bench), looks, out, **QUIET)
    room.below.tree.select(_card_pressed(bench), looks, out, **QUIET)  # a row in the treemap
    room.map.clear(_cleared(bench), looks, out, **QUIET)
    room.clear.click(_cleared(bench), looks, out, **QUIET)
    room.find.submit(_found(bench), [room.find, *looks], out, **QUIET)
    # always_last would dispatch what the first of several events says: an older window
    room.map.apply(_zoomed(bench), looks, [room.map, room.map_note, room.looked], **QUIET, trigger_mode="multiple")


def _lassoed(bench: Bench) -> Answer:
    @plainly
    def lassoed(
        view: View | None, keep: float, colour: str, projection: str, by: str, looked: Looked | None, event: gr.EventData
    ) -> Any:
        """Where the points are only a sample, the count is of all rows all the same."""
        outline = picked(event).outline
        if view is None or not view.ready or len(outline) < 3:
            return gr.skip()
        places = dataview.inside(bench, view, projection, outline)
        none = None if len(places) else "No row lies in this lasso"
        return _shown(bench, view, keep, colour, projection, looking.choose(looked, view, places, "chosen"), none)

    return lassoed


def _clicked(bench: Bench) -> Answer:
    @plainly
    def clicked(
        view: View | None, keep: float, colour: str, projection: str, by: str, looked: Looked | None, event: gr.EventData
    ) -> Any:
        at = picked(event)
        if view is None or not view.ready or at.curve:
            return gr.skip()
        frame, _ = dataview.points(bench, view, "pca")
        place = at.index if at.custom is None else int(at.custom)
        return _near(bench, view, keep, colour, projection, looked, int(frame["row"].iloc[place]))

    return clicked


def _card_pressed(bench: Bench) -> Answer:
    @plainly
    def pressed(
        view: View | None, keep: float, colour: str, projection: str, by: str, looked: Looked | None, event: gr.EventData
    ) -> Any:
        if view is None or not view.ready:
            return gr.skip()
        return _near(bench, view, keep, colour, projection, looked, int((event._data or {})["row"]))

    return pressed


def _near(bench: Bench, view: View, keep: float, colour: str, projection: str, looked: Looked | None, row: int) -> Any:
    frame, _ = dataview.points(bench, view, "pca")
    places, _ = dataview.nearest(bench, view, frame, row)
    return _shown(bench, view, keep, colour, projection, looking.choose(looked, view, places, row=row))


def _cleared(bench: Bench) -> Answer:
    @plainly
    def cleared(view: View | None, keep: float, colour: str, projection: str, by: str, looked: Looked | None) -> Any:
        if view is None or not view.ready:
            return gr.skip()
        return _shown(bench, view, keep, colour, projection, looking.choose(looked, view, None))

    return cleared


def _found(bench: Bench) -> Answer:
    @plainly
    def found(query: str, view: View | None, keep: float, colour: str, projection: str, by: str, looked: Looked | None) -> Any:
        if view is None or not view.ready:
            return gr.skip()
        words = query.strip()[:60]
        places = dataview.found(bench, view, dataview.points(bench, view, "pca")[0], query) if words else None
        now = looking.choose(looked, view, places, f"with \u201c{words}\u201d")
        none = f"No row with \u201c{words}\u201d" if words and now.mask == b"" else None
        return _shown(bench, view, keep, colour, projection, now, none)

    return found


def _zoomed(bench: Bench) -> Answer:
    @plainly
    def moved(
        view: View | None, keep: float, colour: str, projection: str, by: str, looked: Looked | None, event: gr.EventData
    ) -> Any:
        """Of very many rows, those in the window come as points."""
        if view is None or not view.ready:
            return gr.skip()
        now = looking.zoom(looked, view, projection, picked(event).window)
        return (
            drawing.the_map(bench, view, keep, colour, projection, now),
            drawing.note(bench, view, colour, projection, now),
            now,
        )

    return moved


def _shown(
    bench: Bench, view: View, keep: float, colour: str, projection: str, now: Looked, none: str | None = None
) -> tuple[Any, ...]:
    """Map, cards, table, what is looked at. `none`: what to say where nothing was hit."""
    frame, _ = dataview.points(bench, view, projection, colour)
    kept, places = charts.kept_rows(frame, keep / 100), looking.places(now, view)
    cards = drawing.cards(bench, view, frame, kept, now) if none is None else samples.shown(none, "Nothing is chosen.", [])
    rows = drawing.map_rows(frame, kept, view.names, places)
    if len(frame) > dense.FROM_ROWS:
        return drawing.the_map(bench, view, keep, colour, projection, now), cards, rows, now
    front = None if places is None else charts.front(frame, kept, colour, places)
    return marked(None if places is None else places.tolist(), front), cards, rows, now  # a word to the picture that stands
