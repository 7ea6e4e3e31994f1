"""Healing on several choices of rows: perplexity against the share of the tokens. Pure: the report's `heal` in, a Picture out."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import plotly.graph_objects as go

from core import proof
from studio.charts.compare import Picture
from studio.charts.proof import LEGEND, LOOKS, MARGIN, name_of, percent
from studio.theme import COLOURS

HEADERS = ("Tokens", "Chosen by", "Rows", "Perplexity", "Low", "High", "Against random", "Seeds", "Seconds")
Found = Mapping[str, Any]


def curves(found: Found, label: str) -> Picture:
    """Means over seeds with their 95 % intervals, a dot a seed, all tokens at the right; the dense model as a level."""
    if not proof.figures(found["lines"], "random") or any(
        level[who] is None for level in found["levels"] for who in ("dense", "pruned")
    ):
        return Picture("No healing gave a finite perplexity: lower the learning rate or remove less", None, HEADERS)
    lines, table, figure = found["lines"], proof.summary(found["lines"]), go.Figure()
    order = [*dict.fromkeys(line["selector"] for line in lines if line["selector"] != "all")][::-1]
    for at, who in enumerate([*order, "all"]):
        colour, symbol = LOOKS.get(who, (COLOURS["accent"], "diamond"))
        part = [one for one in table if one["selector"] == who]
        nudge = (
            1.0 if who == "all" else 1 + 0.03 * (at - (len(order) - 1) / 2)
        )  # intervals beside each other, not on top of each other
        x, name = [100 * one["share"] * nudge for one in part], escape(_name(who, label))
        up = [one["high"] - one["mean"] if one["high"] is not None else 0 for one in part]
        figure.add_scatter(
            x=x, y=[one["mean"] for one in part], mode="lines+markers", name=name, line={"color": colour, "width": 2.5},
            marker={"color": colour, "size": 9, "symbol": symbol}, error_y={"array": up, "thickness": 1.2, "width": 3, "color": colour},
            customdata=[percent(one["share"]) for one in part], hovertemplate=f"{name}, %{{customdata}} of the tokens: %{{y:.2f}}<extra></extra>",
        )  # fmt: skip
        mine = [line for line in lines if line["selector"] == who and line["perplexity"] is not None]
        figure.add_scatter(
            x=[100 * line["share"] * nudge for line in mine], y=[line["perplexity"] for line in mine], mode="markers", showlegend=False, hoverinfo="skip",
            marker={"color": colour, "size": 5, "opacity": 0.45, "symbol": symbol},
        )  # fmt: skip
    _levels(figure, found)
    shares = sorted({one["share"] for one in table})
    figure.update_layout(
        margin=MARGIN,
        legend=LEGEND,
        xaxis={"type": "log", "title": {"text": "Share of the tokens healed with (%)", "font": {"size": 12}}, "tickvals": [100 * at for at in shares],
               "ticktext": [f"{100 * at:.3g}" for at in shares]},
        yaxis={"title": {"text": "Held-out perplexity (lower is better)", "font": {"size": 12}}, "range": _range(found)},
    )  # fmt: skip
    return Picture(finding(found, label), figure, HEADERS, tuple(_rows(found, label)))


def _name(who: str, label: str) -> str:
    return "All tokens" if who == "all" else name_of(who, label)


def _range(found: Found) -> list[float]:
    """What healing spans, and the dense model where it is not far below. The pruned model, often far above, is told in the finding."""
    seen = [line["perplexity"] for line in found["lines"] if line["perplexity"] is not None]
    dense, room = _level(found, "dense"), max(0.15 * (max(seen) - min(seen)), 0.02 * max(seen))
    low = min(seen) - room
    return [min(low, dense - room) if dense > low - 2 * (max(seen) - low) else low, max(seen) + room]


def _levels(figure: go.Figure, found: Found) -> None:
    for who, side in (("dense", "bottom left"), ("pruned", "top left")):
        level = _level(found, who)
        figure.add_hline(y=level, line={"color": COLOURS[who], "dash": "dash", "width": 1.5},
                         annotation={"text": f"{who} {level:.1f}", "font": {"size": 12}}, annotation_position=side)  # fmt: skip


def _level(found: Found, who: str) -> float:
    return float(sum(level[who] for level in found["levels"]) / len(found["levels"]))


def finding(found: Found, label: str) -> str:
    """Does the choice heal better than chance, at the share nearest to a fifth of the tokens?"""
    chosen, lines = found["chosen"], found["lines"]
    near = min({line["share"] for line in lines if line["selector"] != "all"}, key=lambda one: abs(one - 0.2))
    gap = proof.paired(proof.figures(lines, chosen, near), proof.figures(lines, "random", near))
    head = f"With {percent(near)} of the tokens"
    if chosen == "random" or gap is None:
        mean = proof.interval(list(proof.figures(lines, "random", near).values()))[0]
        return f"{head} random rows heal {_level(found, 'pruned'):.1f} to {mean:.1f}"
    mean, low, high, seeds = gap
    if low is None or high is None:
        return f"{head} {label} is {abs(mean):.2f} of perplexity {'above' if mean > 0 else 'below'} random, over 1 seed only"
    spread = f"{low:+.2f} to {high:+.2f} of perplexity, {seeds} seeds"
    if not proof.clear(gap):
        return f"{head} {label} and random rows heal alike ({spread})"
    return f"{head} {label} heals {'worse' if mean > 0 else 'better'} than random rows: {mean:+.2f} ({spread})"


def _rows(found: Found, label: str) -> list[tuple[str, ...]]:
    out = [
        ("", who.capitalize(), "", f"{_level(found, who):.2f}", "", "", "", str(len(found["levels"])), "")
        for who in ("dense", "pruned")
    ]
    for one in proof.summary(found["lines"]):
        ends = ["" if one[end] is None else f"{one[end]:.2f}" for end in ("low", "high")]
        gap = "" if one["difference"] is None or one["selector"] == "all" else f"{one['difference']:+.2f}"
        if gap and one["difference_low"] is not None:
            gap += f" ({one['difference_low']:+.2f} to {one['difference_high']:+.2f})"
        seconds = "" if one["seconds"] is None else f"{one['seconds']:.1f}"
        out.append(
            (
                percent(one["share"]),
                _name(one["selector"], label),
                f"{one['rows']:,}",
                f"{one['mean']:.2f}",
                *ends,
                gap,
                str(one["seeds"]),
                seconds,
            )
        )
    return out
