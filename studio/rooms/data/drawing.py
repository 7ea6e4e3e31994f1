"""What the Data room's components show for a view and the controls: values for the outputs, in their order."""

from __future__ import annotations

from typing import Any

import gradio as gr
import numpy as np

from studio.bench import Bench
from studio.charts import data as charts
from studio.charts import data_dense as dense
from studio.parts import facts, views
from studio.rooms.data import dataplan, dataview, proving, samples
from studio.rooms.data.dataview import View

_TWIN_ROWS = 200
_AXES = {"pca": ("PC 1", "PC 2"), "umap": ("UMAP 1", "UMAP 2")}


Zoom = tuple[str, tuple[float, float, float, float]]  # of which map, and its window


def draw(bench: Bench, view: View, keep: float, colour: str, projection: str, by: str, zoom: Zoom | None) -> tuple[Any, ...]:
    """The outputs `Room.drawn()`."""
    if not view.ready:
        nothing = [None, [], None, None, [], *_no_files(), *views.texts(dataplan.to_recipe(view.choice, keep / 100))]
        make = gr.Button("Embed the rows (a run)", visible=True)
        return *nothing, dataview.wait_note(view), make, None, *proving.nothing()
    frame, placed = dataview.points(bench, view, projection)
    kept = charts.kept_rows(frame, keep / 100)
    return (
        *live(bench, view, keep, colour, projection, by, zoom),
        note(bench, view, projection, zoom),
        gr.Button("Make the UMAP map (a run)", visible=not placed),
        dataview.ends(bench, view, frame, kept),
        *proving.shown(bench.runs, view.choice, keep / 100),
    )


def live(bench: Bench, view: View, keep: float, colour: str, projection: str, by: str, zoom: Zoom | None) -> tuple[Any, ...]:
    """The outputs `Room.live()`."""
    share, names = keep / 100, view.names
    frame, _ = dataview.points(bench, view, projection)
    by = by if names else "cluster"
    kept = charts.kept_rows(frame, share)
    table = charts.size_table(frame, share, by, names)
    files = dataview.downloads(bench, view, share)
    return (
        the_map(bench, view, keep, colour, projection, zoom),
        _map_rows(frame, kept, names),
        charts.sizes(frame, share, by, names),
        facts.said(charts.size_finding(frame, share, by, names), f"{int(kept.sum()):,} of {len(frame):,} rows stay.", "measured"),
        [
            [str(line["name"]), f"{line['rows']:,}", f"{line['kept']:,}", f"{100 * line['share']:.0f}"]
            for line in table.to_dict("records")
        ],
        *([gr.DownloadButton(value=file, visible=True) for file in files] if files else _no_files()),
        *views.texts(dataplan.to_recipe(view.choice, share, projection)),
    )


def the_map(
    bench: Bench, view: View, keep: float, colour: str, projection: str, zoom: Zoom | None, marks: np.ndarray | None = None
) -> Any:
    """Each row a point; of very many rows their density, with a sample as points. `marks`: places in front."""
    frame, placed = dataview.points(bench, view, projection)
    axes, names = _AXES[projection if placed else "pca"], view.names
    colour = "cluster" if colour == "label" and not names else colour
    if len(frame) <= dense.FROM_ROWS:
        figure = charts.points_map(frame, keep / 100, colour, names, axes)
        figure.data[0].selectedpoints = marks
    else:
        figure = dense.dense_map(frame, keep / 100, colour, names, axes, _window(view, projection, zoom), marks)
    return figure.update_layout(uirevision=_of(view, projection))  # a zoom is of these rows, described so


def note(bench: Bench, view: View, projection: str, zoom: Zoom | None) -> dict[str, Any]:
    """What the map is worth, and what of very many rows it shows."""
    frame, placed = dataview.points(bench, view, projection)
    more = dense.words(frame, _window(view, projection, zoom)) if len(frame) > dense.FROM_ROWS else ""
    return dataview.map_note(frame, projection if placed else "pca", more)


def zoomed(view: View, projection: str, window: Any) -> Zoom | None:
    return (_of(view, projection), window) if window else None


def _window(view: View, projection: str, zoom: Zoom | None) -> Any:
    return zoom[1] if zoom and zoom[0] == _of(view, projection) else None


def _of(view: View, projection: str) -> str:
    return f"{view.choice.source} {view.choice.embedding} {projection}"


def _no_files() -> list[Any]:
    return [gr.DownloadButton(visible=False), gr.DownloadButton(visible=False)]


def _map_rows(frame: Any, kept: np.ndarray, names: list[str]) -> list[list[str]]:
    """The map's table twin: an even sample over the order."""
    some = samples.evenly(np.argsort(frame["rank"].to_numpy()), _TWIN_ROWS)
    lines = zip(frame.iloc[some].to_dict("records"), kept[some], strict=True)
    return [
        [str(line["row"]), names[line["label"]] if names else "", str(line["cluster"]), f"{line['score']:.4f}", "yes" if stays else "no",
         f"{line['x']:.3f}", f"{line['y']:.3f}"]
        for line, stays in lines
    ]  # fmt: skip
