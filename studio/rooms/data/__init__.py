"""Data: see the rows as a map, choose how much stays, prove that it is enough, take the selection away."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gradio as gr
import numpy as np

from core.errors import PrunariumError
from studio import known
from studio.bench import Bench, plainly
from studio.charts import data as charts
from studio.parts.plotview import picked
from studio.rooms.data import dataplan, dataview, proving
from studio.rooms.data.dataplan import DIGITS, Choice
from studio.rooms.data.dataview import View
from studio.rooms.data.drawing import draw, live
from studio.rooms.data.layout import Room, layout

_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
_LATEST: dict[str, Any] = {**_QUIET, "trigger_mode": "always_last"}
Moved = dict[str, Any]  # the score's controls that were moved


def build(bench: Bench) -> None:
    gr.Markdown("## Data\nEach point is a row. Move the slider and see what stays, then prove by training that it is enough.")
    room = layout(bench.page)
    _wire_opening(bench, room)
    _wire_looking(bench, room)
    _wire_runs(bench, room)


def _wire_opening(bench: Bench, room: Room) -> None:
    """Open rows, embed them otherwise, order them otherwise: each asks the worker and draws everything anew."""
    inputs = [room.source, room.text, room.label, room.skip, room.embedding, room.way, room.params, *room.controls()]
    outputs = [room.about, room.problem, room.more, room.skip, room.embedding, room.source, bench.data, room.view, *room.drawn()]

    def show(choice: Choice, *looks: Any) -> dict[Any, Any]:
        """A problem stands above the map that was there, with its remedy; nothing else changes then."""
        try:
            view = dataview.open_view(bench, choice)
            drawn = draw(bench, view, *looks)
        except PrunariumError as error:
            bad = "skip_bad_rows" in error.remedy
            text = str(error).replace("set skip_bad_rows to", "tick Skip bad rows to")
            return {room.problem: {"text": text, "wrong": True}, **({room.more: gr.Accordion(open=True)} if bad else {})}
        source = view.choice.source
        if bench.workspace.read().data != source:
            bench.workspace.change(data=source)
        model = known.description(bench.workspace.read().model, bench.workspace.folder)
        embedding = gr.Dropdown(choices=dataview.embeddings(view.facts, model), value=view.choice.embedding)
        folded = gr.Accordion(open=bool(view.facts["bad_rows"] or choice.text or choice.label))
        values = (dataview.about_rows(view), None, folded, choice.skip, embedding, source, source, view, *drawn)
        return dict(zip(outputs, values, strict=True))

    @plainly
    def opened(
        source: str, text: str, label: str, skip: bool, embedding: str, way: str, params: Moved, view: View | None, *looks: Any
    ) -> Any:
        source = bench.admit(source or "")
        same = view is not None and view.choice.source == source
        choice = Choice(source, text.strip() or None, label.strip() or None, skip, embedding if same else "auto", way)
        moved = tuple(sorted(_admitted(bench, way, params).items()))
        return show(replace(choice, model=bench.workspace.read().model, params=moved), *looks)

    @plainly
    def reordered(source: str, text: str, label: str, skip: bool, embedding: str, way: str, params: Moved, *rest: Any) -> Any:
        """Another way to order: the controls moved before were another's."""
        return opened(source, text, label, skip, embedding, way, {}, *rest)

    @plainly
    def first(view: View | None, way: str, *looks: Any) -> Any:
        source = bench.workspace.read().data or DIGITS
        if view is not None and view.choice.source == source:
            return gr.skip()
        return show(Choice(source, embedding="auto", way=way, model=bench.workspace.read().model), *looks)

    @plainly
    def changed(
        source: str, text: str, label: str, skip: bool, embedding: str, way: str, params: Moved, view: View | None, *looks: Any
    ) -> Any:
        """A value was chosen or typed, or a box was only left as it was: what is open already is not opened again."""
        same = view is None or (view.choice.source, view.choice.embedding) == (source, embedding)
        skip = skip and view is not None and view.choice.source == source  # said for other rows, it says nothing about these
        return gr.skip() if same else opened(source, text, label, skip, embedding, way, params, view, *looks)

    @plainly
    def rescored(
        source: str, text: str, label: str, skip: bool, embedding: str, way: str, params: Moved, view: View | None, *looks: Any
    ) -> Any:
        """A control of the score was moved; emptied controls mean that another way was chosen, which is asked for already."""
        return (
            opened(source, text, label, skip, embedding, way, params, view, *looks) if params and view is not None else gr.skip()
        )

    @plainly
    def elsewhere(source: str | None, view: View | None, way: str, *looks: Any) -> Any:
        """Another tab has opened other rows."""
        return first(view, way, *looks) if source and view is not None else gr.skip()

    @plainly
    def sent(view: View | None, way: str, keep: float, *looks: Any) -> Any:
        """Another room suggests rows: its data is opened where it is not, and they stand below the map."""
        told = bench.workspace.read().picked
        if told is None:
            return gr.skip()
        same = view is not None and view.choice.source == told["source"]
        choice = Choice(told["source"], embedding="auto", way=way, model=bench.workspace.read().model)
        drawn = {} if same else show(choice, keep, *looks)
        now = view if same else drawn.get(room.view)
        return {**drawn, room.samples: dataview.suggested(bench, now, keep, told)} if now and now.ready else drawn or gr.skip()

    start = [room.view, room.way, *room.controls()[1:]]
    asked = [room.open.click, room.text.submit, room.label.submit]
    gr.on(asked, opened, inputs, outputs, **_QUIET)
    room.way.input(reordered, inputs, outputs, **_QUIET)
    room.way.input(lambda: {}, None, room.params, **_QUIET)
    room.params.change(rescored, inputs, outputs, **_LATEST)
    gr.on([room.source.input, room.embedding.input], changed, inputs, outputs, **_QUIET)
    bench.data.change(elsewhere, [bench.data, *start], outputs, **_QUIET)
    bench.tabs.select(_when_data(first), start, outputs, **_QUIET)
    bench.page.load(_when_asked(first), start, outputs, **_QUIET)
    bench.picked.change(sent, start, outputs, **_QUIET)
    bench.ended.change(_after_run(show), [bench.ended, *room.controls()], outputs, **_QUIET)


