"""What the Data room's components show for a view and the controls: values for the outputs, in their order."""

from __future__ import annotations

from typing import Any

import gradio as gr
import numpy as np

from studio.bench import Bench
from studio.charts import data as charts
from studio.parts import facts, views
from studio.rooms.data import choosing, dataplan, dataview, proving, samples
from studio.rooms.data.dataview import View

_TWIN_ROWS = 200
_AXES = {"pca": ("PC 1", "PC 2"), "umap": ("UMAP 1", "UMAP 2")}


def draw(bench: Bench, view: View, keep: float, colour: str, projection: str, by: str) -> tuple[Any, ...]:
    """The outputs `Room.drawn()`."""
    if not view.ready:
        nothing = [None, [], None, None, [], *_no_files(), *views.texts(dataplan.to_recipe(view.choice, keep / 100))]
        make = gr.Button("Embed the rows (a run)", visible=True)
        return *nothing, dataview.wait_note(view), make, None, *proving.nothing()
    choosing.decide(bench, view, keep)
    frame, placed = dataview.points(bench, view, projection)
    kept = charts.kept_rows(frame, keep / 100)
    return (
        *live(bench, view, keep, colour, projection, by),
        dataview.map_note(frame, projection if placed else "pca"),
        gr.Button("Make the UMAP map (a run)", visible=not placed),
        dataview.ends(bench, view, frame, kept),
        *proving.shown(bench.runs, view.choice, keep / 100),
    )


def live(bench: Bench, view: View, keep: float, colour: str, projection: str, by: str) -> tuple[Any, ...]:
    """The outputs `Room.live()`."""
    share, names = keep / 100, view.names
    choosing.decide(bench, view, keep)
    frame, placed = dataview.points(bench, view, projection)
    by, colour = (by, colour) if names else ("cluster", "cluster" if colour == "label" else colour)
    kept = charts.kept_rows(frame, share)
    table = charts.size_table(frame, share, by, names)
    files = dataview.downloads(bench, view, share)
    return (
        charts.points_map(frame, share, colour, names, _AXES[projection if placed else "pca"]),
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
