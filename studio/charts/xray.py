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
ABLATION = "ablation"
MEANING = {
    "block_influence": ("Block influence", "1 − cosine(entering, leaving)"),
    "magnitude": ("Magnitude", "mean |weight|"),
    "wanda": ("Wanda", "mean |weight| × input norm"),
    "relative_importance": ("Relative importance", "mean share of row and column × input norm"),
    "taylor": ("Taylor", "mean |weight × gradient|, nats"),
    "fisher": ("Fisher", "mean (weight × gradient)² / 2, nats"),
    "gblm": ("GBLM", "mean |weight| × (gradient + input norm)"),
    "pruner_zero": ("Pruner-Zero", "mean Pruner-Zero score"),
    "reap": ("REAP", "gate × output norm, a token"),
    "llm_pruner": ("LLM-Pruner", "mean LLM-Pruner score"),
    "flap": ("FLAP", "variance × |weight|²"),
    "kcm": ("KCM", "mean KCM score"),
    "cfsp": ("CFSP", "mean CFSP score"),
    "seap": ("SEAP", "mean SEAP score"),
    ABLATION: ("Left out", "rise of the loss without it, nats"),
}
MOST_BARS, MOST_CELLS = 320, 400  # more than these are drawn together, or every n-th
CUT_ABOVE = 4  # times the second bar
MARGIN = {"l": 62, "r": 12, "t": 10, "b": 46}


def titled(text: str) -> dict[str, Any]:
    """An axis title in the size that all our charts have."""
    return {"text": text, "font": {"size": 12}}


def metrics(data: Observations, depth: str = "blocks") -> tuple[str, ...]:
    """The scores that these observations hold for blocks, or for layers, in the order they were made; of blocks, the loss without each comes last."""
    rows = data.get(depth) or ()
    names = rows[0]["scores"] if rows else ()
    found = tuple(name for name in names if any(number(row["scores"].get(name)) is not None for row in rows))
    without = any(number(x) is not None for x in ((data.get(ABLATION) or {}).get("without") or {}).values())
    return (*found, ABLATION) if depth == "blocks" and without else found


def score_of(data: Observations, row: Mapping[str, Any], metric: str) -> float | None:
    """A block's or layer's score; by ablation, how much the loss rises without the block. None where it is not a number."""
    if metric != ABLATION:
        return number(row["scores"].get(metric))
    found = data.get(ABLATION) or {}
    dense, without = number(found.get("dense")), number((found.get("without") or {}).get(row["name"]))
    return None if dense is None or without is None else without - dense


def of_layers(data: Observations, metric: str) -> str:
    """The score that layers are shown by: the one asked for where they have it, else Wanda, else the last they have."""
    there = metrics(data, "layers")
    return next((name for name in (metric, "wanda") if name in there), next(reversed(there), ""))


def label(metric: str) -> str:
    """What to call a score on screen."""
    return MEANING.get(metric, (metric.replace("_", " ").capitalize(), ""))[0]


def unit(metric: str) -> str:
    """What a score's numbers are, for an axis."""
    return MEANING.get(metric, ("", f"mean {metric.replace('_', ' ')} score"))[1]


def importance(data: Observations, metric: str, chosen: str | None = None) -> go.Figure:
    """A bar a block: its score. The lowest ones, which the title names, stand out; `chosen` (a block's name) is outlined.

    Of a very deep model a bar stands for several blocks, with the lowest score among them.
    """
    rows = [(block["name"], str(block["index"]), score_of(data, block, metric)) for block in data["blocks"]]
    low = set(_lowest(data, metric))
    step = math.ceil(len(rows) / MOST_BARS)
    groups = [rows[start : start + step] for start in range(0, len(rows), max(step, 1))]
    drawn = [_of_group(group) for group in groups]
    bars = go.Bar(
        x=[index for _, index, _ in drawn],
        y=[value for *_, value in drawn],
        marker={
            "color": [COLOURS["accent"] if low & {i for _, i, _ in group} else COLOURS["muted"] for group in groups],
            "line": {
                "color": COLOURS["warn"],
                "width": [2.5 if chosen in {name for name, *_ in group} else 0 for group in groups],
            },
        },
        hovertemplate="Block %{x}: %{y:.4g}<extra></extra>",
    )
    figure = go.Figure(bars)
    figure.update_layout(
        margin=MARGIN,
        bargap=0.28 if step == 1 else 0,
        xaxis={"title": titled("Block" if step == 1 else f"Block: the lowest of {step} neighbours"), "type": "category", "showgrid": False,
               "nticks": 30, "tickangle": 0},
    )  # fmt: skip
    figure.update_yaxes(title=titled(unit(metric)), rangemode="tozero")
    _break_axis(figure, [(index, value) for _, index, value in drawn if value is not None])
    return figure