def _admitted(bench: Bench, way: str, params: Moved) -> Moved:
    """The controls that were moved, those that name a second data set looked at as the first is: a path must lie in an opened folder."""
    card = dataplan.score_card(way)
    sources = {param.name for param in card.params if param.grammar == "data"} if card else set()
    return {name: bench.admit(value) if name in sources and value.strip() else value for name, value in params.items()}


def _when_data(show: Any) -> Any:
    """Draw when a person comes to this room."""

    def handler(view: View | None, way: str, keep: float, colour: str, projection: str, by: str, event: gr.SelectData) -> Any:
        return show(view, way, keep, colour, projection, by) if event.value == "Data" else gr.skip()

    return handler


def _when_asked(show: Any) -> Any:
    """Draw where the address names this room."""

    def handler(view: View | None, way: str, keep: float, colour: str, projection: str, by: str, request: gr.Request) -> Any:
        return show(view, way, keep, colour, projection, by) if request.query_params.get("room") == "data" else gr.skip()

    return handler


def _after_run(show: Any) -> Any:
    """A run may have brought an embedding, a UMAP map, a proof or a selection: look again."""

    def handler(ended: str | None, view: View | None, *looks: Any) -> Any:
        return show(view.choice, *looks) if ended and view is not None else gr.skip()

    return handler


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

    gr.on([room.keep.input, room.colour.input, room.by.input], moved, room.controls(), room.live(), **_LATEST)
    gr.on([room.projection.input, room.keep.release], whole, room.controls(), room.drawn(), **_LATEST)
    picks = [room.view, room.keep]
    room.map.option_select(lassoed, picks, room.samples, **_QUIET)
    room.map.select(clicked, picks, room.samples, **_QUIET)
    room.map.clear(cleared, picks, room.samples, **_QUIET)
    room.samples.select(asked, picks, room.samples, **_QUIET)


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
        button.click(start, [room.view, room.keep], bench.run, **_QUIET)
    room.proving.prove.click(prove, [room.view, room.keep, *room.proving.controls()], bench.run, **_QUIET)
