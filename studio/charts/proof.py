"""A proof in pictures: accuracy against share, and error against rows (against seconds: proof_time). Pure: lines in, a Picture out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from core import proof
from studio.charts.compare import Picture
from studio.theme import COLOURS, SEQUENCE

MARGIN = {"l": 62, "r": 16, "t": 16, "b": 50}
HEADERS = ("Kept", "Chosen by", "Rows", "Mean", "Low", "High", "Against random", "Seeds", "Seconds")
LAW_HEADERS = ("Chosen by", "a", "b", "c", "Explained %", "What it says")
LOOKS = {  # colour, symbol: told apart without colour too
    "random": (COLOURS["muted"], "circle"),
    "rs2": (SEQUENCE[2], "square"),
    "random + distillation": (SEQUENCE[3], "triangle-up"),
    "opposite": (SEQUENCE[4], "diamond-open"),
    "all": (COLOURS["warn"], "star"),
}
_NAMES = {"random": "Random", "rs2": "RS2", "random + distillation": "Random + distillation", "all": "All rows"}
LEGEND = {"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0, "font": {"size": 12}}
Line = Mapping[str, Any]


def name_of(who: str, label: str) -> str:
    """A selector as a person reads it; `label`: the recipe's own choice."""
    return "Its other end" if who == "opposite" else _NAMES.get(who, label)


def accuracy(lines: Sequence[Line], label: str, share: float) -> Picture:
    """The figure against the share kept: means over seeds with their 95 % intervals, a dot a seed, all rows as a level with its band."""
    table, key = proof.summary(lines), proof.measure(lines)
    scale = 1.0 if key == "perplexity" else 100.0
    figure = go.Figure()
    for at, who in enumerate(selectors(lines)):
        colour, symbol = LOOKS.get(who, (COLOURS["accent"], "diamond"))
        part = [one for one in table if one["selector"] == who]
        nudge = 1 + 0.018 * (at - (len(selectors(lines)) - 1) / 2)  # intervals beside each other, not on top of each other
        up = [scale * (one["high"] - one["mean"]) if one["high"] is not None else 0 for one in part]
        name, x = escape(name_of(who, label)), [100 * one["share"] * nudge for one in part]
        figure.add_scatter(
            x=x, y=[scale * one["mean"] for one in part], mode="lines+markers", name=name, line={"color": colour, "width": 2.5},
            marker={"color": colour, "size": 9, "symbol": symbol}, error_y={"array": up, "thickness": 1.2, "width": 3, "color": colour},
            customdata=[percent(one["share"]) for one in part], hovertemplate=f"{name}, %{{customdata}} kept: %{{y:.4g}}<extra></extra>",
        )  # fmt: skip
        dots = [
            (100 * one["share"] * nudge, scale * one[key]) for one in lines if one["selector"] == who and one.get(key) is not None
        ]
        figure.add_scatter(
            x=[dot[0] for dot in dots], y=[dot[1] for dot in dots], mode="markers", showlegend=False, hoverinfo="skip",
            marker={"color": colour, "size": 5, "opacity": 0.45, "symbol": symbol},
        )  # fmt: skip
    _level(figure, table, scale)
    shares = sorted({one["share"] for one in table if one["selector"] != "all"})
    figure.update_layout(
        margin=MARGIN,
        legend=LEGEND,
        xaxis={"type": "log", "title": {"text": "Share of rows kept (%)", "font": {"size": 12}}, "tickvals": [100 * at for at in shares],
               "ticktext": [f"{100 * at:.3g}" for at in shares]},
        yaxis={"title": {"text": axis_of(key), "font": {"size": 12}}, "range": _range(lines, table, key, scale)},
    )  # fmt: skip
    return Picture(finding(lines, label, share), figure, HEADERS, tuple(rows(lines, label)))


def _range(lines: Sequence[Line], table: Sequence[dict[str, Any]], key: str, scale: float) -> list[float]:
    """What the seeds span. Intervals of two or three seeds may be far wider; they run off the picture, and the table tells them."""
    seen = [scale * one[key] for one in lines if one.get(key) is not None] + [scale * one["mean"] for one in table]
    room = max(0.12 * (max(seen) - min(seen)), 0.5)
    return [min(seen) - room, max(seen) + room]


def _level(figure: go.Figure, table: Sequence[dict[str, Any]], scale: float) -> None:
    """All rows: a dashed level, and its interval as a band."""
    whole = next((one for one in table if one["selector"] == "all"), None)
    if whole is None:
        return
    if whole["low"] is not None:
        figure.add_hrect(y0=scale * whole["low"], y1=scale * whole["high"], fillcolor=COLOURS["warn"], opacity=0.1, line_width=0)
    figure.add_hline(
        y=scale * whole["mean"], line={"color": COLOURS["warn"], "dash": "dash", "width": 1.5},
        annotation={"text": f"all rows {scale * whole['mean']:.1f}", "font": {"size": 12}}, annotation_position="top left",
    )  # fmt: skip


def finding(lines: Sequence[Line], label: str, share: float) -> str:
    """Does the choice beat chance at this share (or the proven one nearest to it)? The paired difference with its interval over seeds."""
    key, chosen = proof.measure(lines), chosen_of(lines)
    near = min({line["share"] for line in lines if line["selector"] != "all"}, key=lambda one: abs(one - share))
    chance = proof.figures(lines, "random", near)
    gap = proof.paired(proof.figures(lines, chosen, near), chance) if chosen else None
    if gap is None:
        mean = proof.interval(list(chance.values()))[0]
        return f"A random {percent(near)} reaches {written(mean, key)}"
    return f"At {percent(near)} kept, {_verdict(gap, key, label)}"