def _of_group(group: Sequence[tuple[str, str, float | None]]) -> tuple[str, str, float | None]:
    return min(group, key=lambda row: math.inf if row[2] is None else row[2])


def block_at(data: Observations, index: str) -> str | None:
    """The name of the block that a bar or a column stands for, by the word on its axis; None for none of them."""
    return next((block["name"] for block in data["blocks"] if str(block["index"]) == str(index)), None)


def thinned(data: Observations) -> str:
    """What of a very deep model is not drawn, in a sentence; empty where all is."""
    blocks, rows = len(data["blocks"]), len(modules(data))
    said = [f"Of {blocks:,} blocks a bar shows the lowest of {math.ceil(blocks / MOST_BARS)}"] if blocks > MOST_BARS else []
    if max(blocks, rows) > MOST_CELLS:
        said.append("the map of the modules shows some of them only; the table and the list of layers hold all")
    return "; ".join(said) + "." if said else ""


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
        return f"No block has a {label(metric)} score" if metric else "No block has a score that is a number"
    many = len(low) > 1
    who = f"Block{'s' if many else ''} {_and(low)}"
    if metric == "block_influence":
        return f"{who} change{'' if many else 's'} the hidden state least"
    if metric == ABLATION:
        return f"{who} {'are' if many else 'is'} missed least: the loss rises least without {'either' if many else 'it'}"
    if metric == "magnitude":
        return f"{who} {'have' if many else 'has'} the smallest weights on average"
    return f"{who} {'have' if many else 'has'} the lowest {label(metric)} score on average"


def layer_map(data: Observations, metric: str) -> go.Figure | None:
    """Block x module: the mean score of each layer. Colours are logarithmic where the scores span more than a factor of 20."""
    rows = data.get("layers") or ()
    modules, blocks = _thin(_modules(rows)), _thin(data["blocks"])
    names = [block["name"] for block in blocks]
    at = {(_module(row["name"]), row["block"]): number(row["scores"].get(metric)) for row in rows}
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
        x=[str(block["index"]) for block in blocks], y=[escape(module) for module in modules], z=colour, customdata=values,
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
        found = [x for row in rows if _module(row["name"]) == module and (x := number(row["scores"].get(metric))) is not None]
        if found:
            means[module] = sum(found) / len(found)
    if not means:
        return f"No layer has a {label(metric)} score" if metric else "No layer has a score that is a number"
    lowest = min(means, key=means.__getitem__)
    return f"{lowest} scores lowest by {label(metric)}, on average over the blocks"


def _thin(rows: Sequence[Any]) -> list[Any]:
    """All of them, or every n-th where there are more than a picture has room for."""
    return list(rows[:: math.ceil(len(rows) / MOST_CELLS) or 1])


def layer_at(data: Observations, column: int, row: int) -> str | None:
    """The layer of that block and module, by their positions among all."""
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
    rows = [[block["index"], block["parameters"], *(score_of(data, block, name) for name in names)] for block in data["blocks"]]
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
            *(number(row["scores"].get(name)) for name in names),
        ]
        for row in data.get("layers") or ()
    ]
    return pd.DataFrame(rows, columns=["Layer", "Role", "Shape (out × in)", "Parameters", *(label(name) for name in names)])


def _lowest(data: Observations, metric: str) -> list[str]:
    """The blocks that the finding names: the lowest, and the next where it is nearer to the lowest than to the median."""
    rows = sorted((value, block["index"]) for block in data["blocks"] if (value := score_of(data, block, metric)) is not None)
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


def number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
