"""One matrix from close by: the directions it uses, what it is given, and single weights that carry spikes. Pure functions, no screen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from itertools import pairwise
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from studio.charts.xray import MARGIN, label, titled
from studio.theme import COLOURS, SEQUENCE

Answer = Mapping[str, Any]


def spectrum_lines(answer: Answer) -> go.Figure:
    """Singular values, largest first, with the effective rank and the cut: the rank that two factors of the budget's size could have."""
    line = go.Scatter(x=answer["ranks"], y=answer["values"], mode="lines", line={"color": COLOURS["accent"], "width": 2.5}, fill="tozeroy",
                      fillcolor="rgba(47,148,101,.14)", hovertemplate="direction %{x}: %{y:.3g}<extra></extra>", showlegend=False)  # fmt: skip
    figure = go.Figure(line)
    marks = [(answer["effective_rank"], "effective rank", COLOURS["muted"], 0.98)]
    if answer.get("cut"):
        marks.append((answer["cut"], "cut", COLOURS["warn"], 0.86))
    for at, name, colour, height in marks:
        figure.add_vline(x=at, line={"color": colour, "width": 2, "dash": "dot"})
        figure.add_annotation(x=at, y=height, yref="paper", text=f"{name} {at:.0f}", showarrow=False, font={"size": 11},
                              xanchor="left" if at < 0.6 * answer["full_rank"] else "right", xshift=5 if at < 0.6 * answer["full_rank"] else -5)  # fmt: skip
    figure.update_layout(margin=MARGIN)
    figure.update_xaxes(title=titled("direction, the strongest first"), showgrid=False, rangemode="tozero")
    figure.update_yaxes(title=titled("singular value"), rangemode="tozero")
    return figure


def spectrum_finding(answer: Answer) -> str:
    full, used = answer["full_rank"], answer["effective_rank"]
    said = f"{answer['name']} uses {used:.0f} of its {full} directions (effective rank)"
    if answer.get("share"):
        cut = answer["cut"]
        said += f"; two factors of the budget's size could keep {cut}, with {100 * answer['kept']:.0f} % of the energy"
    return said


def spectrum_table(answer: Answer) -> pd.DataFrame:
    return pd.DataFrame({"Direction": answer["ranks"], "Singular value": answer["values"]})


def activation_bars(answer: Answer) -> go.Figure | None:
    """The values that a layer is given, by size; counts are logarithmic, so that the few large ones show. None where they were not collected."""
    found = answer.get("activations")
    if not found:
        return None
    edges, counts = found["histogram"]["edges"], found["histogram"]["counts"]
    middles = [(a + b) / 2 for a, b in pairwise(edges)]
    figure = go.Figure(go.Bar(x=middles, y=[count or None for count in counts], marker={"color": COLOURS["accent"], "line": {"width": 0}},
                              hovertemplate="near %{x:.3g}: %{y:,}<extra></extra>"))  # fmt: skip
    figure.update_layout(margin=MARGIN, bargap=0.04)
    figure.update_xaxes(title=titled("value that the layer is given"), showgrid=False, zeroline=False)
    figure.update_yaxes(title=titled("how many"), type="log", dtick=1)
    return figure


def activation_finding(answer: Answer) -> str:
    found = answer.get("activations")
    if not found:
        return "What this layer is given was not collected"
    place, size = found["loudest"][0]
    times = size / found["median"] if found["median"] > 0 else math.inf
    if times < 4:
        return f"No input feature stands out: the loudest, {place}, is {times:.1f} times the median"
    return (
        f"Input feature {place} is {times:.0f} times as loud as the median one"
        if math.isfinite(times)
        else f"Input feature {place} alone is ever loud"
    )


def spike_table(answer: Answer) -> pd.DataFrame:
    rows = [[s["layer"], s["row"], s["column"], s["weight"], s["input"], s["output"]] for s in answer["spikes"]]
    return pd.DataFrame(rows, columns=["Layer", "Row", "Column", "Weight", "Its input", "Its output"])


def spike_dots(answer: Answer) -> go.Figure | None:
    """A dot a weight: how large its input is at one token, and the output that it feeds. None where there is no spike."""
    found = answer["spikes"]
    if not found:
        return None
    layers = list(dict.fromkeys(s["layer"] for s in found))
    figure = go.Figure([
        go.Scatter(
            x=[abs(s["input"]) for s in found if s["layer"] == layer], y=[abs(s["output"]) for s in found if s["layer"] == layer], mode="markers",
            name=escape(layer), text=[f"[{s['row']}, {s['column']}]" for s in found if s["layer"] == layer],
            marker={"size": 12, "color": SEQUENCE[place % len(SEQUENCE)]}, hovertemplate="%{text}<br>input %{x:.0f}, output %{y:.0f}<extra></extra>",
        )
        for place, layer in enumerate(layers)
    ])  # fmt: skip
    for axis in ("x", "y"):
        line = {"color": COLOURS["muted"], "width": 1.5, "dash": "dot"}
        (figure.add_vline(answer["threshold"], line=line) if axis == "x" else figure.add_hline(answer["threshold"], line=line))
    figure.update_layout(margin={**MARGIN, "t": 34}, showlegend=True, legend={"orientation": "h", "y": 1.14, "x": 0})
    figure.update_xaxes(title=titled("size of its input"), rangemode="tozero")
    figure.update_yaxes(title=titled("size of the output it feeds"), rangemode="tozero")
    return figure


def spike_finding(answer: Answer) -> str:
    found = answer["spikes"]
    if not found:
        return f"No super weight: nothing above {answer['threshold']:g} goes through an MLP"
    at = f"{found[0]['layer']}[{found[0]['row']}, {found[0]['column']}]"
    if not answer["super"]:
        return f"No super weight at the paper's threshold of 50; the largest spike goes through {at}"
    many = len(found) != 1
    return f"{len(found)} super weight{'s' if many else ''}; the largest spike, {found[0]['output']:.0f}, goes through {at}"


def score_bars(answer: Answer) -> go.Figure | None:
    """How many weights have each score, on a logarithmic axis. None where all scores are zero."""
    edges, counts = answer["histogram"]["edges"], answer["histogram"]["counts"]
    if len(counts) < 2:
        return None
    middles = [(a + b) / 2 for a, b in pairwise(edges)]
    bars = go.Bar(x=[10.0**x for x in middles], y=counts, width=[10.0**b - 10.0**a for a, b in pairwise(edges)],
                  marker={"color": COLOURS["accent"], "line": {"width": 0}}, hovertemplate="near %{x:.3g}: %{y:,.0f}<extra></extra>")  # fmt: skip
    figure = go.Figure(bars)
    figure.update_layout(margin={**MARGIN, "l": 56})
    figure.update_xaxes(
        title=titled(f"{label(answer['metric'])} of a weight"), type="log", exponentformat="power", showgrid=False, nticks=7
    )
    figure.update_yaxes(title=titled("how many"), rangemode="tozero")
    return figure


def score_finding(answer: Answer) -> str:
    """How wide the scores of single weights lie, in a sentence."""
    edges, counts = answer["histogram"]["edges"], answer["histogram"]["counts"]
    total = sum(counts)
    if not total:
        return f"Every weight's {label(answer['metric'])} score is zero"
    running, middle = 0.0, edges[0]
    for place, count in enumerate(counts):
        running += count
        if running >= total / 2:
            middle = edges[place + 1]
            break
    zeros = f"; {answer['zeros']:,} are zero" if answer["zeros"] else ""
    return f"The highest {label(answer['metric'])} score is {10 ** (edges[-1] - middle):.0f} times the median{zeros}"
