"""Image models side by side: accuracy on images made worse, and where features lie. Pure: what core.compare reads goes in, a Picture comes out."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go

from core.compare import Side, told
from studio.charts.compare import MARGIN, Picture
from studio.theme import COLOURS, SEQUENCE


def corruptions(found: Sequence[Side]) -> Picture:
    """Accuracy on images made worse, a bar a model and kind, mean over the severities."""
    said, models = told.corruptions(found), told.models(found, "corruptions")
    if not models:
        return Picture(said.finding)
    kinds, figure = [kind for kind in models[0][2] if kind != "clean"], go.Figure()
    for name, number, at in models:
        means = [float(np.mean(list(at[kind].values()))) if kind in at else None for kind in kinds]
        figure.add_bar(
            x=["clean", *kinds], y=[100 * at["clean"], *(None if x is None else 100 * x for x in means)], name=escape(name),
            marker={"color": _colour(number)}, hovertemplate="%{x}: %{y:.1f} %<extra></extra>",
        )  # fmt: skip
    figure.update_layout(
        barmode="group", yaxis={"title": {"text": "accuracy (%)"}, "range": [0, 102]}, legend={"orientation": "h", "y": 1.16, "x": 0}, margin=MARGIN,
    )  # fmt: skip
    return Picture(said.finding, figure, said.headers, said.rows)


def geometry(found: Sequence[Side]) -> Picture:
    """Boxes of angle, norm and margin of the features (5, 25, 50, 75, 95 %), a box a model."""
    said, models = told.geometry(found), told.models(found, "geometry")
    if not models:
        return Picture(said.finding)
    shown, figure = [key for key in told.GEOMETRY if any(key in at for _, _, at in models)], go.Figure()
    for at, key in enumerate(shown, 1):
        axis = "" if at == 1 else str(at)
        for name, number, figures in models:
            if key not in figures:
                continue
            low, q1, median, q3, high = figures[key]["at"]
            figure.add_box(
                x=[name.split(" · ")[0]], lowerfence=[low], q1=[q1], median=[median], q3=[q3], upperfence=[high], name=escape(name), legendgroup=name,
                showlegend=at == 1, marker={"color": _colour(number)}, xaxis=f"x{axis}", yaxis=f"y{axis}",
            )  # fmt: skip
        left = (at - 1) / len(shown)
        figure.update_layout({
            f"xaxis{axis}": {"domain": [left, left + 0.82 / len(shown)], "anchor": f"y{axis}", "title": {"text": told.GEOMETRY[key], "font": {"size": 12}}},
            f"yaxis{axis}": {"anchor": f"x{axis}", "title": {"text": ""}},
        })  # fmt: skip
    figure.update_layout(legend={"orientation": "h", "y": 1.14, "x": 0}, margin={**MARGIN, "l": 40})
    return Picture(said.finding, figure, said.headers, said.rows)


def _colour(number: int | None) -> str:
    return COLOURS["dense"] if number is None else SEQUENCE[number]
