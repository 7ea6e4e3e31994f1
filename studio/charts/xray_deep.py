"""One block or layer of a model from close by: its modules, its units, its single weights. Worker's answers -> plotly figures, findings, tables."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from studio.charts.xray import MARGIN, MOST_BARS, Observations, label, score_of, titled, unit
from studio.theme import COLOURS, SCALE

Answer = Mapping[str, Any]
UNIT_WORDS = {"heads": ("head", "heads"), "neurons": ("neuron", "neurons"), "experts": ("expert", "experts")}


def modules_of(data: Observations, block: str) -> list[Mapping[str, Any]]:
    """The layers of a block, in order."""
    return [row for row in data.get("layers") or () if row["block"] == block]


def module_bars(data: Observations, block: str, metric: str, chosen: str | None = None) -> go.Figure | None:
    """A bar a module of the block: its mean score. None where none has one."""
    rows = modules_of(data, block)
    values = [score_of(data, row, metric) for row in rows]
    if all(value is None for value in values):
        return None
    least = min((value for value in values if value is not None), default=None)
    bars = go.Bar(
        y=[escape(short(row["name"], block)) for row in rows], x=values, orientation="h",
        marker={"color": [COLOURS["accent"] if value == least else COLOURS["muted"] for value in values],
                "line": {"color": COLOURS["warn"], "width": [2.5 if row["name"] == chosen else 0 for row in rows]}},
        hovertemplate="%{y}: %{x:.4g}<extra></extra>",
    )  # fmt: skip
    figure = go.Figure(bars)
    figure.update_layout(margin={**MARGIN, "l": 140}, bargap=0.3)
    figure.update_xaxes(title=titled(unit(metric)), rangemode="tozero")
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False)
    return figure


def module_finding(data: Observations, block: str, metric: str) -> str:
    rows = [(value, row["name"]) for row in modules_of(data, block) if (value := score_of(data, row, metric)) is not None]
    if not rows:
        return f"No module of {words(block)} has a {label(metric)} score"
    low, high = min(rows), max(rows)
    if len(rows) == 1:
        return f"{words(block).capitalize()} has one module, {short(low[1], block)}"
    return f"In {words(block)}, {short(low[1], block)} scores lowest by {label(metric)}{_below(low[0], high[0], short(high[1], block))}"


def _below(low: float, high: float, name: str) -> str:
    """How far the lowest lies below the highest."""
    if low <= 0:
        return ""
    return (
        f", {high / low:.1f} times less than {name}"
        if high > 1.1 * low
        else f", but {100 * (1 - low / high):.2g} % below {name} only"
    )


def short(name: str, block: str) -> str:
    """blocks.3.mlp.up_proj -> mlp.up_proj."""
    return name.removeprefix(f"{block}.")


def words(block: str) -> str:
    """blocks.3 -> block 3."""
    head, _, number = block.partition(".")
    return f"block {number}" if head == "blocks" else block


def sorted_units(answer: Answer) -> list[tuple[int, float]]:
    """(number, score) of the units, the highest first; those without a number score left out."""
    rows = [(place, float(value)) for place, value in enumerate(answer["scores"]) if value is not None and math.isfinite(value)]
    return sorted(rows, key=lambda row: -row[1])


def unit_bars(answer: Answer, share: float = 0.0) -> go.Figure | None:
    """A bar a unit, sorted; those that the share would take first are marked. Many units are drawn as a curve of the sorted scores."""
    rows = sorted_units(answer)
    if not rows:
        return None
    goes = round(share * len(rows))
    one = UNIT_WORDS[answer["structure"]][0]
    step = math.ceil(len(rows) / MOST_BARS)
    drawn = [(place, *rows[place]) for place in range(0, len(rows), step)]
    colours = [COLOURS["warn"] if place >= len(rows) - goes else COLOURS["accent"] for place, *_ in drawn]
    many = len(rows) > 40
    bars = go.Bar(
        x=[place + 1 for place, *_ in drawn] if many else [str(number) for _, number, _ in drawn],
        y=[score for *_, score in drawn], customdata=[number for _, number, _ in drawn],
        marker={"color": colours, "line": {"width": 0}}, hovertemplate=f"{one} %{{customdata}}: %{{y:.4g}}<extra></extra>",
    )  # fmt: skip
    figure = go.Figure(bars)
    across = f"{one}, from the highest score to the lowest" if many else f"{one}, by its number"
    figure.update_layout(margin=MARGIN, bargap=0 if many else 0.28)
    figure.update_xaxes(title=titled(across), showgrid=False, **({} if many else {"type": "category"}))
    figure.update_yaxes(title=titled(f"{label(answer['metric'])}, summed over the {one}"), rangemode="tozero")
    return figure


def unit_finding(answer: Answer) -> str:
    rows = sorted_units(answer)
    one, several = UNIT_WORDS[answer["structure"]]
    at = words(answer["block"])
    if not rows:
        return f"The {several} of {at} have no {label(answer['metric'])} score"
    low, high, by = rows[-1], rows[0], label(answer["metric"])
    if len(rows) <= 16:
        below = _below(low[1], high[1], f"{one} {high[0]}")
        return f"Of the {len(rows)} {several} of {at}, {one} {low[0]} scores lowest by {by}{below}"
    half = sum(score for _, score in rows) / 2
    running, count = 0.0, 0
    for _, score in rows:
        running, count = running + score, count + 1
        if running >= half:
            break
    return f"{100 * count / len(rows):.0f} % of the {len(rows):,} {several} of {at} hold half of its {by} score"


def unit_table(answer: Answer) -> pd.DataFrame:
    one = UNIT_WORDS[answer["structure"]][0]
    return pd.DataFrame(sorted_units(answer), columns=[one.capitalize(), label(answer["metric"])])


def grid(answer: Answer, key: str) -> NDArray[np.float32] | None:
    """The tiles of a weight map, (down, across)."""
    if not answer.get(key):
        return None
    down, across = len(answer["rows"]) - 1, len(answer["columns"]) - 1
    return np.frombuffer(base64.b64decode(answer[key]), "<f4").reshape(down, across)


def weight_map(answer: Answer) -> go.Figure:
    """The scores of a layer's weights as tiles, what the budget would remove laid over them. Colours are logarithmic."""
    values, removed = grid(answer, "values"), grid(answer, "removed")
    x, y = ([f"{a}" if b - a == 1 else f"{a}–{b - 1}" for a, b in pairwise(answer[side])] for side in ("columns", "rows"))
    least = max(float(values[values > 0].min()) if (values > 0).any() else 1e-12, float(values.max()) * 1e-5, 1e-30)
    colour = np.log10(np.maximum(values, least))
    ticks = [
        power
        for power in range(math.floor(math.log10(least)), math.ceil(float(colour.max())) + 1)
        if math.log10(least) <= power <= colour.max()
    ]
    bar: dict[str, Any] = {"title": {**titled(_scored(answer)), "side": "right"}, "thickness": 10, "outlinewidth": 0, "len": 0.96}
    if len(ticks) > 1:
        bar |= {"tickvals": ticks, "ticktext": [f"{10.0**tick:g}" for tick in ticks]}
    else:
        bar |= {
            "tickvals": [float(colour.min()), float(colour.max())],
            "ticktext": [f"{10 ** float(colour.min()):.2g}", f"{10 ** float(colour.max()):.2g}"],
        }
    traces = [
        go.Heatmap(x=x, y=y, z=colour.astype(np.float32), customdata=values, colorscale=SCALE, colorbar=bar, zsmooth=False,
                   zmin=float(np.quantile(colour, 0.01)), zmax=float(colour.max()) or None,
                   hovertemplate="output %{y}, input %{x}: %{customdata:.4g}<extra></extra>")
    ]  # fmt: skip
    if removed is not None:
        veil = np.where(removed > 0, removed, np.nan).astype(np.float32)
        ochre = [[0.0, "rgba(217,119,43,0)"], [0.5, "rgba(217,119,43,.28)"], [1.0, "rgba(217,119,43,.85)"]]
        traces.append(go.Heatmap(x=x, y=y, z=veil, colorscale=ochre, zmin=0, zmax=1, showscale=False, hoverinfo="skip"))
    figure = go.Figure(traces)
    figure.update_layout(margin={**MARGIN, "l": 76, "r": 4})
    figure.update_xaxes(title=titled("input (column)"), type="category", showgrid=False, nticks=5, tickangle=0)
    figure.update_yaxes(title=titled("output (row)"), type="category", autorange="reversed", showgrid=False, nticks=9)
    return figure


