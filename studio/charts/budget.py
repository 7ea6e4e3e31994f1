"""What each block costs when it alone is pruned, and a budget as a table. Pure functions, no screen."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from statistics import median
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from core.budget import HIGHEST_SHARE, CostCurves, by_part, combined, cost_at, estimate
from core.proposals import Parts
from studio.charts.xray import MARGIN, titled
from studio.known import Trial
from studio.theme import COLOURS, SCALE, SEQUENCE

_LINES = 64  # lines drawn of a deeper model: every second block, or every third ...
_PERCENTS = [0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 500, 1e3, 1e4]
_TIMES = [1, 1.5, 2, 3, 5, 10, 20, 50, 100, 1e3, 1e4, 1e6, 1e9]  # ticks of a logarithmic axis


def cost_lines(curves: CostCurves, parts: Parts, shares: Mapping[str, float]) -> go.Figure:
    """A line a block: how many times the quality figure grows with the share removed from that block alone; dots mark the present budget."""
    figure = go.Figure()
    members, present = _members(parts), by_part(shares, parts.block)
    blocks = list(members) if len(members) <= _LINES else [*members][:: -(-len(members) // _LINES)]
    for position, block in enumerate(blocks):
        colour = SEQUENCE[position] if len(blocks) <= len(SEQUENCE) else _along(position / (len(blocks) - 1))
        name, names = f"block {block.rpartition('.')[2]}", members[block]
        at = [level for level in curves.levels if level < HIGHEST_SHARE] + [HIGHEST_SHARE]
        figure.add_scatter(
            x=[100 * level for level in at], y=[_times(curves, dict.fromkeys(names, level)) for level in at], name=name, mode="lines",
            line={"color": colour, "width": 2}, hovertemplate=f"{name}, %{{x:.0f}} % removed: × %{{y:.3f}}<extra></extra>",
        )  # fmt: skip
        mine = {part: present[part] for part in names}
        if any(mine.values()):
            share = sum(mine[part] * parts.sizes[part] for part in names) / max(sum(parts.sizes[part] for part in names), 1)
            figure.add_scatter(
                x=[100 * share], y=[_times(curves, mine)], mode="markers", showlegend=False,
                marker={"color": colour, "size": 9}, hovertemplate=f"{name}, now %{{x:.1f}} %: × %{{y:.3f}}<extra></extra>",
            )  # fmt: skip
    steep = max((_increase(curves, dict.fromkeys(names, HIGHEST_SHARE)) for names in members.values()), default=0.0) > math.log(4)
    figure.update_layout(margin=MARGIN, showlegend=len(blocks) <= 12, legend={"orientation": "h", "y": 1.12, "x": 0})
    figure.update_xaxes(title=titled("share removed from that block alone, %"), zeroline=False, range=[0, 97])
    figure.update_yaxes(
        title=titled(f"{curves.metric}, times the dense one"),
        type="log" if steep else "linear",
        tickvals=_TIMES if steep else None,
        zeroline=False,
    )
    return figure


def cost_finding(curves: CostCurves, parts: Parts) -> str:
    """Which block is the dearest and which the cheapest to prune, at half."""
    cost = {block: _increase(curves, dict.fromkeys(names, 0.5)) for block, names in _members(parts).items()}
    if not curves.cost or not cost:
        return "No block has a cost curve"
    worst, best = (choose(cost, key=cost.__getitem__) for choose in (max, min))
    names = [unit.rpartition(".")[2] for unit in (worst, best)]
    if worst == best:
        return f"Block {names[0]} at 50 %: {curves.metric} × {math.exp(min(cost[worst], 300.0)):.2f}"
    return f"Block {names[0]} is the dearest to prune, block {names[1]} the cheapest (each alone at 50 %)"


def table(
    parts: Parts, shares: Mapping[str, float], locked: Collection[str], curves: CostCurves | None, measured: Mapping[str, float]
) -> pd.DataFrame:
    """The editable table twin of the bars: a row a block, or a row a layer where a block's layers differ. Cost: times the dense figure, that row alone."""
    present, shut = by_part(shares, parts.block), by_part(dict.fromkeys(locked, 1.0), parts.block)
    rows = []
    for block, names in _members(parts).items():
        alike = len({(present[part], shut[part]) for part in names}) == 1
        for unit, mine in [(block, names)] if alike else [(part, [part]) for part in names]:
            size, share = sum(parts.sizes[part] for part in mine), present[mine[0]]
            cost = round(_times(curves, {part: present[part] for part in mine}), 4) if curves else None
            last = sum(measured.get(part, 0.0) * parts.sizes[part] for part in mine) / max(size, 1) if measured else None
            last = None if last is None else round(100 * last, 2)
            rows.append([unit, round(100 * share, 2), bool(shut[mine[0]]), size, round(size * (1 - share)), cost, last])
    return pd.DataFrame(rows, columns=["Block", "Remove %", "Locked", "Weights", "Kept", "Cost alone ×", "Last run %"])


