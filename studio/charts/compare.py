"""Figures of runs side by side. Pure: what core.compare reads goes in, a Picture comes out: figure, finding, and the same as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from core import compare
from core.compare import LETTERS, Side, masks
from core.compare.words import written
from studio.charts.run import layer_axis
from studio.theme import COLOURS, SEQUENCE

COSTS = {
    "nonzero": "weights that are not zero",
    "size_bytes": "bytes on disk",
    "flops_per_token": "FLOPs a token (image)",
    "latency_ms": "latency (ms)",
}
MARGIN = {"l": 62, "r": 16, "t": 30, "b": 56}
_DIVERGING = [[0.0, SEQUENCE[0]], [0.5, "#f1f0ea"], [1.0, SEQUENCE[1]]]
_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "x", "star", "hexagon")


FRONT = "no other beats these (costs within 0.5 % are alike)"


@dataclass(frozen=True)
class Picture:
    """finding: the title, a sentence; figure None where there is nothing to draw, and the finding says why."""

    finding: str
    figure: go.Figure | None = None
    headers: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def front_line(places: Sequence[tuple[float, float]], best: Sequence[int]) -> go.Figure:
    """A figure with the dotted line through those that no other beats in both."""
    figure = go.Figure()
    figure.add_scatter(
        x=[places[i][0] for i in best], y=[places[i][1] for i in best], mode="lines", name=FRONT, hoverinfo="skip",
        line={"color": COLOURS["muted"], "width": 1.5, "dash": "dot", "shape": "hv"},
    )  # fmt: skip
    return figure


def quality_axis(key: str) -> dict[str, Any]:
    """Title of the axis of a figure of quality: which, and which way is better."""
    return {
        "title": {"text": f"{compare.FIGURES[key][0].lower()} ({'lower' if compare.FIGURES[key][2] else 'higher'} is better)"}
    }


def pareto(found: Sequence[Side], cost: str = "nonzero") -> Picture:
    """Quality against a cost: a point for each final model and for the dense one, and the line of those that no other beats in both."""
    key = compare.quality_key(found)
    if key is None:
        return Picture("No quality was measured in these runs: tick Quality before the next one.")
    less = compare.FIGURES[key][2]
    points = compare.placed(found, key, cost)
    if len(points) < 2:
        return Picture(f"Fewer than two of these models have both {compare.FIGURES[key][0].lower()} and {COSTS[cost]}.")
    places = [(x, y) for _, x, y, _ in points]
    best = compare.front(places, less)
    figure = front_line(places, best)
    for name, x, y, number in points:
        figure.add_scatter(
            x=[x], y=[y], mode="markers+text", name=escape(name), text=[name.split(" · ")[0]], textposition="top center", cliponaxis=False,
            marker=marker(number),
            hovertemplate=f"{escape(name)}<br>{written(cost, x)}<br>{compare.FIGURES[key][0].lower()} {written(key, y)}<extra></extra>",
        )  # fmt: skip
    figure.update_layout(
        xaxis={"title": {"text": COSTS[cost]}, "rangemode": "tozero"},
        yaxis=quality_axis(key),
        legend={"orientation": "h", "y": -0.22, "x": 0},
        margin={**MARGIN, "b": 90},
    )
    names = [points[i][0].split(" · ")[0] for i in best]
    beaten = [point[0].split(" · ")[0] for i, point in enumerate(points) if i not in best]
    finding = f"{_listed(names)} {'is' if len(names) == 1 else 'are'} not beaten in both quality and {COSTS[cost]}"
    finding += f"; {_listed(beaten)} {'is' if len(beaten) == 1 else 'are'}" if beaten else ""
    rows = tuple((n, written(cost, x), written(key, y), "yes" if i in best else "no") for i, (n, x, y, _) in enumerate(points))
    return Picture(finding, figure, ("Model", COSTS[cost].capitalize(), compare.FIGURES[key][0], "On the front"), rows)


def marker(number: int | None) -> dict[str, Any]:
    if number is None:
        return {"size": 12, "color": COLOURS["dense"], "symbol": "circle-open", "line": {"width": 2}}
    return {"size": 12, "color": SEQUENCE[number], "symbol": _SYMBOLS[number]}


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def sparsity(found: Sequence[Side]) -> Picture:
    """Where each run took its share: a stepped line a run. Layers that only some of them have stand too."""
    order = sorted(dict.fromkeys(escape(str(layer["name"])) for at in found for layer in at.layers), key=masks.by_block)
    if not order:
        return Picture("None of these runs names layers.")
    figure, shares = go.Figure(), []
    for number, (at, name) in enumerate(zip(found, compare.lettered(found), strict=True)):
        own = {escape(str(layer["name"])): 100 * float(layer["sparsity"]) for layer in at.layers}
        shares.append(own)
        figure.add_scatter(
            x=order, y=[own.get(layer) for layer in order], name=escape(name), mode="lines+markers",
            line={"color": SEQUENCE[number], "width": 2, "shape": "hvh", "dash": ("solid", "dot", "dash", "dashdot")[number % 4]},
            marker={"size": 6, "symbol": _SYMBOLS[number]}, hovertemplate="%{x}<br>%{y:.1f} % removed<extra></extra>",
        )  # fmt: skip
    figure.update_layout(
        yaxis={"title": {"text": "% removed"}, "range": [0, 100]}, xaxis=layer_axis(order), legend={"orientation": "h", "y": 1.16, "x": 0}, margin=MARGIN,
    )  # fmt: skip
    spread = {name: max(own.get(name, 0.0) for own in shares) - min(own.get(name, 0.0) for own in shares) for name in order}
    widest = max(order, key=spread.__getitem__)
    finding = (
        f"The runs differ most in {widest}: by {spread[widest]:.0f} points"
        if len(found) > 1 and spread[widest] >= 0.5
        else "All took the same share of every layer"
    )
    headers = ("Layer", *(f"{LETTERS[n]} removed %" for n in range(len(found))))
    return Picture(
        finding, figure, headers, tuple((name, *(f"{own[name]:.1f}" if name in own else "" for own in shares)) for name in order)
    )


def overlap(found: Sequence[Side], limit: int = 400) -> Picture:
    """How far each other run prunes what the first one prunes: Jaccard of the pruned sets, layer by layer, and what chance would give."""
    figure, rows, means = go.Figure(), [], []
    for number, other in enumerate(found[1:], 1):
        told = [row for row in masks.overlaps(found[0], other) if row["jaccard"] < 1 or row["chance"] < 1][:limit]
        if not told:
            continue
        names = [escape(masks.label(str(row["name"]))) for row in told]
        mean, chance = (float(np.mean([row[key] for row in told])) for key in ("jaccard", "chance"))
        means.append((mean, chance, LETTERS[number]))
        figure.add_scatter(
            x=names, y=[row["jaccard"] for row in told], name=f"A and {LETTERS[number]}", mode="lines+markers", marker={"size": 6, "symbol": _SYMBOLS[number]},
            line={"color": SEQUENCE[number], "width": 2}, hovertemplate="%{x}<br>overlap %{y:.3f}<extra></extra>",
        )  # fmt: skip
        figure.add_scatter(
            x=names, y=[row["chance"] for row in told], name=f"by chance, A and {LETTERS[number]}", mode="lines", hoverinfo="skip",
            line={"color": SEQUENCE[number], "width": 1, "dash": "dot"},
        )  # fmt: skip
        pair = f"A and {LETTERS[number]}"
        rows += [
            (pair, n, *(f"{row[key]:.3f}" for key in ("jaccard", "chance", "agree"))) for n, row in zip(names, told, strict=True)
        ]
    if not means:
        return Picture("No mask of the same shape was left by two of these runs, so none can be laid over another.")
    figure.update_layout(
        yaxis={"title": {"text": "overlap of what is pruned (Jaccard)"}, "range": [0, 1.02]}, margin=MARGIN, legend={"orientation": "h", "y": 1.16, "x": 0},
        xaxis=layer_axis([str(row[1]) for row in rows]),
    )  # fmt: skip
    mean, chance, letter = min(means)
    finding = f"A and {letter} share {100 * mean:.0f} % of all they prune between them; chance would give {100 * chance:.0f} %"
    return Picture(finding, figure, ("Runs", "Mask", "Jaccard", "By chance", "Agreement"), tuple(rows))


def difference_map(found: Sequence[Side], other: int, layer: str) -> Picture:
    """Where in one matrix two runs differ in what they prune."""
    one, two = (
        masks.masks(found[0].path).get(layer),
        masks.masks(found[other].path).get(layer) if other < len(found) else None,
    )
    tiles = masks.difference_map(one, two) if one is not None and two is not None else None
    if tiles is None:
        return Picture("These two runs have no mask of the same shape there.")
    letter, told = LETTERS[other], masks.overlap(one, two)
    height, width = one.shape[0], int(np.prod(one.shape[1:])) or 1
    figure = go.Figure(
        go.Heatmap(
            z=tiles, x=np.linspace(0, width, tiles.shape[1] + 1), y=np.linspace(0, height, tiles.shape[0] + 1), zmin=-1, zmax=1, colorscale=_DIVERGING,
            colorbar={"thickness": 10, "outlinewidth": 0, "tickvals": [-1, 0, 1], "ticktext": ["only A", "alike", f"only {letter}"]},
            hovertemplate="row %{y:.0f}, column %{x:.0f}<br>%{z:+.2f}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_layout(margin=MARGIN)
    figure.update_xaxes(title={"text": "input (column)"}, showgrid=False)
    figure.update_yaxes(title={"text": "output (row)"}, autorange="reversed", showgrid=False)
    by_row = np.abs(np.asarray(tiles)).mean(1)
    finding = f"A and {letter} agree on {100 * told['agree']:.0f} % of the weights of {masks.label(layer)}"
    only_a, only_b = int(np.count_nonzero(two & ~one)), int(np.count_nonzero(one & ~two))
    rows = (
        ("Pruned by A alone", f"{only_a:,}"),
        (f"Pruned by {letter} alone", f"{only_b:,}"),
        ("Pruned by both", f"{int(np.count_nonzero(~one & ~two)):,}"),
        ("Kept by both", f"{int(np.count_nonzero(one & two)):,}"),
        ("Rows where they differ most begin at", f"{int(by_row.argmax() * height / len(by_row)):,}"),
    )
    return Picture(finding, figure, ("What", "Weights"), rows)


def heads(found: Sequence[Side], number: int) -> Picture:
    """Block x head: the share removed of each attention head; of another run than the first, against the first."""
    own, first = masks.heads(found[number]), masks.heads(found[0])
    if not own:
        return Picture(f"{LETTERS[number]} left no mask on attention heads.")
    against = number > 0 and own.keys() == first.keys() and all(len(own[name]) == len(first[name]) for name in own)
    names, most = list(own), max(len(values) for values in own.values())
    base = {name: first[name] if against else [0.0] * len(own[name]) for name in own}
    grid = [[100 * (own[n][i] - base[n][i]) if i < len(own[n]) else None for i in range(most)] for n in names]
    colours: dict[str, Any] = {"colorscale": [[0, "#f6f3e4"], [1, SEQUENCE[1]]], "zmin": 0, "zmax": 100}
    if against:
        reach = max(max(abs(x) for row in grid for x in row if x is not None), 1.0)
        colours = {"colorscale": _DIVERGING, "zmin": -reach, "zmax": reach}
    figure = go.Figure(
        go.Heatmap(
            z=grid, x=[str(i) for i in range(most)], y=[escape(name.removeprefix("blocks.")) for name in names], xgap=2, ygap=2, **colours,
            colorbar={"thickness": 10, "outlinewidth": 0, "title": {"text": "points" if against else "% removed", "side": "right"}},
            hovertemplate="block %{y}, head %{x}: %{z:.1f}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_xaxes(title={"text": "head"}, type="category", showgrid=False)
    figure.update_yaxes(title={"text": "block"}, type="category", autorange="reversed", showgrid=False)
    figure.update_layout(margin=MARGIN)
    flat = [(value, n, i) for n, row in zip(names, grid, strict=True) for i, value in enumerate(row) if value is not None]
    value, block, head = max(flat, key=lambda item: abs(item[0]))
    words = (
        f"{LETTERS[number]} takes {abs(value):.0f} points {'more' if value > 0 else 'less'} than A"
        if against
        else f"A takes {value:.0f} %"
    )
    if not against:
        words = words.replace("A takes", f"{LETTERS[number]} takes")
    finding = f"{words} of head {head} in block {block.removeprefix('blocks.')}, the {'widest difference' if against else 'most of all heads'}"
    rows = tuple(
        (n, str(i), f"{100 * own[n][i]:.1f}", f"{100 * base[n][i]:.1f}" if against else "")
        for n in names
        for i in range(len(own[n]))
    )
    return Picture(finding, figure, ("Block", "Head", f"{LETTERS[number]} removed %", "A removed %"), rows)
