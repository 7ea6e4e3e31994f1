"""What a run tells while it works, by block and by step. Pure: events in, plotly Figure out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from studio.theme import COLOURS

# figure in the events -> (its axis, axis below, colour, sentence)
PANELS = {
    "running_perplexity": (
        "perplexity so far",
        "blocks or layers pruned",
        COLOURS["pruned"],
        "Perplexity went from {0} to {1} after {2} of {3} blocks or layers",
    ),
    "running_accuracy": (
        "accuracy so far",
        "blocks or layers pruned",
        COLOURS["pruned"],
        "Accuracy went from {0} to {1} after {2} of {3} blocks or layers",
    ),
    "loss": (
        "training loss (nats)",
        "steps of recovery",
        COLOURS["recovered"],
        "the loss went from {0} to {1} in {2} of {3} steps",
    ),
}
_SMOOTH = 8  # steps at either end whose mean loss is told
NOTE = "Perplexity so far: of the whole model as it stands, on the first windows of the text that is measured. The figure that counts is taken at the end."


def told(events: Sequence[dict[str, Any]]) -> dict[str, list[tuple[int, float, int]]]:
    """{figure: [(items done, value, items in all), ...]} of the figures that have a panel. A second step of a kind goes on where the first ended."""
    out: dict[str, list[tuple[int, float, int]]] = {}
    for event in events:
        for name, value in (event.get("values") or {}).items():
            if name in PANELS and isinstance(value, (int, float)):
                seen = out.setdefault(name, [])
                base = next(
                    (seen[i][0] for i in range(len(seen) - 1, -1, -1) if seen[i][0] > event["done"] and seen[i][2] == seen[i][0]),
                    0,
                )
                seen.append((base + event["done"], float(value), base + event["total"]))
    return out


def live_figure(points: dict[str, list[tuple[int, float, int]]]) -> go.Figure | None:
    """A panel a figure, side by side. None: nothing yet."""
    shown = [name for name in PANELS if points.get(name)]
    if not shown:
        return None
    figure = go.Figure()
    for at, name in enumerate(shown, 1):
        axis, (label, below, colour, _) = "" if at == 1 else str(at), PANELS[name]
        x, y, totals = zip(*points[name], strict=True)
        figure.add_scatter(
            x=x, y=y, name=label, mode="lines+markers", line={"color": colour, "width": 2}, marker={"size": 6 if len(x) < 40 else 3}, xaxis=f"x{axis}",
            yaxis=f"y{axis}", hovertemplate=f"%{{x}}<br>{label} %{{y:.4g}}<extra></extra>",
        )  # fmt: skip
        left, width = (at - 1) * 1.12 / len(shown), (0.88 if len(shown) > 1 else 1.0) / len(shown)
        figure.update_layout(
            {
                f"xaxis{axis}": {
                    "title": {"text": below},
                    "domain": [left, left + width],
                    "anchor": f"y{axis}",
                    "range": [-0.3, max(totals) + 0.3],
                },
                f"yaxis{axis}": {"title": {"text": label}, "anchor": f"x{axis}"},
            }
        )
    figure.update_layout(margin={"l": 60, "r": 16, "t": 12, "b": 44}, showlegend=False)
    return figure


def finding(points: dict[str, list[tuple[int, float, int]]]) -> str:
    """What the curves say so far, a sentence."""
    out = []
    for name, (_, _, _, words) in PANELS.items():
        if seen := points.get(name):
            mean = _SMOOTH if name == "loss" and len(seen) >= 2 * _SMOOTH else 1  # one batch against another is mostly luck
            ends = [sum(value for _, value, _ in part) / mean for part in (seen[:mean], seen[-mean:])]
            figures = [f"{100 * value:.1f} %" if name == "running_accuracy" else f"{value:.4g}" for value in ends]
            out.append(words.format(*figures, seen[-1][0], seen[-1][2]) + (f" (means of {mean})" if mean > 1 else ""))
    said = "; ".join(out)
    return said[:1].upper() + said[1:]


def rows(points: dict[str, list[tuple[int, float, int]]]) -> list[list[str]]:
    """The curves as a table: figure, items done, value."""
    return [[PANELS[name][0], str(done), f"{value:.5g}"] for name, seen in points.items() for done, value, _ in seen]