def _scored(answer: Answer) -> str:
    big = any(b - a > 1 for side in ("rows", "columns") for a, b in pairwise(answer[side]))
    name = "|weight|" if answer["metric"] == "magnitude" else label(answer["metric"])
    return f"{name}, {'largest' if answer['how'] == 'max' else 'mean'} of a tile" if big else name


def weight_finding(answer: Answer) -> str:
    """What the map shows: how the scores lie over rows and columns, or where the mask takes most."""
    values, removed = grid(answer, "values"), grid(answer, "removed")
    rows, columns = answer["shape"]
    top, bottom, left, right = answer["window"]
    where = (
        answer["name"]
        if (bottom - top, right - left) == (rows, columns)
        else f"rows {top}–{bottom - 1}, columns {left}–{right - 1}"
    )
    if removed is not None:
        by_column, by_row = removed.mean(0), removed.mean(1)
        side, found = ("column", by_column) if np.ptp(by_column) >= np.ptp(by_row) else ("row", by_row)
        starts = answer["columns" if side == "column" else "rows"]
        place = int(found.argmax())
        if np.ptp(found) > 0.05:
            return (f"The budget's {100 * answer['share']:.0f} % falls unevenly on {where}: {100 * found[place]:.0f} % of "
                    f"{side} {starts[place]}, {100 * found.min():.0f} % where it takes least")  # fmt: skip
        return f"The budget's {100 * answer['share']:.0f} % falls evenly on {where}"
    total = float(values.sum()) or 1.0
    side, found = max(
        (("column", values.sum(0)), ("row", values.sum(1))), key=lambda pair: float(pair[1].max() / (pair[1].mean() or 1))
    )
    place, starts = int(found.argmax()), answer["columns" if side == "column" else "rows"]
    times = float(found[place] / (found.mean() or 1))
    if times < 1.5:
        return f"{where[:1].upper()}{where[1:]}: {label(answer['metric'])} is spread evenly over rows and columns"
    return f"In {where}, {side} {starts[place]} stands out: {times:.1f} times the mean {side}, {100 * found[place] / total:.1f} % of the whole"


def weight_table(answer: Answer, most: int = 60) -> pd.DataFrame:
    """The table twin: the tiles with the highest scores, and what the budget takes of each."""
    values, removed = grid(answer, "values"), grid(answer, "removed")
    order = np.argsort(-values, axis=None, kind="stable")[:most]
    told = []
    for place in order:
        i, j = divmod(int(place), values.shape[1])
        gone = None if removed is None else round(100 * float(removed[i, j]), 1)
        told.append([_span(answer["rows"], i), _span(answer["columns"], j), float(values[i, j]), gone])
    return pd.DataFrame(told, columns=["Output rows", "Input columns", _scored(answer), "Budget removes %"])


def _span(starts: Sequence[int], place: int) -> str:
    first, last = starts[place], starts[place + 1] - 1
    return str(first) if first == last else f"{first}–{last}"
