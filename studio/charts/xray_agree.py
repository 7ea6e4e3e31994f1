"""Where scores agree and where they do not: rank correlation of two, and the ranks that several give to each block. Pure functions, no screen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import combinations
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from studio.charts.xray import ABLATION, MARGIN, Observations, label, metrics, score_of, titled, unit
from studio.theme import COLOURS, SCALE, SEQUENCE

VOICES = ("magnitude", "wanda", "taylor", ABLATION)  # who is asked where the scores disagree
ROLES = {"attention": ("query", "key", "value", "output", "qkv"), "MLP": ("gate", "up", "down", "mlp")}
MOST_DOTS, MOST_COLUMNS = 4000, 200


def ranks(values: Sequence[float]) -> list[float]:
    """1 for the lowest; equal values share the mean of their ranks."""
    return [float(rank) for rank in pd.Series(list(values), dtype="float64").rank(method="average")]


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Pearson's correlation of the ranks, -1..1. None for fewer than three pairs, or where all of one side are equal."""
    if len(a) < 3:
        return None
    first, second = ranks(a), ranks(b)
    middle = (len(first) + 1) / 2
    x, y = [r - middle for r in first], [r - middle for r in second]
    size = math.sqrt(sum(v * v for v in x) * sum(v * v for v in y))
    return sum(p * q for p, q in zip(x, y, strict=True)) / size if size else None


def pairs(data: Observations, a: str, b: str) -> tuple[str, list[tuple[str, str, float, float]]]:
    """("layers" or "blocks", rows of (name, role, score by a, score by b)): layers where both score those, else blocks."""
    both = {a, b}
    depth = "layers" if both <= set(metrics(data, "layers")) else "blocks"
    rows = [
        (row["name"], row.get("role", "block"), score_of(data, row, a), score_of(data, row, b)) for row in data.get(depth) or ()
    ]
    return depth, [(name, role, x, y) for name, role, x, y in rows if x is not None and y is not None]


def correlation(data: Observations, a: str, b: str) -> tuple[float | None, str]:
    """Spearman's correlation of two scores, and over what: "42 layers"."""
    depth, rows = pairs(data, a, b)
    return spearman([x for *_, x, _ in rows], [y for *_, y in rows]), f"{len(rows):,} {depth}"


def scatter_finding(data: Observations, a: str, b: str) -> str:
    """How two scores rank the same layers, in a sentence."""
    found, over = correlation(data, a, b)
    names = f"{label(a)} and {label(b)}"
    if found is None:
        return f"{names} cannot be compared here"
    words = ((0.9, "rank alike"), (0.6, "mostly rank alike"), (0.3, "rank somewhat alike"), (-0.3, "hardly agree on"))
    said = next((word for least, word in words if found >= least), "rank against each other")
    how = f"{said} these {over}" if said.startswith("hardly") else f"{said}: {over}"
    return f"{names} {how} (Spearman {found:.2f})"


def scatter(data: Observations, a: str, b: str) -> go.Figure | None:
    """A dot a layer (or block): its score by one and by the other. None where nothing has both. Logarithmic where all are positive."""
    _, rows = pairs(data, a, b)
    if not rows:
        return None
    step = math.ceil(len(rows) / MOST_DOTS)
    kinds: dict[str, list[tuple[str, str, float, float]]] = {}
    for row in rows[::step]:
        kinds.setdefault(_kind(row[1]), []).append(row)
    traces = [
        go.Scatter(
            x=[x for *_, x, _ in found], y=[y for *_, y in found], mode="markers", name=kind,
            text=[escape(name) for name, *_ in found], customdata=[name for name, *_ in found],
            marker={"size": 9, "color": SEQUENCE[place % len(SEQUENCE)], "line": {"width": 0}},
            hovertemplate="%{text}<br>%{x:.4g}, %{y:.4g}<extra></extra>",
        )
        for place, (kind, found) in enumerate(kinds.items())
    ]  # fmt: skip
    figure = go.Figure(traces)
    few = len(kinds) < 2
    figure.update_layout(
        margin={**MARGIN, "t": 10 if few else 30}, showlegend=not few, legend={"orientation": "h", "y": 1.12, "x": 0}
    )
    for axis, metric, place in (("xaxis", a, 2), ("yaxis", b, 3)):
        low, high = min(row[place] for row in rows), max(row[place] for row in rows)
        spread = {"type": "log", "dtick": 1} if low > 0 and high / low > 8 else {}
        figure.update_layout({axis: {"title": titled(f"{label(metric)}: {unit(metric)}"), **spread}})
    return figure


