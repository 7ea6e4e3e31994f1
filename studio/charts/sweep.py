"""The cells of a sweep as points. Pure: what core.compare reads goes in, a Picture comes out."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from core import compare
from core.compare import Side
from core.compare.words import written
from studio.charts.compare import COSTS, MARGIN, Picture, front_line, marker, quality_axis
from studio.theme import COLOURS


def pareto_of_many(found: Sequence[Side], cost: str = "nonzero") -> Picture:
    """As compare.pareto, for the many cells of a sweep: points of one colour, named when pointed at."""
    key = compare.quality_key(found)
    have = [
        at
        for at in found
        if key and None not in (at.final.get(key), at.final.get(cost)) and not compare.incomparable(key, found[0], at)
    ]
    if key is None or len(have) < 2:
        return Picture("Fewer than two cells have a quality to compare")
    less = compare.FIGURES[key][2]
    places = [(float(at.final[cost]), float(at.final[key])) for at in have]
    best = compare.front(places, less)
    figure = front_line(places, best)
    for on, name, colour in ((True, "on the front", COLOURS["accent"]), (False, "beaten", COLOURS["muted"])):
        some = [i for i in range(len(have)) if (i in best) == on]
        figure.add_scatter(
            x=[places[i][0] for i in some], y=[places[i][1] for i in some], text=[escape(have[i].name) for i in some], mode="markers", name=name,
            marker={"size": 10, "color": colour, "symbol": "circle" if on else "circle-open"}, hovertemplate="%{text}<br>%{x:,.0f}, %{y:.4g}<extra></extra>",
        )  # fmt: skip
    dense = found[0].dense
    if dense.get(cost) is not None and dense.get(key) is not None:
        figure.add_scatter(x=[dense[cost]], y=[dense[key]], mode="markers", name="dense", marker=marker(None))
    ys = sorted(y for _, y in places)
    axis = quality_axis(key)
    if less and ys[0] > 0 and ys[-1] / ys[0] > 20:
        axis["type"] = "log"
    figure.update_layout(
        xaxis={"title": {"text": COSTS[cost]}, "rangemode": "tozero"}, yaxis=axis, legend={"orientation": "h", "y": 1.16, "x": 0}, margin=MARGIN,
    )  # fmt: skip
    top = have[best[-1]] if not less else have[min(range(len(have)), key=lambda i: places[i][1])]
    return Picture(f"{top.name} has the best {compare.FIGURES[key][0].lower()} ({written(key, top.final[key])})", figure)
