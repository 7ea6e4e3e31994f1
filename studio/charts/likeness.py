"""How alike the rows lie after every two blocks, by debiased CKA: geometry.json -> heat map, finding, table. Pure functions."""

from __future__ import annotations

import math
from html import escape

import pandas as pd
import plotly.graph_objects as go

from studio.charts.geometry import Found, side_name, tick, words
from studio.charts.xray import MARGIN, titled
from studio.theme import SCALE


def likeness(found: Found, between: bool) -> tuple[list[str], list[str], list[list[float | None]]]:
    """(rows, columns, debiased CKA): blocks of the first model with one another, or with those of the second."""
    first, last = found["sides"][0], found["sides"][-1]
    if between and len(found["sides"]) > 1:
        return first["layers"], last["layers"], found["drift"]["cka_between"]
    return first["layers"], first["layers"], first["cka"]


def cka_map(found: Found, between: bool) -> go.Figure:
    rows, columns, values = likeness(found, between)
    heat = go.Heatmap(
        x=[tick(layer) for layer in columns], y=[tick(layer) for layer in rows], z=values, colorscale=SCALE, zmin=0, zmax=1, xgap=1, ygap=1,
        hovertemplate="%{y} and %{x}: %{z:.3f}<extra></extra>",
        colorbar={"title": {**titled("debiased CKA"), "side": "right"}, "thickness": 10, "outlinewidth": 0, "len": 0.96},
    )  # fmt: skip
    if len(columns) <= 9:
        heat.update(
            text=[["" if x is None else f"{x:.2f}".replace("0.", ".", 1) for x in row] for row in values],
            texttemplate="%{text}",
            textfont={"size": 11},
        )
    figure = go.Figure(heat)
    figure.update_layout(margin={**MARGIN, "r": 4})
    two = between and len(found["sides"]) > 1
    second = f"after block, {escape(side_name(found['sides'][-1]['name']))}" if two else "after block"
    figure.update_xaxes(title=titled(second), type="category", showgrid=False, constrain="domain", nticks=14, tickangle=0)
    figure.update_yaxes(
        title=titled("after block"),
        type="category",
        autorange="reversed",
        showgrid=False,
        scaleanchor="x",
        constrain="domain",
        nticks=14,
    )
    return figure


def cka_finding(found: Found, between: bool) -> str:
    rows, columns, values = likeness(found, between)
    if between and len(found["sides"]) > 1:
        same = [
            (values[at][columns.index(layer)], layer)
            for at, layer in enumerate(rows)
            if layer in columns and values[at][columns.index(layer)] is not None
        ]
        if not same:
            return "The blocks of the two models cannot be compared"
        value, layer = min(same)
        return f"The two models differ most after {words(layer)} (debiased CKA {value:.2f})"
    pairs = [
        (value, rows[a], columns[a + 1])
        for a in range(len(rows) - 1)
        if (value := values[a][a + 1]) is not None and math.isfinite(value)
    ]
    if not pairs:
        return "The blocks cannot be compared"
    value, before, after = min(pairs)
    return f"The rows are rearranged most between {words(before)} and {words(after)} (debiased CKA {value:.2f})"


def cka_table(found: Found, between: bool) -> pd.DataFrame:
    rows, columns, values = likeness(found, between)
    return pd.DataFrame([[name, *row] for name, row in zip(rows, values, strict=True)], columns=["after", *columns])
