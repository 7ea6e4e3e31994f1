"""Figures of one run. Pure: data in, plotly Figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from studio.theme import COLOURS


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


def layers_finding(layers: Sequence[Mapping[str, Any]]) -> str:
    """Where most and least went; and where the output suffered most, where that was told."""
    if not layers:
        return ""
    share = {str(layer["name"]): 100 * float(layer["sparsity"]) for layer in layers}
    most, least = max(share, key=share.__getitem__), min(share, key=share.__getitem__)
    if share[most] - share[least] < 0.5:
        said = f"Every layer gave about {share[most]:.0f} %"
    else:
        said = f"{most} gave most ({share[most]:.0f} %), {least} least ({share[least]:.0f} %)"
    errors = {str(layer["name"]): layer["output_error"] for layer in layers if layer.get("output_error") is not None}
    if errors:
        worst = max(errors, key=errors.__getitem__)
        said += f"; the output of {worst} suffered most (error {errors[worst]:.2g})"
    return said


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
