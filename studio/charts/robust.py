"""Image models side by side: accuracy on images made worse, and where features lie. Pure: what core.compare reads goes in, a Picture comes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from core.compare import Side, lettered, measured_alike
from studio.charts.compare import MARGIN, Picture
from studio.theme import COLOURS, SEQUENCE


def corruptions(found: Sequence[Side]) -> Picture:
    """Accuracy on images made worse, a bar a model and kind, mean over the severities."""
    models = _with_dense(found, "corruptions")
    if not models:
        return Picture("No run here measured corruptions: put measure: {corruptions: {}} into a recipe for an image classifier.")
    kinds = [kind for kind in models[0][1] if kind != "clean"]
    figure, rows, drops = go.Figure(), [], []
    for name, told, colour in models:
        means = [float(np.mean(list(told[kind].values()))) if kind in told else None for kind in kinds]
        figure.add_bar(
            x=["clean", *kinds], y=[100 * told["clean"], *(None if x is None else 100 * x for x in means)], name=escape(name), marker={"color": colour},
            hovertemplate="%{x}: %{y:.1f} %<extra></extra>",
        )  # fmt: skip
        rows += [(name, "clean", "", f"{100 * told['clean']:.1f}")]
        rows += [(name, kind, str(at), f"{100 * share:.1f}") for kind in kinds for at, share in told.get(kind, {}).items()]
        drops += [(told["clean"] - mean, name, kind) for kind, mean in zip(kinds, means, strict=True) if mean is not None]
    figure.update_layout(
        barmode="group", yaxis={"title": {"text": "accuracy (%)"}, "range": [0, 102]}, legend={"orientation": "h", "y": 1.16, "x": 0}, margin=MARGIN,
    )  # fmt: skip
    fall, name, kind = max(drops)
    who = "The dense model" if name == "dense" else name.split(" · ")[0]
    finding = f"{who} falls most under {kind}: {100 * fall:.0f} points below its clean accuracy"
    return Picture(finding, figure, ("Model", "Corruption", "Severity", "Accuracy %"), tuple(rows))


_GEOMETRY = {
    "angle": "angle to own class (°)",
    "norm": "feature norm",
    "margin": "margin to the nearest border",
    "turned": "turned away from dense (°)",
}


def geometry(found: Sequence[Side]) -> Picture:
    """Boxes of angle, norm and margin of the features (5, 25, 50, 75, 95 %), a box a model."""
    models = _with_dense(found, "geometry")
    if not models:
        return Picture("No run here measured geometry: put measure: {geometry: {}} into a recipe for an image classifier.")
    shown = [key for key in _GEOMETRY if any(key in told for _, told, _ in models)]
    figure, rows = go.Figure(), []
    for at, key in enumerate(shown, 1):
        axis = "" if at == 1 else str(at)
        for name, told, colour in models:
            if key not in told:
                continue
            low, q1, median, q3, high = told[key]["at"]
            figure.add_box(
                x=[name.split(" · ")[0]], lowerfence=[low], q1=[q1], median=[median], q3=[q3], upperfence=[high], name=escape(name), legendgroup=name,
                showlegend=at == 1, marker={"color": colour}, xaxis=f"x{axis}", yaxis=f"y{axis}",
            )  # fmt: skip
            rows.append((name, _GEOMETRY[key], *(f"{x:.3g}" for x in told[key]["at"])))
        left = (at - 1) / len(shown)
        figure.update_layout({
            f"xaxis{axis}": {"domain": [left, left + 0.82 / len(shown)], "anchor": f"y{axis}", "title": {"text": _GEOMETRY[key], "font": {"size": 12}}},
            f"yaxis{axis}": {"anchor": f"x{axis}", "title": {"text": ""}},
        })  # fmt: skip
    figure.update_layout(legend={"orientation": "h", "y": 1.14, "x": 0}, margin={**MARGIN, "l": 40})
    return Picture(_turn(models), figure, ("Model", "Figure", "5 %", "25 %", "median", "75 %", "95 %"), tuple(rows))


def _turn(models: Sequence[tuple[str, Mapping[str, Any], str]]) -> str:
    """The finding of the geometry: the smallest median margin against the dense model's, and how far that one's features turned."""
    dense = models[0] if models[0][0] == "dense" else None
    name, told, _ = min((one for one in models if one is not dense), key=lambda one: one[1]["margin"]["at"][2])
    words = f"Half of the images keep a margin of {told['margin']['at'][2]:.2f} or more in {name.split(' · ')[0]}"
    words += f", and {dense[1]['margin']['at'][2]:.2f} in the dense model" if dense else ""
    return words + (f"; features have turned by {told['turned']['at'][2]:.0f}° (median)" if "turned" in told else "")


def _with_dense(found: Sequence[Side], key: str) -> list[tuple[str, Mapping[str, Any], str]]:
    """(name, figures, colour) of the dense model and of each final one, where they were measured alike."""
    names = lettered(found)
    return [
        (name, at, COLOURS["dense"]) if n is None else (names[n], at, SEQUENCE[n]) for name, n, at in measured_alike(found, key)
    ]
