"""What stands below the map in full width: the treemap of the rows. Its own wiring, so that the map's knows nothing of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio.bench import Bench, plainly
from studio.charts import data as charts
from studio.rooms.data import dataview, treemap
from studio.rooms.data.dataview import View
from studio.rooms.data.layout import Room

_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


@dataclass(frozen=True)
class Below:
    """The components, made before they are placed."""

    tree: gr.HTML

    @classmethod
    def of(cls, bench: Bench) -> Below:
        return cls(treemap.component(bench, "data-tree"))

    def make(self) -> None:
        """Place them where they stand."""
        self.tree.render()


def wire(bench: Bench, room: Room, below: Below) -> None:
    """The treemap follows the rows that are open and the share kept; a row pressed in it is shown with what is near it."""
    looks = [room.view, room.keep]
    room.view.change(treemap.shown, looks, below.tree, **_QUIET)
    room.keep.release(treemap.shown, looks, below.tree, **_QUIET)

    @plainly
    def pressed(view: View | None, keep: float, event: gr.EventData) -> Any:
        if view is None or not view.ready:
            return gr.skip()
        frame, _ = dataview.points(bench, view, "pca")
        return dataview.near(bench, view, frame, charts.kept_rows(frame, keep / 100), int((event._data or {})["row"]))

    below.tree.select(pressed, looks, room.samples, **_QUIET)