def scatter_table(data: Observations, a: str, b: str) -> pd.DataFrame:
    """The table twin: a row a dot, with both ranks (1 = highest), the widest apart first."""
    depth, rows = pairs(data, a, b)
    one, two = ranks([-x for *_, x, _ in rows]), ranks([-y for *_, y in rows])
    made = [[name, x, y, p, q, abs(p - q)] for (name, _, x, y), p, q in zip(rows, one, two, strict=True)]
    columns = [depth[:-1].capitalize(), label(a), label(b), f"Rank by {label(a)}", f"Rank by {label(b)}", "Ranks apart"]
    return pd.DataFrame(
        sorted(made, key=lambda row: -row[5]),
        columns=columns if a != b else [*columns[:2], "again", *columns[3:4], "rank again", columns[5]],
    )


def _kind(role: str) -> str:
    return next((kind for kind, roles in ROLES.items() if role in roles), "block" if role == "block" else "other")


def voices(data: Observations) -> tuple[str, ...]:
    """The scores of blocks whose ranks are compared: magnitude, Wanda, Taylor and ablation, those of them that are there; else whichever are."""
    there = metrics(data)
    found = tuple(name for name in VOICES if name in there)
    return found if len(found) > 1 else there


def rank_table(data: Observations) -> pd.DataFrame:
    """Block x score: the rank that each gives (1 = matters most), and how far the ranks of a block lie apart."""
    names, blocks = voices(data), list(data["blocks"])
    columns: dict[str, list[float | None]] = {}
    for name in names:
        have = [(place, value) for place, block in enumerate(blocks) if (value := score_of(data, block, name)) is not None]
        given = dict(zip((place for place, _ in have), ranks([-value for _, value in have]), strict=True))
        columns[label(name)] = [given.get(place) for place in range(len(blocks))]
    apart = [_apart([columns[label(name)][place] for name in names]) for place in range(len(blocks))]
    return pd.DataFrame({"Block": [block["index"] for block in blocks], **columns, "Ranks apart": apart})


def _apart(found: Sequence[float | None]) -> float | None:
    there = [rank for rank in found if rank is not None]
    return max(there) - min(there) if len(there) > 1 else None


def rank_map(data: Observations) -> go.Figure | None:
    """Score x block: the rank of each block by each score; the block that divides them most is framed. None where fewer than two scores rank blocks."""
    names = voices(data)
    table = rank_table(data)
    if len(names) < 2 or len(table) < 2:
        return None
    shown = table.iloc[:: math.ceil(len(table) / MOST_COLUMNS)]
    values = [[None if pd.isna(rank) else float(rank) for rank in shown[label(name)]] for name in names]
    words = [str(index) for index in shown["Block"]]
    heat = go.Heatmap(
        x=words, y=[label(name) for name in names], z=values, colorscale=SCALE, reversescale=True, zmin=1, zmax=len(table),
        xgap=2 if len(words) <= 60 else 0, ygap=2, hovertemplate="block %{x} by %{y}: rank %{z:~g}<extra></extra>",
        colorbar={"title": {**titled("rank, 1 = matters most"), "side": "right"}, "thickness": 10, "outlinewidth": 0, "len": 0.96},
    )  # fmt: skip
    if len(words) <= 16:
        heat.update(texttemplate="%{z:~g}", textfont={"size": 12})
    figure = go.Figure(heat)
    place = _divided(shown)
    if place is not None:
        figure.add_shape(
            type="rect", x0=place - 0.5, x1=place + 0.5, y0=-0.5, y1=len(names) - 0.5, line={"color": COLOURS["warn"], "width": 3}
        )
    figure.update_layout(margin={**MARGIN, "l": 96, "r": 4})
    figure.update_xaxes(title=titled("Block"), type="category", showgrid=False, nticks=24, tickangle=0)
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False)
    return figure


