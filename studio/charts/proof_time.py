"""A proof against the clock, choosing and teaching counted. Pure: lines in, a Picture out."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from core import proof
from studio.charts.compare import Picture
from studio.charts.proof import LEGEND, LOOKS, MARGIN, Line, axis_of, name_of, percent, selectors, ticks, written
from studio.theme import COLOURS

TIME_HEADERS = ("Kept", "Chosen by", "Seconds to the goal", "Of it before training", "Seeds that reached it")


def time_to(lines: Sequence[Line], label: str, share: float) -> Picture:
    """The figure against seconds, choice and teacher counted: curves at the share nearest to `share`; without epochs, a point a share."""
    key, target = proof.measure(lines), proof.target_of(lines)
    timed = [line for line in lines if line.get("history")]
    if target is None or not timed:
        return Picture("This proof took no times: prove it again to see them")
    scale = 1.0 if key == "perplexity" else 100.0
    near = min({line["share"] for line in lines if line["selector"] != "all"}, key=lambda one: abs(one - share))
    curves = any(len(line["history"]) > 1 for line in timed)
    figure = go.Figure()
    for who in [*selectors(timed), "all"]:
        mine = [line for line in timed if line["selector"] == who and (not curves or line["share"] in (near, 1.0))]
        points = _curve(mine) if curves else _points(mine)
        colour, symbol = LOOKS.get(who, (COLOURS["accent"], "diamond"))
        name = escape(name_of(who, label))
        figure.add_scatter(
            x=[at[0] for at in points], y=[scale * at[1] for at in points], mode="lines+markers", name=name, line={"color": colour, "width": 2},
            marker={"color": colour, "size": 6 if curves else 9, "symbol": symbol}, hovertemplate=f"{name}: %{{x:.2f}} s, %{{y:.4g}}<extra></extra>",
        )  # fmt: skip
    figure.add_hline(y=scale * target, line={"color": COLOURS["muted"], "dash": "dot", "width": 1.5},
                     annotation={"text": f"goal {scale * target:.1f}", "font": {"size": 12}}, annotation_position="top left")  # fmt: skip
    figure.update_layout(
        margin=MARGIN,
        legend=LEGEND,
        xaxis={"type": "log", "title": {"text": "Seconds: choosing, teaching and training", "font": {"size": 12}}, **ticks(1e-3, 1e5)},
        yaxis={"title": {"text": axis_of(key), "font": {"size": 12}}},
    )  # fmt: skip
    times = proof.times(lines, target)
    table = tuple(
        (percent(one["share"]), name_of(one["selector"], label), "never" if one["seconds"] is None else f"{one['seconds']:.2f}",
         f"{one['before']:.2f}", f"{one['reached']} of {one['seeds']}") for one in times
    )  # fmt: skip
    return Picture(_time_finding(times, target, key, label), figure, TIME_HEADERS, table)


def _curve(lines: Sequence[Line]) -> list[tuple[float, float]]:
    """Means over seeds at each moment."""
    count = min((len(line["history"]) for line in lines), default=0)
    return [
        (float(np.mean([proof.cost(line) + line["history"][at][1] for line in lines])), float(np.mean([line["history"][at][2] for line in lines])))
        for at in range(count)
    ]  # fmt: skip


def _points(lines: Sequence[Line]) -> list[tuple[float, float]]:
    """A point a share: means over seeds."""
    shares = sorted({line["share"] for line in lines})
    return [_curve([line for line in lines if line["share"] == share])[-1] for share in shares]


def _time_finding(times: Sequence[dict[str, Any]], target: float, key: str, label: str) -> str:
    """Who is first at the goal, with which share, and what all rows take."""
    done = [one for one in times if one["seconds"] is not None and one["selector"] != "all"]
    whole = next((one["seconds"] for one in times if one["selector"] == "all"), None)
    goal, last = written(target, key), f"all rows take {_seconds(whole)}" if whole is not None else "all rows do not always"
    if not done:
        return f"No share reaches {goal} on every seed; {last}"
    best = min(done, key=lambda one: one["seconds"])
    words = f"{name_of(best['selector'], label)} is first at {goal}: {percent(best['share'])} of the rows, {_seconds(best['seconds'])}; {last}"
    mine = [one for one in done if one["selector"] not in LOOKS]
    if mine and best["selector"] in LOOKS:
        own = min(mine, key=lambda one: one["seconds"])
        words += f", {label} {_seconds(own['seconds'])}, {_seconds(own['before'])} of it choosing"
    return words


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 60 else f"{value / 60:.1f} min"
