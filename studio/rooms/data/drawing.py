"""What the Data room's components show for a view and the controls: values for the outputs, in their order."""

from __future__ import annotations

import itertools
from typing import Any

import gradio as gr
import numpy as np

from studio.bench import Bench
from studio.charts import data as charts
from studio.charts import data_dense as dense
from studio.parts import facts, views
from studio.rooms.data import beside, choosing, dataplan, dataview, proving, samples
from studio.rooms.data import looked as looking
from studio.rooms.data.dataview import View
from studio.rooms.data.looked import Looked

_TWIN_ROWS = 200
_drawings = itertools.count(1)
_AXES = {"pca": ("PC 1", "PC 2"), "umap": ("UMAP 1", "UMAP 2")}


def draw(bench: Bench, view: View, keep: float, colour: str, projection: str, by: str, looked: Looked | None) -> tuple[Any, ...]:
    """The outputs `Room.drawn()`."""
    if not view.ready:
        nothing = [None, [], None, None, [], *_no_files(), *views.texts(dataplan.to_recipe(view.choice, keep / 100))]
        make = gr.Button("Embed the rows (a run)", visible=True)
        return *nothing, dataview.wait_note(view), make, None, *proving.nothing()
    choosing.decide(bench, view, keep)
    frame, placed = dataview.points(bench, view, projection)
    kept = charts.kept_rows(frame, keep / 100)
    return (
        *live(bench, view, keep, colour, projection, by, looked),
        gr.Button("Make the UMAP map (a run)", visible=not placed),
        cards(bench, view, frame, kept, looked),
        *proving.shown(bench.runs, view.choice, keep / 100),
    )


def live(bench: Bench, view: View, keep: float, colour: str, projection: str, by: str, looked: Looked | None) -> tuple[Any, ...]:
    """The outputs `Room.live()`."""
    share, names = keep / 100, view.names
    choosing.decide(bench, view, keep)
    frame, _ = dataview.points(bench, view, projection)
    by = by if names else "cluster"
    kept = charts.kept_rows(frame, share)
    table = charts.size_table(frame, share, by, names)
    files = dataview.downloads(bench, view, share)
    return (
        the_map(bench, view, keep, colour, projection, looked),
        map_rows(frame, kept, names, looking.places(looked, view)),
        charts.sizes(frame, share, by, names),
        _size_note(view, charts.size_finding(frame, share, by, names), f"{int(kept.sum()):,} of {len(frame):,} rows stay"),
        [
            [str(line["name"]), f"{line['rows']:,}", f"{line['kept']:,}", f"{100 * line['share']:.0f}"]
            for line in table.to_dict("records")
        ],
        *([gr.DownloadButton(value=file, visible=True) for file in files] if files else _no_files()),
        *views.texts(dataplan.to_recipe(view.choice, share, projection)),
        note(bench, view, colour, projection, looked),
    )


def _size_note(view: View, finding: str, count: str) -> dict[str, Any]:
    """What stays of each cluster or class; where the selector has not chosen, what would stay by the order, and that it is not the selector's answer."""
    if choosing.undecided(view):
        return facts.said(f"By the order alone: {finding[0].lower()}{finding[1:]}", f"By the order alone, {count}.")
    return facts.said(finding, f"{count}.", "measured")


def the_map(bench: Bench, view: View, keep: float, colour: str, projection: str, looked: Looked | None) -> Any:
    """Each row a point; of very many rows their density, with a sample as points. What is chosen stands in front."""
    frame, placed = dataview.points(bench, view, projection, colour)
    axes, names, marks = _AXES[projection if placed else "pca"], view.names, looking.places(looked, view)
    if len(frame) <= dense.FROM_ROWS:
        figure = charts.points_map(frame, keep / 100, colour, names, axes, marks)
    else:
        figure = dense.dense_map(frame, keep / 100, colour, names, axes, looking.window(looked, view, projection), marks)
    # a zoom is of these rows, described so; a lasso's outline is of one drawing: plotly would mark the same places of another sample
    return figure.update_layout(uirevision=looking.map_name(view, projection), selectionrevision=next(_drawings))


def note(bench: Bench, view: View, colour: str, projection: str, looked: Looked | None) -> dict[str, Any]:
    """What the map is worth, and what of very many rows it shows."""
    frame, placed = dataview.points(bench, view, projection, colour)
    more = [dense.words(frame, looking.window(looked, view, projection))] if len(frame) > dense.FROM_ROWS else []
    if colour == "error":
        share = 100 * frame["error"].mean()
        more.append(f"A linear probe that had not seen the row reads {share:.1f} % of the rows wrongly.")
    return dataview.map_note(frame, projection if placed else "pca", " ".join(more))


def cards(bench: Bench, view: View, frame: Any, kept: np.ndarray, looked: Looked | None) -> dict[str, Any]:
    """The rows that are chosen; where none are, both ends of the order."""
    one, places = looking.chosen(looked, view), looking.places(looked, view)
    if one is None or places is None:
        return beside.ends(bench, view, frame, kept)
    if one.row is not None:
        return beside.near(bench, view, frame, kept, one.row)
    return beside.chosen(bench, view, frame, kept, places, one.how)


def _no_files() -> list[Any]:
    return [gr.DownloadButton(visible=False), gr.DownloadButton(visible=False)]


def map_rows(frame: Any, kept: np.ndarray, names: list[str], places: np.ndarray | None) -> list[list[str]]:
    """The map's table twin: the chosen rows, or all, first in the order first; an even sample where they are many."""
    some = np.arange(len(frame)) if places is None else places
    some = samples.evenly(some[np.argsort(frame["rank"].to_numpy()[some])], _TWIN_ROWS)
    lines = zip(frame.iloc[some].to_dict("records"), kept[some], strict=True)
    return [
        [str(line["row"]), names[line["label"]] if names else "", str(line["cluster"]), f"{line['score']:.4f}", "yes" if stays else "no",
         f"{line['x']:.3f}", f"{line['y']:.3f}"]
        for line, stays in lines
    ]  # fmt: skip
