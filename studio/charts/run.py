"""Figures of one run. Pure: data in, plotly Figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from studio.theme import COLOURS, SEQUENCE


def live_figure(curves: Mapping[str, Sequence[tuple[float, float]]]) -> go.Figure | None:
    """What a run has told while it works: one line a figure over its seconds; two figures share the picture by two axes. None: nothing yet."""
    told = [(name, points) for name, points in curves.items() if points][:2]
    if not told:
        return None
    figure = go.Figure()
    for number, (name, points) in enumerate(told):
        label = name.replace("_", " ")
        x, y = zip(*points, strict=True)
        figure.add_scatter(
            x=x, y=y, name=label, mode="lines+markers", line={"color": SEQUENCE[number], "width": 2}, marker={"size": 5},
            yaxis="y" if number == 0 else "y2", hovertemplate=f"%{{x:.1f}} s<br>{label} %{{y:.4g}}<extra></extra>",
        )  # fmt: skip
    axes: dict[str, Any] = {"yaxis": {"title": {"text": told[0][0].replace("_", " ")}}}
    if len(told) > 1:
        axes["yaxis2"] = {"title": {"text": told[1][0].replace("_", " ")}, "overlaying": "y", "side": "right", "showgrid": False}
    figure.update_layout(
        xaxis={"title": {"text": "seconds since the start"}},
        margin={"l": 60, "r": 60 if len(told) > 1 else 16, "t": 16, "b": 44},
        legend={"orientation": "h", "y": 1.12, "x": 0},
        showlegend=len(told) > 1,
        **axes,
    )
    return figure


def layers_figure(layers: Sequence[Mapping[str, Any]]) -> go.Figure | None:
    """A bar a layer: the share of its weights (or units) that is now zero, and where it was told, the error in its output. None: no layers."""
    if not layers:
        return None
    names = [str(layer["name"]) for layer in layers]
    figure = go.Figure()
    figure.add_bar(
        x=names, y=[100 * float(layer["sparsity"]) for layer in layers], name="removed", marker={"color": COLOURS["pruned"]},
        hovertemplate="%{x}<br>%{y:.1f} % removed<extra></extra>",
    )  # fmt: skip
    errors = [layer.get("output_error") for layer in layers]
    if any(error is not None for error in errors):
        figure.add_scatter(
            x=names, y=errors, name="output error", yaxis="y2", mode="lines+markers", line={"color": COLOURS["dense"], "width": 1.5},
            marker={"size": 4}, hovertemplate="%{x}<br>output error %{y:.3g}<extra></extra>",
        )  # fmt: skip
        figure.update_layout(
            yaxis2={
                "title": {"text": "output error"},
                "overlaying": "y",
                "side": "right",
                "showgrid": False,
                "rangemode": "tozero",
            }
        )
    figure.update_layout(
        yaxis={"title": {"text": "% removed"}, "range": [0, 100]},
        xaxis=layer_axis(names),
        margin={"l": 56, "r": 60 if len(figure.data) > 1 else 16, "t": 28, "b": 56},
        legend={"orientation": "h", "y": 1.12, "x": 0},
        bargap=0.15,
    )
    return figure


def layer_axis(names: Sequence[str]) -> dict[str, Any]:
    """The axis of a picture with a mark a layer: a few layers by name; many by a tick where each block (or each few blocks) begins."""
    if len(names) <= 16:
        return {"title": {"text": "layers, first to last"}, "tickangle": -40, "showgrid": False}
    first: dict[str, str] = {}
    for name in names:
        parts = name.split(".")
        if parts[0] == "blocks" and len(parts) > 2:
            first.setdefault(parts[1], name)
    every = list(first.items())[:: max(len(first) // 15, 1)]
    ticks = {
        "tickmode": "array",
        "tickvals": [name for _, name in every],
        "ticktext": [block for block, _ in every],
        "tickangle": 0,
    }
    words = "layers, first to last; ticks where a block begins" if every else "layers, first to last"
    return {"title": {"text": words, "font": {"size": 12}}, "showticklabels": bool(every), "showgrid": False, **ticks}