def _divided(table: pd.DataFrame) -> int | None:
    apart = table["Ranks apart"]
    return None if apart.isna().all() or not apart.max() else int(apart.reset_index(drop=True).idxmax())


def rank_finding(data: Observations) -> str:
    """Which block divides the scores most, and between whom, in a sentence; and which two scores are furthest apart over all blocks."""
    names, table = voices(data), rank_table(data)
    place = _divided(table) if len(names) > 1 else None
    if place is None:
        return (
            "Fewer than two scores rank the blocks, so none disagree"
            if len(names) < 2 or len(table) < 2
            else "All scores rank the blocks alike"
        )
    row = table.iloc[place]
    there = {name: row[label(name)] for name in names if not pd.isna(row[label(name)])}
    high, low = min(there, key=there.__getitem__), max(there, key=there.__getitem__)
    return (f"Block {row['Block']:g} divides the scores most: rank {there[high]:g} of {len(table)} by {label(high)}, "
            f"{there[low]:g} by {label(low)}")  # fmt: skip


def furthest(data: Observations) -> str:
    """The two scores whose ranks of the blocks are least alike, in a sentence; empty where there are no two."""
    found = [(value, a, b) for a, b in combinations(voices(data), 2) if (value := _between(data, a, b)) is not None]
    if not found:
        return ""
    value, a, b = min(found)
    return f"Least alike over the blocks: {label(a)} and {label(b)}, Spearman {value:.2f}."


def _between(data: Observations, a: str, b: str) -> float | None:
    rows = [(score_of(data, block, a), score_of(data, block, b)) for block in data["blocks"]]
    both = [(x, y) for x, y in rows if x is not None and y is not None]
    return spearman([x for x, _ in both], [y for _, y in both])


def overlap_map(answer: Mapping[str, Any]) -> go.Figure | None:
    """Score x score: the part of the weights removed by one that the other removes too. None where fewer than two could be taken."""
    names = [label(name) for name in answer["metrics"]]
    if len(names) < 2:
        return None
    heat = go.Heatmap(
        x=names, y=names, z=[[100 * x for x in row] for row in answer["overlap"]], colorscale=SCALE, zmin=100 * answer["share"], zmax=100, xgap=1, ygap=1,
        texttemplate="%{z:.0f}", textfont={"size": 11}, hovertemplate="%{y} and %{x}: %{z:.1f} % in common<extra></extra>",
        colorbar={"title": {**titled("% in common; dark = chance"), "side": "right"}, "thickness": 10, "outlinewidth": 0, "len": 0.96},
    )  # fmt: skip
    figure = go.Figure(heat)
    figure.update_layout(margin={**MARGIN, "l": 130, "b": 84, "r": 4})
    figure.update_xaxes(type="category", showgrid=False, tickangle=-35)
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False)
    return figure


def overlap_finding(answer: Mapping[str, Any]) -> str:
    """The two scores, random aside, whose masks of this layer differ most, in a sentence."""
    names = answer["metrics"]
    found = [
        (answer["overlap"][a][b], a, b) for a, b in combinations(range(len(names)), 2) if "random" not in (names[a], names[b])
    ]
    if not found:
        return f"Fewer than two scores can be had for {answer['name']}"
    x, a, b = min(found)
    chance = f"{100 * answer['share']:.0f} % is chance"
    return f"{label(names[a])} and {label(names[b])} differ most on {answer['name']}: {100 * x:.0f} % of what goes in common ({chance})"


def overlap_table(answer: Mapping[str, Any]) -> pd.DataFrame:
    names = answer["metrics"]
    rows = [
        [label(names[a]), label(names[b]), round(100 * answer["overlap"][a][b], 2)] for a, b in combinations(range(len(names)), 2)
    ]
    return pd.DataFrame(sorted(rows, key=lambda row: row[2]), columns=["Score", "And", "In common %"])
