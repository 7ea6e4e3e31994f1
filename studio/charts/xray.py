"""What matters and what repeats in a model: observations -> plotly figures, findings in words, and table twins. Pure functions, no screen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from studio.theme import COLOURS, SCALE

Observations = Mapping[str, Any]
MEANING = {
    "block_influence": ("Block influence", "1 − cosine(entering, leaving)"),
    "magnitude": ("Magnitude", "mean |weight|"),
    "wanda": ("Wanda", "mean |weight| × input norm"),
}
CUT_ABOVE = 4  # times the second bar
MARGIN = {"l": 62, "r": 12, "t": 10, "b": 46}


def titled(text: str) -> dict[str, Any]:
    """An axis title in the size that all our charts have."""
    return {"text": text, "font": {"size": 12}}


def metrics(data: Observations, depth: str = "blocks") -> tuple[str, ...]:
    """The scores that these observations hold for blocks, or for layers, in the order they were made."""
    rows = data.get(depth) or ()
    return tuple(
        name for name in (rows[0]["scores"] if rows else ()) if any(_number(row["scores"].get(name)) is not None for row in rows)
    )


def label(metric: str) -> str:
    """What to call a score on screen."""
    return MEANING.get(metric, (metric.replace("_", " ").capitalize(), ""))[0]


def unit(metric: str) -> str:
    """What a score's numbers are, for an axis."""
    return MEANING.get(metric, ("", f"mean {metric.replace('_', ' ')} score"))[1]


def importance(data: Observations, metric: str, chosen: str | None = None) -> go.Figure:
    """A bar a block: its score. The lowest ones, which the title names, stand out; `chosen` (a block's name) is outlined."""
    rows = [(block["name"], str(block["index"]), _number(block["scores"].get(metric))) for block in data["blocks"]]
    low = set(_lowest(data, metric))
    bars = go.Bar(
        x=[index for _, index, _ in rows],
        y=[value for *_, value in rows],
        marker={
            "color": [COLOURS["accent"] if index in low else COLOURS["muted"] for _, index, _ in rows],
            "line": {"color": COLOURS["warn"], "width": [2.5 if name == chosen else 0 for name, *_ in rows]},
        },
        hovertemplate="Block %{x}: %{y:.4g}<extra></extra>",
    )
    figure = go.Figure(bars)
    figure.update_layout(
        margin=MARGIN,
        bargap=0.28,
        xaxis={"title": titled("Block"), "type": "category", "showgrid": False, "nticks": 30, "tickangle": 0},
    )
    figure.update_yaxes(title=titled(unit(metric)), rangemode="tozero")
    _break_axis(figure, [(index, value) for _, index, value in rows if value is not None])
    return figure


def _break_axis(figure: go.Figure, bars: Sequence[tuple[str, float]]) -> None:
    """Where one bar dwarfs all others, end the axis above the second and write the cut bar's value on it: else nothing can be compared."""
    ordered = sorted(bars, key=lambda bar: -bar[1])
    if len(ordered) < 3 or not ordered[0][1] > CUT_ABOVE * ordered[1][1] > 0:
        return
    index, value = ordered[0]
    figure.update_yaxes(range=[0, 1.3 * ordered[1][1]], rangemode="normal")
    figure.add_annotation(
        x=index, y=1, yref="paper", yanchor="top", text=f"{value:.2g}, cut", showarrow=False, font={"size": 11, "color": "#ffffff"}
    )  # fmt: skip


def importance_finding(data: Observations, metric: str) -> str:
    """What the importance bars show, in a sentence."""
    low = _lowest(data, metric)
    if not low:
        return f"No block has a {label(metric)} score"
    many = len(low) > 1
    who = f"Block{'s' if many else ''} {_and(low)}"
    if metric == "block_influence":
        return f"{who} change{'' if many else 's'} the hidden state least"
    if metric == "magnitude":
        return f"{who} {'have' if many else 'has'} the smallest weights on average"
    return f"{who} {'have' if many else 'has'} the lowest {label(metric)} score on average"


