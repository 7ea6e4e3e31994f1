"""Figures of two runs side by side. Pure: data in, plotly Figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from studio.charts.run import layer_axis
from studio.theme import SEQUENCE

Layers = Sequence[Mapping[str, Any]]


def sparsity_figure(first: Layers, second: Layers, names: tuple[str, str]) -> go.Figure | None:
    """Two steps a layer: the share removed in either run. Layers that only one of them has stand too. None where neither has layers."""
    order = list(dict.fromkeys([str(layer["name"]) for layer in (*first, *second)]))
    if not order:
        return None
    figure = go.Figure()
    for number, (name, layers) in enumerate(zip(names, (first, second), strict=True)):
        shares = {str(layer["name"]): 100 * float(layer["sparsity"]) for layer in layers}
        figure.add_scatter(
            x=order, y=[shares.get(layer) for layer in order], name=("A: ", "B: ")[number] + name, mode="lines+markers",
            line={"color": SEQUENCE[number], "width": 2, "shape": "hvh", "dash": ("solid", "dot")[number]},
            marker={"size": 6, "symbol": ("circle", "diamond")[number]}, hovertemplate="%{x}<br>%{y:.1f} % removed<extra></extra>",
        )  # fmt: skip
    figure.update_layout(
        yaxis={"title": {"text": "% removed"}, "range": [0, 100]},
        xaxis=layer_axis(order),
        legend={"orientation": "h", "y": 1.14, "x": 0},
        margin={"l": 56, "r": 16, "t": 32, "b": 56},
    )
    return figure
