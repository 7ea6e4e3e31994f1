"""Open rows, embed them otherwise, order them otherwise: each asks the worker and draws the Data room anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gradio as gr

from core.errors import PrunariumError
from studio import known
from studio.bench import Bench, plainly
from studio.rooms.data import beside, choosing, dataplan, dataview
from studio.rooms.data.dataplan import DIGITS, Choice
from studio.rooms.data.dataview import View
from studio.rooms.data.drawing import draw
from studio.rooms.data.layout import Room

# One at a time: each draws from what the one before it left to be chosen, else a slow drawing would bring an older choice back.
QUIET: dict[str, Any] = {
    "show_progress": "hidden", "api_visibility": "private", "concurrency_id": "data-room", "concurrency_limit": 1,
}  # fmt: skip
LATEST: dict[str, Any] = {**QUIET, "trigger_mode": "always_last"}
Moved = dict[str, dict[str, Any]]  # of each way to order rows, the controls of its score that were moved
Show = Callable[..., dict[Any, Any]]


def wire(bench: Bench, room: Room) -> tuple[Show, list[Any]]:
    """Every way in which rows come to be shown. Returns show(choice, *looks) and its outputs, for what else has a wish."""
    outputs = [
        room.about,
        room.problem,
        room.more,
        room.skip,
        room.embedding,
        room.source,
        bench.data,
        room.view,
        room.colour,
        *room.drawn(),
    ]
    show = _show(bench, room, outputs)
    _wire_hands(bench, room, show, outputs)
    _wire_arrivals(bench, room, show, outputs)
    return show, outputs


def _show(bench: Bench, room: Room, outputs: list[Any]) -> Show:
    def show(choice: Choice, *looks: Any) -> dict[Any, Any]:
        """A problem stands above the map that was there, with its remedy; nothing else changes then."""
        try:
            view = dataview.open_view(bench, choice)
            keep, wanted, *others = looks
            colour = dataview.colour(view, wanted)
            drawn = draw(bench, view, keep, colour, *others)
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
        colours = gr.Radio(choices=dataview.colours(view), value=colour)
        values = (dataview.about_rows(view), None, folded, choice.skip, embedding, source, source, view, colours, *drawn)
        return dict(zip(outputs, values, strict=True))

    return show


def _wire_hands(bench: Bench, room: Room, show: Show, outputs: list[Any]) -> None:
    """What a person chooses, types or moves in this room."""

    @plainly
    def opened(
        source: str, text: str, label: str, skip: bool, embedding: str, way: str, params: Moved, view: View | None, *looks: Any
    ) -> Any:
        source = bench.admit(source or "")
        same = view is not None and view.choice.source == source
        choice = Choice(source, text.strip() or None, label.strip() or None, skip, embedding if same else "auto", way)
        if same and view is not None:
            choice = replace(choice, clusters=view.choice.clusters, merged=view.choice.merged)
        choice = replace(choice, model=bench.workspace.read().model, params=_moved(bench, way, params))
        return show(choosing.carried(choice, view.choice) if same and view is not None else choice, *looks)

    @plainly
    def changed(
        source: str, text: str, label: str, skip: bool, embedding: str, way: str, params: Moved, view: View | None, *looks: Any
    ) -> Any:
        """A value was chosen or typed, or a box was only left as it was: what is open already is not opened again."""
        same = view is None or (view.choice.source, view.choice.embedding) == (source, embedding)
        skip = skip and view is not None and view.choice.source == source  # said for other rows, it says nothing about these
        return gr.skip() if same else opened(source, text, label, skip, embedding, way, params, view, *looks)

    inputs = [room.source, room.text, room.label, room.skip, room.embedding, room.way, room.params, *room.controls()]
    asked = [room.open.click, room.text.submit, room.label.submit, room.way.input]
    gr.on(asked, opened, inputs, outputs, **QUIET)
    room.params.change(opened, inputs, outputs, **LATEST)  # only a hand on the score's controls changes it
    gr.on([room.source.input, room.embedding.input], changed, inputs, outputs, **QUIET)


def _moved(bench: Bench, way: str, params: Moved) -> tuple[tuple[str, Any], ...]:
    """The score's controls that were moved, those that name a second data set looked at as the first is: a path must lie in an opened folder."""
    sources, moved = dataplan.second_sources(way), params.get(way, {})
    return tuple(
        sorted((name, bench.admit(value) if name in sources and value.strip() else value) for name, value in moved.items())
    )


def _wire_arrivals(bench: Bench, room: Room, show: Show, outputs: list[Any]) -> None:
    """A person comes to this room, another tab or room opens rows, a run ends."""

    @plainly
    def first(view: View | None, way: str, *looks: Any) -> Any:
        source = bench.workspace.read().data or DIGITS
        if view is not None and view.choice.source == source:
            return gr.skip()
        return show(Choice(source, embedding="auto", way=way, model=bench.workspace.read().model), *looks)

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
        return {**drawn, room.samples: beside.suggested(bench, now, keep, told)} if now and now.ready else drawn or gr.skip()

    start = [room.view, room.way, *room.controls()[1:]]
    bench.data.change(elsewhere, [bench.data, *start], outputs, **QUIET)
    bench.tabs.select(_when_data(first), start, outputs, **QUIET)
    bench.page.load(_when_asked(first), start, outputs, **QUIET)
    bench.picked.change(sent, start, outputs, **QUIET)
    bench.ended.change(_after_run(show), [bench.ended, *room.controls()], outputs, **QUIET)


def _when_data(show: Any) -> Any:
    """Draw when a person comes to this room."""

    def handler(
        view: View | None, way: str, keep: float, colour: str, projection: str, by: str, looked: Any, event: gr.SelectData
    ) -> Any:
        return show(view, way, keep, colour, projection, by, looked) if event.value == "Data" else gr.skip()

    return handler


def _when_asked(show: Any) -> Any:
    """Draw where the address names this room."""

    def handler(
        view: View | None, way: str, keep: float, colour: str, projection: str, by: str, looked: Any, request: gr.Request
    ) -> Any:
        return show(view, way, keep, colour, projection, by, looked) if request.query_params.get("room") == "data" else gr.skip()

    return handler


def _after_run(show: Any) -> Any:
    """A run may have brought an embedding, a UMAP map, a proof or a selection: look again."""

    def handler(ended: str | None, view: View | None, *looks: Any) -> Any:
        return show(view.choice, *looks) if ended and view is not None else gr.skip()

    return handler