def similarity(data: Observations) -> go.Figure | None:
    """How alike the hidden states at every two borders between blocks are. None where it was not measured."""
    found = data.get("similarity")
    if not found:
        return None
    labels, values = [str(name) for name in found["labels"]], found["values"]
    low = min((x for row in values for x in row if x is not None), default=0.0)
    heat = go.Heatmap(
        x=labels, y=labels, z=values, colorscale=SCALE, zmin=min(low, 0.99), zmax=1.0, xgap=1, ygap=1,
        hovertemplate="after %{y} and after %{x}: %{z:.3f}<extra></extra>",
        colorbar={"title": {**titled(escape(str(found["measure"]))), "side": "right"}, "thickness": 10, "outlinewidth": 0, "len": 0.96},
    )  # fmt: skip
    if len(labels) <= 9:
        heat.update(
            text=[["" if x is None else f"{x:.2f}".replace("0.", ".") for x in row] for row in values],
            texttemplate="%{text}",
            textfont={"size": 10},
        )
    if len(labels) > 20:
        heat.update(xgap=0, ygap=0)
    figure = go.Figure(heat)
    figure.update_layout(margin={**MARGIN, "r": 4})
    figure.update_xaxes(title=titled("after block"), type="category", showgrid=False, constrain="domain", nticks=14, tickangle=0)
    figure.update_yaxes(
        title=titled("after block"), type="category", autorange="reversed", showgrid=False, scaleanchor="x", constrain="domain"
    )
    return figure


def similarity_finding(data: Observations) -> str:
    """The two borders whose hidden states are most alike, in a sentence."""
    found = data.get("similarity")
    pairs = [
        (value, a, b)
        for a, row in enumerate(found["values"] if found else ())
        for b, value in enumerate(row)
        if b > a and value is not None
    ]
    if not pairs:
        return "Block similarity was not measured"
    value, a, b = max(pairs)
    names = found["labels"]
    after = [f"block {names[i]}" if names[i] != "input" else "the embedding" for i in (a, b)]
    return f"The hidden states after {after[0]} and after {after[1]} are most alike (cosine {value:.2f})"


def layer_map(data: Observations, metric: str) -> go.Figure | None:
    """Block x module: the mean score of each layer. Colours are logarithmic where the scores span more than a factor of 20."""
    rows = data.get("layers") or ()
    modules, names = _modules(rows), [block["name"] for block in data["blocks"]]
    at = {(_module(row["name"]), row["block"]): _number(row["scores"].get(metric)) for row in rows}
    values = [[at.get((module, name)) for name in names] for module in modules]
    positive = [x for row in values for x in row if x is not None and x > 0]
    if not positive:
        return None
    spread = max(positive) / min(positive) > 20
    colour = [[None if x is None else math.log10(x) if spread and x > 0 else x for x in row] for row in values]
    bar: dict[str, Any] = {"title": {**titled(label(metric)), "side": "right"}, "thickness": 10, "outlinewidth": 0, "len": 0.96}
    if spread:
        ticks = [digit * 10.0**power for power in range(-12, 13) for digit in (1, 2, 5)]
        ticks = [tick for tick in ticks if min(positive) <= tick <= max(positive)]
        bar |= {"tickvals": [math.log10(tick) for tick in ticks], "ticktext": [f"{tick:g}" for tick in ticks]}
    heat = go.Heatmap(
        x=[str(block["index"]) for block in data["blocks"]], y=[escape(module) for module in modules], z=colour, customdata=values,
        colorscale=SCALE, xgap=1, ygap=1, colorbar=bar, hovertemplate="block %{x}, %{y}: %{customdata:.4g}<extra></extra>",
    )  # fmt: skip
    figure = go.Figure(heat)
    figure.update_layout(margin={**MARGIN, "l": 130, "r": 4})
    figure.update_xaxes(title=titled("Block"), type="category", showgrid=False, nticks=24, tickangle=0)
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False)
    return figure


