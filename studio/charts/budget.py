"""What each block costs when it alone is pruned, and a budget as a table. Pure functions, no screen."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from core.budget import HIGHEST_SHARE, CostCurves, cost_at
from studio.charts.xray import MARGIN, titled
from studio.theme import SCALE, SEQUENCE

_TIMES = [1, 1.5, 2, 3, 5, 10, 20, 50, 100, 1e3, 1e4, 1e6, 1e9]  # ticks of a logarithmic axis


def cost_lines(curves: CostCurves, shares: Mapping[str, float]) -> go.Figure:
    """A line a block: how many times the quality figure grows with the share removed from that block alone; dots mark the present budget."""
    figure = go.Figure()
    units = list(curves.cost)
    for position, unit in enumerate(units):
        colour = SEQUENCE[position] if len(units) <= len(SEQUENCE) else _along(position / (len(units) - 1))
        name = f"block {unit.rpartition('.')[2]}"
        figure.add_scatter(
            x=[100 * level for level in curves.levels], y=[math.exp(min(x, 300.0)) for x in curves.cost[unit]], name=name, mode="lines",
            line={"color": colour, "width": 2}, hovertemplate=f"{name}, %{{x:.0f}} % removed: × %{{y:.3f}}<extra></extra>",
        )  # fmt: skip
        reach = [curves.levels[-1], HIGHEST_SHARE]  # beyond the last measured level the slope is carried on: dotted
        figure.add_scatter(
            x=[100 * level for level in reach], y=[math.exp(min(cost_at(curves, unit, level), 300.0)) for level in reach], mode="lines",
            line={"color": colour, "width": 1.5, "dash": "dot"}, showlegend=False, hoverinfo="skip",
        )  # fmt: skip
        share = shares.get(unit, 0.0)
        if share > 0:
            figure.add_scatter(
                x=[100 * share], y=[math.exp(min(cost_at(curves, unit, share), 300.0))], mode="markers", showlegend=False,
                marker={"color": colour, "size": 9}, hovertemplate=f"{name}, now %{{x:.1f}} %: × %{{y:.3f}}<extra></extra>",
            )  # fmt: skip
    steep = max((values[-1] for values in curves.cost.values()), default=0.0) > math.log(4)
    figure.update_layout(margin=MARGIN, showlegend=len(units) <= 12, legend={"orientation": "h", "y": 1.12, "x": 0})
    figure.update_xaxes(title=titled("share removed from that block alone, %"), zeroline=False, range=[0, 97])
    figure.update_yaxes(
        title=titled(f"{curves.metric}, times the dense one"),
        type="log" if steep else "linear",
        tickvals=_TIMES if steep else None,
        zeroline=False,
    )
    return figure


def cost_finding(curves: CostCurves) -> str:
    """Which block is the dearest and which the cheapest to prune, at the level nearest to half."""
    if not curves.cost:
        return "No block has a cost curve"
    at = min(range(len(curves.levels)), key=lambda i: abs(curves.levels[i] - 0.5))
    worst, best = (choose(curves.cost, key=lambda unit: curves.cost[unit][at]) for choose in (max, min))
    names = [unit.rpartition(".")[2] for unit in (worst, best)]
    if worst == best:
        return f"Block {names[0]} at {curves.levels[at]:.0%}: {curves.metric} × {math.exp(curves.cost[worst][at]):.2f}".replace(
            "%", " %"
        )
    return (
        f"Block {names[0]} is the dearest to prune, block {names[1]} the cheapest (each alone at {100 * curves.levels[at]:.0f} %)"
    )


def table(
    sizes: Mapping[str, int],
    shares: Mapping[str, float],
    locked: tuple[str, ...],
    curves: CostCurves | None,
    measured: Mapping[str, float],
) -> pd.DataFrame:
    """The editable table twin of the bars: a row a block. Cost: times the dense quality figure, that block alone."""
    rows = []
    for unit, size in sizes.items():
        share = shares.get(unit, 0.0)
        cost = round(math.exp(min(cost_at(curves, unit, share), 300.0)), 4) if curves and unit in curves.cost else None
        last = measured.get(unit)
        rows.append(
            [
                unit,
                round(100 * share, 2),
                unit in locked,
                size,
                round(size * (1 - share)),
                cost,
                None if last is None else round(100 * last, 2),
            ]
        )
    return pd.DataFrame(rows, columns=["Block", "Remove %", "Locked", "Weights", "Kept", "Cost alone ×", "Last run %"])


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
