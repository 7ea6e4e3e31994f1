"""The map of very many rows: how dense they lie, and before it a bounded even sample of the rows in the window. Pure: DataFrame -> plotly Figure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from studio.charts import data as charts

FROM_ROWS = 100_000
DRAWN, DRAWN_ZOOMED, MARKED = 4_000, 10_000, 5_000
_CELLS = 150
_PAPER = [[0, "rgba(127,140,131,0)"], [0.001, "rgba(127,140,131,.12)"], [1, "rgba(127,140,131,.95)"]]
Window = tuple[float, float, float, float]


def inside(points: pd.DataFrame, window: Window | None) -> np.ndarray:
    """The places of the rows in the window (x0, x1, y0, y1; None = everywhere)."""
    if window is None:
        return np.arange(len(points))
    x0, x1, y0, y1 = window
    x, y = points["x"].to_numpy(), points["y"].to_numpy()
    return np.flatnonzero((x >= x0) & (x <= x1) & (y >= y0) & (y <= y1))


def sample(points: pd.DataFrame, places: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of the places, even over the order in which rows are kept, so that as large a part of them stays as of all."""
    if len(places) <= most:
        return places
    ordered = places[np.argsort(points["rank"].to_numpy()[places], kind="stable")]
    return np.sort(ordered[np.linspace(0, len(ordered) - 1, most).round().astype(int)])


def dense_map(points: pd.DataFrame, share: float, colour: str, names: Sequence[str], axes: tuple[str, str], window: Window | None = None,
              marks: np.ndarray | None = None) -> go.Figure:  # fmt: skip
    """As charts.points_map, but a picture of log10(1 + rows a cell) beneath, and points of a sample only. `marks`: places to put in front.

    Trace 0 holds the points; each carries its place in `points` as customdata.
    """
    kept = charts.kept_rows(points, share)
    here = inside(points, window)
    some = sample(points, here, DRAWN if window is None else DRAWN_ZOOMED)
    if marks is not None:
        marks = sample(points, marks, MARKED)
        some = np.union1d(some, marks)
    shown, stay = points.iloc[some], kept[some]
    marker = charts.markers(points, kept, colour, some, (6.0, 4.0))
    figure = go.Figure(
        go.Scattergl(
            x=shown["x"].to_numpy(), y=shown["y"].to_numpy(), mode="markers", marker=marker, customdata=some, showlegend=False,
            text=charts.hover(shown, stay, names), hovertemplate="%{text}<extra></extra>",
            selected={"marker": {"opacity": 1}}, unselected={"marker": {"opacity": 0.14, "color": charts.GONE}},
            selectedpoints=None if marks is None else np.searchsorted(some, marks),
        )
    )  # fmt: skip
    figure.add_trace(_density(points, here))
    if marks is not None:
        figure.add_trace(charts.front(points, kept, colour, marks))
    return charts.dressed(figure, points, share, colour, names, axes).update_layout(meta=["outline", "window"])


def words(points: pd.DataFrame, window: Window | None) -> str:
    """What of the rows is drawn, openly."""
    here = len(inside(points, window))
    drawn = min(here, DRAWN if window is None else DRAWN_ZOOMED)
    where = "in this window" if window is not None else "here"
    said = (
        f"All {here:,} rows {where} are points."
        if drawn == here
        else f"Shade is density; {drawn:,} of the {here:,} rows {where}, even over the order, are points."
    )
    return f"{said} Zoom for more." if drawn < here else said


def _density(points: pd.DataFrame, here: np.ndarray) -> go.Heatmap:
    x, y = points["x"].to_numpy()[here], points["y"].to_numpy()[here]
    count, across, up = np.histogram2d(x, y, bins=_CELLS) if len(here) else (np.zeros((1, 1)), np.arange(2.0), np.arange(2.0))
    return go.Heatmap(
        x=(across[:-1] + across[1:]) / 2, y=(up[:-1] + up[1:]) / 2, z=np.log10(1 + count.T).astype(np.float32), colorscale=_PAPER,
        showscale=False, hoverinfo="skip",
    )  # fmt: skip