def layer_finding(data: Observations, metric: str) -> str:
    """The module with the lowest mean score over the blocks, in a sentence."""
    rows = data.get("layers") or ()
    means = {}
    for module in _modules(rows):
        found = [x for row in rows if _module(row["name"]) == module and (x := _number(row["scores"].get(metric))) is not None]
        if found:
            means[module] = sum(found) / len(found)
    if not means:
        return f"No layer has a {label(metric)} score"
    lowest = min(means, key=means.__getitem__)
    return f"{lowest} scores lowest by {label(metric)}, on average over the blocks"


def layer_at(data: Observations, column: int, row: int) -> str | None:
    """The layer under a cell of the layer map, by the positions that a click reports."""
    modules, names = _modules(data.get("layers") or ()), [block["name"] for block in data["blocks"]]
    if not (0 <= column < len(names) and 0 <= row < len(modules)):
        return None
    return next((r["name"] for r in data["layers"] if _module(r["name"]) == modules[row] and r["block"] == names[column]), None)


def histogram(layer: Mapping[str, Any]) -> go.Figure:
    """A layer's weights by value, with the cut: what a budget of this share would set to zero by magnitude lies between the lines."""
    edges, counts = layer["histogram"]["edges"], layer["histogram"]["counts"]
    middles = [(a + b) / 2 for a, b in pairwise(edges)]
    cut = layer.get("cut")
    colours = [COLOURS["warn"] if cut is not None and abs(middle) <= cut else COLOURS["accent"] for middle in middles]
    figure = go.Figure(
        go.Bar(
            x=middles,
            y=counts,
            marker={"color": colours, "line": {"width": 0}},
            hovertemplate="near %{x:.3g}: %{y:,}<extra></extra>",
        )
    )
    figure.update_layout(margin={**MARGIN, "l": 56}, bargap=0.04)
    figure.update_xaxes(title=titled("weight"), showgrid=False, zeroline=False)
    figure.update_yaxes(title=titled("how many"), rangemode="tozero")
    return figure


def block_table(data: Observations) -> pd.DataFrame:
    """The table twin of the bars: a row a block."""
    names = metrics(data)
    rows = [
        [block["index"], block["parameters"], *(_number(block["scores"].get(name)) for name in names)] for block in data["blocks"]
    ]
    return pd.DataFrame(rows, columns=["Block", "Parameters", *(label(name) for name in names)])


def layer_table(data: Observations) -> pd.DataFrame:
    """The table twin of the layer map: a row a layer."""
    names = metrics(data, "layers")
    rows = [
        [
            row["name"],
            row["role"],
            " × ".join(map(str, row["shape"])),
            row["parameters"],
            *(_number(row["scores"].get(name)) for name in names),
        ]
        for row in data.get("layers") or ()
    ]
    return pd.DataFrame(rows, columns=["Layer", "Role", "Shape (out × in)", "Parameters", *(label(name) for name in names)])


def similarity_table(data: Observations) -> pd.DataFrame:
    """The table twin of the similarity map."""
    found = data.get("similarity") or {"labels": [], "values": []}
    return pd.DataFrame(
        [[name, *row] for name, row in zip(found["labels"], found["values"], strict=True)],
        columns=["after", *map(str, found["labels"])],
    )


def _lowest(data: Observations, metric: str) -> list[str]:
    """The blocks that the finding names: the lowest, and the next where it is nearer to the lowest than to the median."""
    rows = sorted(
        (value, block["index"]) for block in data["blocks"] if (value := _number(block["scores"].get(metric))) is not None
    )
    if len(rows) < 4:
        return [str(index) for _, index in rows[:1]]
    middle = rows[len(rows) // 2][0]
    count = 2 if rows[1][0] - rows[0][0] <= middle - rows[1][0] else 1
    return [str(index) for index in sorted(index for _, index in rows[:count])]


def modules(data: Observations) -> list[str]:
    """The rows of the layer map, from the top."""
    return _modules(data.get("layers") or ())


def _modules(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(_module(row["name"]) for row in rows))


def _module(name: str) -> str:
    """blocks.3.mlp.up_proj -> mlp.up_proj."""
    head, _, rest = name.partition(".")
    number, _, module = rest.partition(".")
    return module if head == "blocks" and number.isdigit() else name


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
