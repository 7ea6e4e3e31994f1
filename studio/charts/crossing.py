"""Rows and weights pruned together: a heat map with intervals. Pure: cells in (core.crossing.cells), a Picture out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from core import crossing
from studio.charts.compare import Picture
from studio.charts.proof import percent
from studio.theme import COLOURS, SCALE

HEADERS = ("Rows kept", "Weights kept", "Mean", "Low", "High", "Against all rows and weights", "Seeds")
Cell = Mapping[str, Any]
_DARK = 0.42  # of the scale: above it the colours are pale and the words dark


def heat_map(cells: Sequence[Cell]) -> Picture:
    """Accuracy of every cell with the half of its interval below it; the smallest cell that is not worse than all is framed."""
    rows, weights = (sorted({cell[name] for cell in cells}) for name in ("rows", "weights"))
    at = {(cell["rows"], cell["weights"]): cell for cell in cells}
    z = [[100 * at[row, part]["mean"] for row in rows] for part in weights]
    words = [[_inside(at[row, part]) for row in rows] for part in weights]
    told = [
        [f"{percent(row)} of the rows, {percent(part)} of the weights: {_whole(at[row, part])}" for row in rows]
        for part in weights
    ]
    low, high = min(map(min, z)), max(map(max, z))
    figure = go.Figure(go.Heatmap(
        z=z, x=list(range(len(rows))), y=list(range(len(weights))), customdata=told, xgap=2, ygap=2, zmin=low, zmax=high, colorscale=SCALE,
        colorbar={"title": {"text": "accuracy (%)", "side": "right", "font": {"size": 12}}, "thickness": 10, "outlinewidth": 0, "len": 0.96},
        hovertemplate="%{customdata}<extra></extra>",
    ))  # fmt: skip
    for place in range(len(weights)):
        for across in range(len(rows)):
            pale = high - low < 1e-9 or (z[place][across] - low) / (high - low) > _DARK
            figure.add_annotation(
                x=across,
                y=place,
                text=words[place][across],
                showarrow=False,
                font={"size": 11, "color": "#16352a" if pale else "#ffffff"},
            )
    best = crossing.smallest(cells)
    if best:
        across, place = rows.index(best["rows"]), weights.index(best["weights"])
        figure.add_shape(
            type="rect",
            x0=across - 0.48,
            x1=across + 0.48,
            y0=place - 0.48,
            y1=place + 0.48,
            line={"color": COLOURS["warn"], "width": 3},
        )
    axis = {"showgrid": False, "zeroline": False}
    figure.update_layout(
        margin={"l": 62, "r": 8, "t": 12, "b": 50},
        xaxis={"title": {"text": "Share of rows kept (%)", "font": {"size": 12}}, "tickvals": list(range(len(rows))),
               "ticktext": list(map(_tick, rows)), **axis},
        yaxis={"title": {"text": "Share of weights kept (%)", "font": {"size": 12}}, "tickvals": list(range(len(weights))),
               "ticktext": list(map(_tick, weights)), **axis},
    )  # fmt: skip
    return Picture(finding(cells), figure, HEADERS, tuple(_line(cell) for cell in cells))


def finding(cells: Sequence[Cell]) -> str:
    """The smallest cell that is not worse than all rows and all weights; where there is none, what the nearest cell loses."""
    best = crossing.smallest(cells)
    if best:
        gap = _gap(best)
        return f"{_capital(_of(best))} do as well as all of both ({gap})"
    others = [cell for cell in cells if cell["difference"] is not None]
    if not others:
        return "There is one cell, and nothing to set against it"
    near = max(others, key=lambda cell: cell["difference"])
    return f"Nothing can go unpaid: {_of(near)} lose least ({_gap(near)})"


def _of(cell: Cell) -> str:
    rows = "all rows" if cell["rows"] == 1 else f"{percent(cell['rows'])} of the rows"
    return f"{rows} with {'all weights' if cell['weights'] == 1 else percent(cell['weights']) + ' of the weights'}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def together(cells: Sequence[Cell]) -> str:
    """Does pruning the one make the other dearer? A sentence for below the title; empty where there is only one row or column."""
    found = crossing.price(cells)
    if found is None:
        return ""
    rows, weights = (min(cell[name] for cell in cells) for name in ("rows", "weights"))
    few, every = (f"{100 * lost:.1f}" for lost in found)
    return f"Keeping {percent(weights)} of the weights costs {few} points with {percent(rows)} of the rows, and {every} with all rows."


def _inside(cell: Cell) -> str:
    half = "" if cell["low"] is None else f"<br><span style='font-size:10px'>± {50 * (cell['high'] - cell['low']):.1f}</span>"
    return f"<b>{100 * cell['mean']:.1f}</b>{half}"


def _whole(cell: Cell) -> str:
    spread = "" if cell["low"] is None else f" ({100 * cell['low']:.1f} to {100 * cell['high']:.1f})"
    return f"{100 * cell['mean']:.1f} %{spread}"


def _gap(cell: Cell) -> str:
    spread = (
        "" if cell["difference_low"] is None else f", {100 * cell['difference_low']:+.1f} to {100 * cell['difference_high']:+.1f}"
    )
    return f"{100 * cell['difference']:+.1f} points{spread}, {cell['seeds']} seed{'s' * (cell['seeds'] != 1)}"


def _tick(share: float) -> str:
    return f"{100 * share:.3g}"


def _line(cell: Cell) -> tuple[str, ...]:
    ends = ["" if cell[end] is None else f"{100 * cell[end]:.1f} %" for end in ("low", "high")]
    gap = "" if cell["difference"] is None else _gap(cell).rpartition(",")[0]
    return percent(cell["rows"]), percent(cell["weights"]), f"{100 * cell['mean']:.1f} %", *ends, gap, str(cell["seeds"])