def _verdict(gap: tuple[float, float | None, float | None, int], key: str, label: str) -> str:
    scale, unit = (1.0, "of perplexity") if key == "perplexity" else (100.0, "points")
    mean, low, high, seeds = gap
    if low is None or high is None:
        return f"{label} is {abs(scale * mean):.1f} {unit} {'above' if mean > 0 else 'below'} random, over 1 seed only"
    spread = f"{scale * low:+.1f} to {scale * high:+.1f}"
    if not proof.clear(gap):
        return f"{label} and random cannot be told apart ({spread} {unit}) over {seeds} seeds"
    better = (mean > 0) != (key == "perplexity")
    return f"{label} {'beats' if better else 'loses to'} random by {abs(scale * mean):.1f} {unit} ({spread}) over {seeds} seeds"


def rows(lines: Sequence[Line], label: str) -> list[tuple[str, ...]]:
    """The table twin: a line a share and selector."""
    key = proof.measure(lines)
    out = []
    for one in proof.summary(lines):
        ends = ["" if one[end] is None else _cell(one[end], key) for end in ("low", "high")]
        gap = "" if one["difference"] is None else _signed(one["difference"], key)
        if one["difference_low"] is not None:
            gap += f" ({_signed(one['difference_low'], key)} to {_signed(one['difference_high'], key)})"
        seconds = "" if one["seconds"] is None else f"{one['seconds']:.2f}"
        out.append((percent(one["share"]), name_of(one["selector"], label), f"{one['rows']:,}", _cell(one["mean"], key), *ends, gap,
                    str(one["seeds"]), seconds))  # fmt: skip
    return out


def scaling(lines: Sequence[Line], told: Mapping[str, Any], label: str) -> Picture:
    """Error against rows, both on log axes: points of each size, and the power law where it fits (dotted where it fits poorly)."""
    laws = told.get("power_laws") or {}
    if not laws:
        return Picture("This proof fitted no law: prove it again to see one")
    figure, table = go.Figure(), []
    for who, law in laws.items():
        sizes, errors, _ = proof.error_points(lines, who)
        colour, symbol = LOOKS.get(who, (COLOURS["accent"], "diamond"))
        name = escape(name_of(who, label))
        figure.add_scatter(x=sizes, y=errors, mode="markers", name=name, marker={"color": colour, "size": 10, "symbol": symbol},
                           hovertemplate=f"{name}: %{{x:,}} rows, error %{{y:.3g}}<extra></extra>")  # fmt: skip
        if law["a"] is not None:
            x = np.geomspace(min(sizes), 2 * max(sizes), 60)
            line = {"color": colour, "width": 2, "dash": "solid" if law["good"] else "dot"}
            figure.add_scatter(
                x=x, y=law["a"] * x ** -law["b"] + law["c"], mode="lines", line=line, showlegend=False, hoverinfo="skip"
            )
        numbers = ["" if law[key] is None else f"{max(law[key], 1e-9):.3g}".replace("1e-09", "0") for key in ("a", "b", "c")]
        share = "" if law["explained"] is None else f"{100 * law['explained']:.0f}"
        table.append((name_of(who, label), *numbers, share, law["words"]))
    word = "Loss (nats a token)" if proof.measure(lines) == "perplexity" else "Share of wrong answers"
    figure.update_layout(
        margin=MARGIN,
        legend=LEGEND,
        xaxis={"type": "log", "title": {"text": "Rows trained on", "font": {"size": 12}}, **ticks(sizes[0], 2 * sizes[-1])},
        yaxis={"type": "log", "title": {"text": word, "font": {"size": 12}}, **ticks(1e-4, 20)},
    )
    half = (told.get("half_life") or {}).get("words")
    if half:
        table.append(("Repeating", "", "", "", f"{100 * (told['half_life'].get('explained') or 0):.0f}", half))
    first = next(iter(laws.values()))
    return Picture((told.get("regime") or f"{label}: {first['words']}").rstrip("."), figure, LAW_HEADERS, tuple(table))


def selectors(lines: Sequence[Line]) -> list[str]:
    """Who is drawn, the recipe's choice last, so that it lies on top."""
    who = {line["selector"] for line in lines} - {"all"}
    return [name for name in LOOKS if name in who] + [
        name for name in dict.fromkeys(line["selector"] for line in lines) if name not in LOOKS
    ]


def chosen_of(lines: Sequence[Line]) -> str:
    return next((line["selector"] for line in lines if line["selector"] not in LOOKS), "")


def ticks(low: float, high: float) -> dict[str, Any]:
    """Ticks of a log axis at 1, 2 and 5 of each decade, each by its whole name."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    values = [step * 10.0**power for power in powers for step in (1, 2, 5)]
    return {
        "tickvals": values,
        "ticktext": [f"{value:,.0f}" if value >= 1 else f"{value:.4g}" for value in values],
        "tickangle": 0,
    }


def axis_of(key: str) -> str:
    return "Held-out perplexity a token (lower is better)" if key == "perplexity" else "Held-out accuracy (%)"


def written(value: float, key: str) -> str:
    return f"a perplexity of {_cell(value, key)}" if key == "perplexity" else _cell(value, key)


def _cell(value: float, key: str) -> str:
    return f"{value:.1f}" if key == "perplexity" else f"{100 * min(max(value, 0.0), 1.0):.1f} %"


def _signed(value: float, key: str) -> str:
    return f"{value:+.1f}" if key == "perplexity" else f"{100 * value:+.1f}"


def percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.095 or share == 0 else f"{100 * share:.1f} %"
