"""Which rows a model gives up when layers are pruned: damage.json -> heat map, findings, table. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from studio.charts.xray import MARGIN, titled

Found = Mapping[str, Any]
TOGETHER = "*"  # the layer of the cells in which all are pruned (core.data.damage)
_PALE, _DEEP = "#ece9dd", "#a9480f"
_WIDE = 24  # layers; more are too narrow on a phone for gaps between them
_MOST_WORDS = 22  # letters of a group's words beside the map


@dataclass(frozen=True)
class Measure:
    """label: in lists; axis: with its unit; worst: the end of the scale that is damage; scale: pale to damaged, as plotly takes it."""

    label: str
    axis: str
    worst: Any
    scale: list[list[Any]]


MEASURES = {
    "loss": Measure("Rise of the loss", "rise of the loss, nats a {unit}", max,
                    [[0.0, "#1f6f4a"], [0.5, _PALE], [0.75, "#e09a58"], [1.0, _DEEP]]),
    "jsd": Measure("How far answers move", "Jensen-Shannon divergence, nats", max, [[0.0, _PALE], [0.5, "#e09a58"], [1.0, _DEEP]]),
    "cka": Measure("Likeness of the last block", "debiased CKA, 1 = alike", min, [[0.0, _DEEP], [0.5, "#e09a58"], [1.0, _PALE]]),
}  # fmt: skip


def unit(found: Found) -> str:
    return "picture" if found.get("unit") == "picture" else "token"


def levels(found: Found) -> list[tuple[str, float]]:
    """(label, level) of what was removed from each layer."""
    return [("As the budget says" if not level else f"{100 * level:.0f} %", level) for level in found["levels"]]


def groups(found: Found, level: float) -> list[int]:
    """Numbers of the groups, those that pay most with all layers pruned first; one that predicts nothing comes last."""
    whole = _cell(found, TOGETHER, level)["loss"]
    return sorted(range(len(found["groups"])), key=lambda at: (-math.inf if whole[at] is None else whole[at], -at), reverse=True)


def named(found: Found, level: float) -> list[int]:
    """The groups that a title may name, in the same order: with at least half the predictions of an even share. A handful of tokens says anything."""
    even = found["predictions"][-1] / max(len(found["groups"]), 1)
    return [at for at in groups(found, level) if found["predictions"][at] >= even / 2]


def group_name(found: Found, at: int) -> str:
    """In the middle of a sentence: cluster 7 (city, state), or the class."""
    if at == len(found["groups"]):
        return "all rows"
    one = found["groups"][at]
    return one["name"] + (f" ({', '.join(one['words'])})" if one.get("words") else "")


def damage_map(found: Found, measure: str, level: float) -> go.Figure:
    """Groups x layers, block after block, and in a column of its own all layers together; all rows in the last line. Colours span the single layers."""
    about, rows, layers = MEASURES[measure], [*groups(found, level), len(found["groups"])], _layers(found, level)
    single = [[_value(found, layer, level, measure, at) for layer in layers] for at in rows]
    whole = [[_value(found, TOGETHER, level, measure, at)] for at in rows]
    known = [value for line in single for value in line if value is not None] or [0.0]
    far = max(max(map(abs, known)), 1e-9)
    low, high = {"loss": (-far, far), "jsd": (0.0, far), "cka": (min(0.99, min(known)), 1.0)}[measure]
    said = [[[group_name(found, at), layer] for layer in layers] for at in rows]
    look = {"colorscale": about.scale, "zmin": low, "zmax": high, "xgap": 1 if len(layers) <= _WIDE else 0, "ygap": 1}
    figure = go.Figure([
        go.Heatmap(z=single, customdata=said, **look, hovertemplate="%{customdata[0]}<br>%{customdata[1]}: %{z:.3g}<extra></extra>",
                   colorbar={"title": {**titled(about.axis.format(unit=unit(found))), "side": "right"}, "thickness": 10, "outlinewidth": 0, "len": 0.96}),
        go.Heatmap(z=whole, xaxis="x2", customdata=[[[group_name(found, at), TOGETHER]] for at in rows], **look, showscale=False, texttemplate="%{z:.2f}",
                   textfont={"size": 11}, hovertemplate="%{customdata[0]}<br>all layers together: %{z:.3g}<extra></extra>"),
    ])  # fmt: skip
    _axes(figure, found, rows, layers)
    return figure


def _axes(figure: go.Figure, found: Found, rows: list[int], layers: list[str]) -> None:
    blocks = [layer.split(".")[1] for layer in layers]
    first = [at for at in range(len(blocks)) if at == 0 or blocks[at] != blocks[at - 1]]
    step = -(-len(first) // 14)
    middle = [(start + end - 1) / 2 for start, end in zip(first, [*first[1:], len(blocks)], strict=True)]
    figure.update_layout(
        margin={**MARGIN, "r": 4, "b": 52, "l": 10},
        xaxis={"domain": [0, 0.86], "tickvals": middle[::step], "ticktext": [blocks[at] for at in first][::step], "title": titled("layers, block by block"),
               "showgrid": False, "zeroline": False, "tickangle": 0},
        xaxis2={"domain": [0.885, 1], "tickvals": [0], "ticktext": ["all"], "showgrid": False, "zeroline": False, "tickangle": 0},
        yaxis={"autorange": "reversed", "tickvals": list(range(len(rows))), "ticktext": [_tick(found, at) for at in rows], "showgrid": False,
               "zeroline": False, "automargin": True},
        shapes=[{"type": "line", "x0": at - 0.5, "x1": at - 0.5, "y0": 0, "y1": 1, "yref": "paper", "line": {"width": 2, "color": "#8a968e"}}
                for at in first[1:]]
        + [{"type": "line", "x0": 0, "x1": 1, "xref": "paper", "y0": len(rows) - 1.5, "y1": len(rows) - 1.5, "line": {"width": 2, "color": "#8a968e"}}],
    )  # fmt: skip


def _tick(found: Found, at: int) -> str:
    if at == len(found["groups"]):
        return "all rows"
    one = found["groups"][at]
    words = ", ".join(one.get("words") or ())
    short = words if len(words) <= _MOST_WORDS else words[: _MOST_WORDS - 1].rstrip(", ") + "…"
    return escape(one["name"]) + (f"<br><span style='font-size:10px'>{escape(short)}</span>" if short else "")


def finding(found: Found, measure: str, level: float) -> str:
    """The group (see `named`) and layer with the most damage, and what that is."""
    about = MEASURES[measure]
    have = [(value, -at, layer) for layer in _layers(found, level) for at in named(found, level)
            if (value := _value(found, layer, level, measure, at)) is not None]  # fmt: skip
    if not have:
        return "No group of rows is large enough for a figure"
    value, at, layer = about.worst(have)
    who, gone = _capital(group_name(found, -at)), f"{100 * share_of(found, layer, level):.0f} % of {layer} goes"
    if measure == "loss":
        return (
            f"{who} pays most: {value:+.2f} nats a {unit(found)} when {gone}"
            if value > 0
            else "No group of rows pays for any single layer"
        )
    if measure == "jsd":
        return f"The answers on {group_name(found, -at)} move most: {value:.3f} nats when {gone}"
    return f"{who} is rearranged most: debiased CKA {value:.2f} when {gone}"


def together(found: Found, level: float) -> str:
    """What the group that pays most pays where all layers are pruned at once, a sentence."""
    worst = named(found, level)[0]
    mine, all_rows = (_value(found, TOGETHER, level, "loss", at) for at in (worst, len(found["groups"])))
    if mine is None or all_rows is None:
        return ""
    return f"All layers together: {all_rows:+.2f} nats a {unit(found)} over all rows, {mine:+.2f} on {group_name(found, worst)}."


def paying(found: Found, level: float) -> str:
    """The same as growth: +3 % perplexity over all rows, +41 % on cluster 7. Empty where nothing can be said."""
    worst, every = named(found, level)[0], len(found["groups"])
    figures = [_growth(found, level, at) for at in (every, worst)]
    if "" in figures:
        return ""
    what = "perplexity" if unit(found) == "token" else "loss"
    return f"{figures[0]} {what} over all rows, {figures[1]} on {group_name(found, worst)}"


def _growth(found: Found, level: float, at: int) -> str:
    """Of perplexity; of pictures, whose loss is no perplexity, of the loss."""
    rise, dense = _value(found, TOGETHER, level, "loss", at), found["dense"][at]
    if rise is None or not dense:
        return ""
    times = math.exp(min(rise, 50.0)) if unit(found) == "token" else 1 + rise / dense
    return f"{100 * (times - 1):+.0f} %" if times < 3 else f"× {times:,.1f}"


def table(found: Found, measure: str, level: float) -> pd.DataFrame:
    """A row a layer, a column a group, those that pay most first."""
    rows = [*groups(found, level), len(found["groups"])]
    lines = [["all together" if layer == TOGETHER else layer, None if layer == TOGETHER else round(100 * share_of(found, layer, level), 1),
              *(_rounded(_value(found, layer, level, measure, at)) for at in rows)] for layer in [*_layers(found, level), TOGETHER]]  # fmt: skip
    return pd.DataFrame(lines, columns=["Layer", "Removed, %", *(group_name(found, at) for at in rows)])


def share_of(found: Found, layer: str, level: float) -> float:
    """The share that this cell removes from its layer."""
    shares = found.get("shares") or {}
    return level or shares.get(layer, shares.get(".".join(layer.split(".")[:2]), 0.0))


def _layers(found: Found, level: float) -> list[str]:
    return [cell["layer"] for cell in found["cells"] if cell["level"] == level and cell["layer"] != TOGETHER]


def _cell(found: Found, layer: str, level: float) -> Mapping[str, Any]:
    return next(cell for cell in found["cells"] if cell["layer"] == layer and cell["level"] == level)


def _value(found: Found, layer: str, level: float, measure: str, at: int) -> float | None:
    value: float | None = _cell(found, layer, level)[measure][at]
    return value if value is not None and math.isfinite(value) else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
