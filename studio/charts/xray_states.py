"""How alike the hidden states between blocks are: observations -> figure, finding, table. Pure functions, no screen."""

from __future__ import annotations

from html import escape

import pandas as pd
import plotly.graph_objects as go

from studio.charts.xray import MARGIN, Observations, number, titled
from studio.theme import SCALE

MEASURES = {"cosine": "Cosine", "angular": "Angular distance", "cka": "Debiased CKA"}


def measures(data: Observations) -> tuple[str, ...]:
    """The ways in which these observations compare hidden states."""
    found = data.get("similarity")
    return (found["measure"], *(name for name in found.get("others") or {} if name in MEASURES)) if found else ()


def _compared(data: Observations, measure: str) -> tuple[list[str], list[list[float | None]]]:
    found = data.get("similarity") or {"labels": [], "values": [], "measure": "cosine"}
    values = (found.get("others") or {}).get(measure, found["values"])
    return [str(name) for name in found["labels"]], [[number(x) for x in row] for row in values]


def similarity(data: Observations, measure: str = "cosine") -> go.Figure | None:
    """How alike the hidden states at every two borders between blocks are. None where it was not measured."""
    if not data.get("similarity"):
        return None
    labels, values = _compared(data, measure)
    every = [x for row in values for x in row if x is not None]
    apart = measure == "angular"
    low = min(every, default=0.0)
    heat = go.Heatmap(
        x=labels, y=labels, z=values, colorscale=SCALE, reversescale=apart, xgap=1, ygap=1,
        zmin=0.0 if apart else min(low, 0.99), zmax=max(max(every, default=0.5), 0.01) if apart else 1.0,
        hovertemplate="after %{y} and after %{x}: %{z:.3f}<extra></extra>",
        colorbar={"title": {**titled(escape(MEASURES.get(measure, measure).lower())), "side": "right"}, "thickness": 10, "outlinewidth": 0, "len": 0.96},
    )  # fmt: skip
    if len(labels) <= 9:
        heat.update(
            text=[["" if x is None else f"{x:.2f}".replace("0.", ".") for x in row] for row in values],
            texttemplate="%{text}",
            textfont={"size": 10},
        )
    if len(labels) > 20:
        heat.update(xgap=0, ygap=0)
    figure = go.Figure(heat)
    figure.update_layout(margin={**MARGIN, "r": 4})
    figure.update_xaxes(title=titled("after block"), type="category", showgrid=False, constrain="domain", nticks=14, tickangle=0)
    figure.update_yaxes(
        title=titled("after block"), type="category", autorange="reversed", showgrid=False, scaleanchor="x", constrain="domain", nticks=14
    )  # fmt: skip
    return figure


def similarity_finding(data: Observations, measure: str = "cosine") -> str:
    """The two borders whose hidden states are most alike, in a sentence."""
    names, values = _compared(data, measure)
    pairs = [(value, a, b) for a, row in enumerate(values) for b, value in enumerate(row) if b > a and value is not None]
    if not pairs:
        return "Block similarity was not measured"
    value, a, b = min(pairs) if measure == "angular" else max(pairs)
    after = [f"block {names[i]}" if names[i] != "input" else "the embedding" for i in (a, b)]
    word = {"cosine": "cosine", "angular": "angular distance", "cka": "CKA"}.get(measure, measure)
    return f"The hidden states after {after[0]} and after {after[1]} are most alike ({word} {value:.2f})"


def similarity_table(data: Observations, measure: str = "cosine") -> pd.DataFrame:
    """The table twin of the similarity map."""
    labels, values = _compared(data, measure)
    return pd.DataFrame([[name, *row] for name, row in zip(labels, values, strict=True)], columns=["after", *labels])
