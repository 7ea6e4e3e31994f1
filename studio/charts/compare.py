"""Figures of runs side by side. Pure: what core.compare reads goes in, a Picture comes out: figure, finding, and the same as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from core import compare
from core.compare import LETTERS, Side, masks, told
from core.compare.told import COSTS
from core.compare.words import written
from studio.charts.run import layer_axis
from studio.theme import COLOURS, SEQUENCE

MARGIN = {"l": 62, "r": 16, "t": 30, "b": 56}
_DIVERGING = [[0.0, SEQUENCE[0]], [0.5, "#f1f0ea"], [1.0, SEQUENCE[1]]]
_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "x", "star", "hexagon")


FRONT = "no other beats these"


@dataclass(frozen=True)
class Picture:
    """finding: the title, a sentence; figure None where there is nothing to draw, and the finding says why."""

    finding: str
    figure: go.Figure | None = None
    headers: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def front_line(places: Sequence[tuple[float, float]], best: Sequence[int]) -> go.Figure:
    """A figure with the dotted line through those that no other beats in both."""
    figure = go.Figure()
    figure.add_scatter(
        x=[places[i][0] for i in best], y=[places[i][1] for i in best], mode="lines", name=FRONT, hoverinfo="skip",
        line={"color": COLOURS["muted"], "width": 1.5, "dash": "dot", "shape": "hv"},
    )  # fmt: skip
    return figure


def quality_axis(key: str) -> dict[str, Any]:
    """Title of the axis of a figure of quality: which, and which way is better."""
    title = f"{compare.FIGURES[key][0].lower()} ({'lower' if compare.FIGURES[key][2] else 'higher'} is better)"
    return {"title": {"text": title}, **({"tickformat": ".0%"} if key == "accuracy" else {})}


def pareto(found: Sequence[Side], cost: str = "nonzero") -> Picture:
    """Quality against a cost: a point for each final model and for the dense one, and the line of those that no other beats in both."""
    said = told.pareto(found, cost)
    if not said.rows:
        return Picture(said.finding)
    key = compare.quality_key(found) or ""
    points = compare.placed(found, key, cost)
    places = [(x, y) for _, x, y, _ in points]
    figure = front_line(places, compare.front(places, compare.FIGURES[key][2]))
    for name, x, y, number in points:
        figure.add_scatter(
            x=[x], y=[y], mode="markers+text", name=escape(name), text=[name.split(" · ")[0]], textposition="top center", cliponaxis=False,
            marker=marker(number),
            hovertemplate=f"{escape(name)}<br>{written(cost, x)}<br>{compare.FIGURES[key][0].lower()} {written(key, y)}<extra></extra>",
        )  # fmt: skip
    figure.update_layout(
        xaxis={"title": {"text": COSTS[cost]}, "rangemode": "tozero"},
        yaxis=quality_axis(key),
        legend={"orientation": "h", "y": -0.22, "x": 0},
        margin={**MARGIN, "b": 90},
    )
    return _drawn(said, figure)


def _drawn(said: told.Told, figure: go.Figure) -> Picture:
    return Picture(said.finding, figure, said.headers, said.rows)


def marker(number: int | None) -> dict[str, Any]:
    if number is None:
        return {"size": 12, "color": COLOURS["dense"], "symbol": "circle-open", "line": {"width": 2}}
    return {"size": 12, "color": SEQUENCE[number], "symbol": _SYMBOLS[number]}


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def sparsity(found: Sequence[Side]) -> Picture:
    """Where each run took its share: a stepped line a run. Layers that only some of them have stand too."""
    order, shares = told.shares(found)
    if not order:
        return Picture(told.layers(found).finding)
    figure, places = go.Figure(), [escape(layer) for layer in order]
    for number, (own, name) in enumerate(zip(shares, compare.lettered(found), strict=True)):
        figure.add_scatter(
            x=places, y=[own.get(layer) for layer in order], name=escape(name), mode="lines+markers",
            line={"color": SEQUENCE[number], "width": 2, "shape": "hvh", "dash": ("solid", "dot", "dash", "dashdot")[number % 4]},
            marker={"size": 6, "symbol": _SYMBOLS[number]}, hovertemplate="%{x}<br>%{y:.1f} % removed<extra></extra>",
        )  # fmt: skip
    figure.update_layout(
        yaxis={"title": {"text": "% removed"}, "range": [0, 100]}, xaxis=layer_axis(places), legend={"orientation": "h", "y": 1.16, "x": 0}, margin=MARGIN,
    )  # fmt: skip
    return _drawn(told.layers(found), figure)


def overlap(found: Sequence[Side]) -> Picture:
    """How far each other run prunes what the first one prunes: Jaccard of the pruned sets, layer by layer, and what chance would give."""
    over = told.overlaps(found)
    said = told.overlap(found, over)
    if not said.rows:
        return Picture(said.finding)
    figure = go.Figure()
    for number, rows in over:
        names = [escape(masks.label(str(row["name"]))) for row in rows]
        figure.add_scatter(
            x=names, y=[row["jaccard"] for row in rows], name=f"A and {LETTERS[number]}", mode="lines+markers", marker={"size": 6, "symbol": _SYMBOLS[number]},
            line={"color": SEQUENCE[number], "width": 2}, hovertemplate="%{x}<br>overlap %{y:.3f}<extra></extra>",
        )  # fmt: skip
        figure.add_scatter(
            x=names, y=[row["chance"] for row in rows], name=f"by chance, A and {LETTERS[number]}", mode="lines", hoverinfo="skip",
            line={"color": SEQUENCE[number], "width": 1, "dash": "dot"},
        )  # fmt: skip
    figure.update_layout(
        yaxis={"title": {"text": "overlap of what is pruned (Jaccard)"}, "range": [0, 1.02]}, margin=MARGIN, legend={"orientation": "h", "y": 1.16, "x": 0},
        xaxis=layer_axis([escape(row[1]) for row in said.rows]),
    )  # fmt: skip
    return _drawn(said, figure)


def difference_map(found: Sequence[Side], other: int, layer: str) -> Picture:
    """Where in one matrix two runs differ in what they prune."""
    one, two = (
        masks.masks(found[0].path).get(layer),
        masks.masks(found[other].path).get(layer) if other < len(found) else None,
    )
    tiles = masks.difference_map(one, two) if one is not None and two is not None else None
    if tiles is None:
        return Picture("These two runs have no mask of the same shape there.")
    letter = LETTERS[other]
    height, width = one.shape[0], int(np.prod(one.shape[1:])) or 1
    figure = go.Figure(
        go.Heatmap(
            z=tiles, x=np.linspace(0, width, tiles.shape[1] + 1), y=np.linspace(0, height, tiles.shape[0] + 1), zmin=-1, zmax=1, colorscale=_DIVERGING,
            colorbar={"thickness": 10, "outlinewidth": 0, "tickvals": [-1, 0, 1], "ticktext": ["only A", "alike", f"only {letter}"]},
            hovertemplate="row %{y:.0f}, column %{x:.0f}<br>%{z:+.2f}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_layout(margin=MARGIN)
    figure.update_xaxes(title={"text": "input (column)"}, showgrid=False)
    figure.update_yaxes(title={"text": "output (row)"}, autorange="reversed", showgrid=False)
    return _drawn(told.difference(one, two, tiles, letter, layer), figure)


def heads(found: Sequence[Side], number: int) -> Picture:
    """Block x head: the share removed of each attention head; of another run than the first, against the first."""
    names, grid, against = told.heads_grid(found, number)
    if not names:
        return Picture(told.heads(found, number).finding)
    colours: dict[str, Any] = {"colorscale": [[0, "#f6f3e4"], [1, SEQUENCE[1]]], "zmin": 0, "zmax": 100}
    if against:
        reach = max(max(abs(x) for row in grid for x in row if x is not None), 1.0)
        colours = {"colorscale": _DIVERGING, "zmin": -reach, "zmax": reach}
    figure = go.Figure(
        go.Heatmap(
            z=grid, x=[str(i) for i in range(len(grid[0]))], y=[escape(name.removeprefix("blocks.")) for name in names], xgap=2, ygap=2, **colours,
            colorbar={"thickness": 10, "outlinewidth": 0, "title": {"text": "points" if against else "% removed", "side": "right"}},
            hovertemplate="block %{y}, head %{x}: %{z:.1f}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_xaxes(title={"text": "head"}, type="category", showgrid=False)
    figure.update_yaxes(title={"text": "block"}, type="category", autorange="reversed", showgrid=False)
    figure.update_layout(margin=MARGIN)
    return _drawn(told.heads(found, number), figure)
