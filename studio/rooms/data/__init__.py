"""Data: see the rows as a map, choose how much stays, prove that it is enough, take the selection away."""

from __future__ import annotations

from typing import Any

import gradio as gr

from studio.bench import Bench, plainly
from studio.rooms.data import clusters, crossing, dataplan, opening, picking, proving
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
    """Colours, shares and maps: answered from what the worker said before."""

    @plainly
    def moved(view: View | None, *looks: Any) -> Any:
        return live(bench, view, *looks) if view is not None and view.ready else gr.skip()

    @plainly
    def whole(view: View | None, *looks: Any) -> Any:
        return draw(bench, view, *looks) if view is not None and view.ready else gr.skip()

    gr.on([room.keep.input, room.colour.input, room.by.input], moved, room.controls(), room.live(), **LATEST)
    gr.on([room.projection.input, room.keep.release], whole, room.controls(), room.drawn(), **LATEST)
    picking.wire(bench, room)


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