def frontier_table(curves: CostCurves, parts: Parts, points: Sequence[tuple[float, float]], shares: Mapping[str, float],
                   each: float, total: int) -> pd.DataFrame:  # fmt: skip
    """The table twin of the frontier: the present budget, then for every size the best budget's predicted quality, and that of a uniform one.

    points: (weights removed, predicted log increase) of the best budgets; each: bytes of a parameter; total: parameters of the model."""
    prunable = max(sum(parts.sizes.values()), 1)

    def row(what: str, removed: float, quality: float) -> list[Any]:
        even = _increase(curves, dict.fromkeys(parts.sizes, min(removed / prunable, HIGHEST_SHARE)))
        size, uniform = (total - removed) * each / 1e6, curves.dense * math.exp(min(even, 300.0))
        return [what, round(size, 4), round(100 * removed / prunable, 2), float(f"{quality:.6g}"), float(f"{uniform:.6g}")]

    present = estimate(curves, parts.sizes, by_part(shares, parts.block))
    best = [row("best", removed, curves.dense * math.exp(min(increase, 300.0))) for removed, increase in points]
    metric = curves.metric.capitalize()
    columns = [
        "Budget",
        "MB not zero",
        "Removed of the blocks %",
        f"{metric}, predicted",
        f"{metric} of a uniform one, predicted",
    ]
    return pd.DataFrame([row("this one", present.total - present.kept, present.quality), *best], columns=columns)


Pair = tuple[Trial, float, float]  # a run, the predicted and the measured log increase


def tested(pairs: Sequence[Pair], curves: CostCurves) -> go.Figure:
    """A point a finished run: the increase that these curves predict against the one it measured; on the diagonal they agree."""
    said, true = ([100 * math.expm1(pair[at]) for pair in pairs] for at in (1, 2))
    reach = [0.8 * min(*said, *true), 1.25 * max(*said, *true)]
    figure = go.Figure()
    if curves.within:
        low, high = ([100 * math.expm1(math.log1p(x / 100) * math.exp(sign * curves.within)) for x in reach] for sign in (-1, 1))
        figure.add_scatter(x=[*reach, *reach[::-1]], y=[*low, *high[::-1]], fill="toself", mode="none", fillcolor="rgba(138, 150, 142, 0.16)",
                           name="nine in ten, expected", hoverinfo="skip")  # fmt: skip
    figure.add_scatter(
        x=reach,
        y=reach,
        mode="lines",
        line={"color": COLOURS["muted"], "width": 1.5, "dash": "dash"},
        name="as predicted",
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=said, y=true, mode="markers", name="a run", text=[pair[0].run for pair in pairs], marker={"color": COLOURS["warn"], "size": 11},
        hovertemplate="%{text}: predicted +%{x:.1f} %, measured +%{y:.1f} %<extra></extra>",
    )  # fmt: skip
    figure.update_layout(margin=MARGIN, legend={"orientation": "h", "y": 1.12, "x": 0})
    axis = {
        "type": "log",
        "range": [math.log10(max(x, 1e-3)) for x in reach],
        "tickvals": _PERCENTS,
        "ticktext": [f"{x:g}" for x in _PERCENTS],
    }
    figure.update_xaxes(title=titled(f"predicted increase of the {curves.metric}, %"), **axis)
    figure.update_yaxes(title=titled("measured increase, %"), **axis)
    return figure


def tested_finding(pairs: Sequence[Pair], curves: CostCurves) -> str:
    """How far past predictions were off."""
    if not pairs:
        return ""
    off = median(abs(said / true - 1) for _, said, true in pairs)
    runs = "one run" if len(pairs) == 1 else f"{len(pairs)} runs"
    return f"Past predictions of the {curves.metric}'s increase were off by {100 * off:.0f} % (median of {runs})"


def tested_table(pairs: Sequence[Pair]) -> pd.DataFrame:
    rows = [[trial.run, trial.method, round(100 * trial.sparsity, 1), round(100 * math.expm1(said), 2), round(100 * math.expm1(true), 2),
             round(100 * (said / true - 1), 1)] for trial, said, true in pairs]  # fmt: skip
    return pd.DataFrame(
        rows, columns=["Run", "Method", "Removed %", "Predicted increase %", "Measured increase %", "Prediction off by %"]
    )


def _members(parts: Parts) -> dict[str, list[str]]:
    out: dict[str, list[str]] = {}
    for part, block in parts.block.items():
        out.setdefault(block, []).append(part)
    return out


def _increase(curves: CostCurves, shares: Mapping[str, float]) -> float:
    """The log increase of these layers pruned and no others."""
    return combined(curves, sum(cost_at(curves, part, share) for part, share in shares.items() if part in curves.cost))


def _times(curves: CostCurves, shares: Mapping[str, float]) -> float:
    return math.exp(min(_increase(curves, shares), 300.0))


def _along(part: float) -> str:
    """A colour on the ramp, kept away from its ends, which vanish on a dark or a light page."""
    part = 0.3 + 0.48 * part
    right = next(i for i, (stop, _) in enumerate(SCALE) if stop >= part)
    (low, a), (high, b) = SCALE[right - 1], SCALE[right]
    mixed = [
        round(int(a[i : i + 2], 16) + (int(b[i : i + 2], 16) - int(a[i : i + 2], 16)) * (part - low) / (high - low))
        for i in (1, 3, 5)
    ]
    return f"rgb({mixed[0]}, {mixed[1]}, {mixed[2]})"
