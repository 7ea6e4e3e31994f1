"""A data set in every block of a model: geometry.json -> curves with their levels of chance, heat maps of likeness, findings, tables. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from studio.charts.xray import MARGIN, titled
from studio.theme import COLOURS

Found = Mapping[str, Any]
GAUSS, SHUFFLED = "Gaussian vectors of the same number and width", "shuffled classes"


@dataclass(frozen=True)
class Measure:
    """label: in lists; axis: with its unit; said: in the middle of a sentence; level: what the dotted line is, "" for none."""

    label: str
    axis: str
    said: str
    level: str = ""


MEASURES = {
    "two_nn": Measure("Intrinsic dimension (TwoNN)", "dimensions", "the intrinsic dimension", GAUSS),
    "mle": Measure("Intrinsic dimension (MLE)", "dimensions", "the intrinsic dimension (MLE)", GAUSS),
    "participation": Measure("Participation ratio", "directions, sample bias removed", "the participation ratio", GAUSS),
    "effective_rank": Measure("Effective rank", "directions", "the effective rank", GAUSS),
    "raw": Measure("Anisotropy", "mean cosine of two rows", "the mean cosine", "directions drawn at random"),
    "centred": Measure(
        "Anisotropy, centred", "mean cosine after the mean is taken away", "the centred mean cosine", "directions drawn at random"
    ),
    "loudest": Measure(
        "Loudest three features", "share of all squared length", "the share of the three loudest features", "all features alike"
    ),
    "hubness": Measure("Hubness", "skewness of how often a row is a neighbour", "hubness", GAUSS),
    "uniformity": Measure("Uniformity", "log mean exp(−2 d²), lower is more even", "uniformity", GAUSS),
    "nc1": Measure("Neural collapse 1: spread", "tr(Sw Sb⁺) / C, 0 = collapsed", "the spread within classes (NC1)", SHUFFLED),
    "nc2_norm": Measure(
        "Neural collapse 2: lengths", "spread of the class means' lengths / mean", "the unevenness of class means (NC2)", SHUFFLED
    ),
    "nc2_angle": Measure(
        "Neural collapse 2: angles", "mean |cosine + 1 / (C − 1)|", "the distance from equal angles (NC2)", SHUFFLED
    ),
    "nc3": Measure(
        "Neural collapse 3: self-duality",
        "distance of weights and class means",
        "the distance of weights and class means (NC3)",
        SHUFFLED,
    ),
    "nc4": Measure(
        "Neural collapse 4: nearest mean",
        "share of answers that are the nearest class mean",
        "agreement with the nearest mean (NC4)",
        SHUFFLED,
    ),
    "ncc": Measure(
        "Nearest class mean is right",
        "share of rows, means from the other half",
        "the share of rows nearest to their own class",
        SHUFFLED,
    ),
    "alignment": Measure("Alignment", "mean squared distance in a class, 0 best", "the distance within classes", SHUFFLED),
    "silhouette": Measure("Silhouette of the classes", "−1..1", "the silhouette of the classes", SHUFFLED),
    "davies_bouldin": Measure(
        "Davies-Bouldin of the classes", "spread / distance, lower is cleaner", "the Davies-Bouldin index", SHUFFLED
    ),
    "ami": Measure("Clusters against classes (AMI)", "0 = chance, 1 = equal", "the agreement of clusters and classes", SHUFFLED),
}
CHANGES = {
    "kept": Measure("Change: neighbours kept", "share of neighbours kept, %", "the share of neighbours kept", "chance"),
    "procrustes": Measure("Change: what no rotation explains", "Procrustes residual, 0..1", "what no rotation explains"),
    "cka": Measure("Change: debiased CKA", "debiased CKA, 1 = alike", "debiased CKA"),
    "moved": Measure("Change: distance moved", "share of the mean distance from the mean", "the distance moved"),
}
_COLOURS = (COLOURS["dense"], COLOURS["pruned"])


def shown(found: Found) -> list[tuple[str, str]]:
    """(label, name) of every measure that these rows have a figure for."""
    have = [name for name in MEASURES if any(x is not None for x in found["sides"][0]["measures"].get(name) or ())]
    return [(MEASURES[name].label, name) for name in have] + (
        [(CHANGES[name].label, name) for name in CHANGES] if found["drift"] else []
    )


def words(layer: str) -> str:
    """A place in a model, in the middle of a sentence."""
    return {"input": "the input", "head": "the last layer's input"}.get(layer, f"block {layer.removeprefix('blocks.')}")


def tick(layer: str) -> str:
    """A place in a model, on an axis."""
    return layer.removeprefix("blocks.")


def side_name(name: str) -> str:
    return name.removeprefix("builtin:").rstrip("/").rsplit("/", 1)[-1]


@dataclass(frozen=True)
class _Line:
    name: str
    layers: list[str]
    values: list[float | None]
    chance: list[float | None]


def _lines(found: Found, measure: str) -> list[_Line]:
    if measure in CHANGES:
        drift = found["drift"] or {"layers": [], "against": "", "chance_kept": None}
        scale = 100 if measure == "kept" else 1
        values = [None if row[measure] is None else scale * row[measure] for row in drift["layers"]]
        chance = [100 * drift["chance_kept"] if measure == "kept" else None] * len(values)
        return [_Line(side_name(drift["against"]), [row["layer"] for row in drift["layers"]], values, chance)]
    return [
        _Line(side_name(side["name"]), side["layers"], side["measures"].get(measure) or [], side["chance"].get(measure) or [])
        for side in found["sides"]
    ]


def curves(found: Found, measure: str) -> go.Figure | None:
    """A measure from block to block, a line a model, its level of chance dotted in the same colour. None where no block has it."""
    lines, about = _lines(found, measure), (MEASURES | CHANGES)[measure]
    if not any(x is not None for line in lines for x in line.values):
        return None
    figure = go.Figure()
    for place, line in enumerate(lines):
        colour = COLOURS["accent"] if len(lines) == 1 else _COLOURS[place % 2]
        x = [tick(layer) for layer in line.layers]
        single = sum(v is not None for v in line.values) == 1
        if any(value is not None for value in line.chance) and (place == 0 or line.chance != lines[0].chance):
            figure.add_scatter(
                x=x, y=line.chance, mode="markers" if single else "lines", name=about.level + (f", {escape(line.name)}" if place else ""),
                line={"color": colour if place else COLOURS["muted"], "dash": "dot", "width": 1.8},
                marker={"symbol": "line-ew-open", "size": 16}, hovertemplate="%{x}: %{y:.4g} by chance<extra></extra>",
            )  # fmt: skip
        figure.add_scatter(
            x=x, y=line.values, mode="lines+markers", name=escape(line.name), line={"color": colour, "width": 2.6},
            marker={"size": 8, "symbol": ("circle", "diamond")[place % 2], "color": colour}, hovertemplate="%{x}: %{y:.4g}<extra></extra>",
        )  # fmt: skip
    figure.update_layout(margin={**MARGIN, "b": 84}, legend={"orientation": "h", "y": -0.26, "x": 0, "font": {"size": 12}})
    figure.update_xaxes(title=titled("after block"), type="category", showgrid=False, nticks=18, tickangle=0)
    figure.update_yaxes(title=titled(about.axis), zeroline=False)
    _without_far_chance(figure, lines, about)
    return figure


def _without_far_chance(figure: go.Figure, lines: list[_Line], about: Measure) -> None:
    """Where chance is so far off that the curve would be flat, the axis keeps to the curve, and an arrow says where chance is."""
    values = [value for line in lines for value in line.values if value is not None]
    levels = [value for line in lines for value in line.chance if value is not None]
    low, high = min(values), max(values)
    span = max(high - low, 0.05 * max(abs(low), abs(high)), 1e-9)
    above, below = bool(levels) and min(levels) > high + 2 * span, bool(levels) and max(levels) < low - 2 * span
    if not (above or below):
        return
    figure.update_yaxes(range=[low - 0.3 * span, high + 0.3 * span])
    some = sorted({_number(min(levels)), _number(max(levels))}, key=float)
    figure.add_annotation(
        x=0.99, y=0.98 if above else 0.02, xref="paper", yref="paper", xanchor="right", yanchor="top" if above else "bottom", showarrow=False,
        text=f"{'↑' if above else '↓'} {about.level}: {' to '.join(some)}", font={"size": 12},
    )  # fmt: skip


def curve_finding(found: Found, measure: str) -> str:
    """Where the measure is highest and lowest, or what changed most between two models, with chance beside it."""
    lines, about = _lines(found, measure), (MEASURES | CHANGES)[measure]
    have = [(value, at) for at, value in enumerate(lines[0].values) if value is not None]
    if not have:
        return f"{about.label} has no value here"
    if measure in CHANGES:
        return _change_finding(found, measure, lines[0])
    level = _level(lines[0], have[-1][1], about)
    both = _most_changed(lines)
    if both is not None:
        layer, one, two = both
        if abs(two - one) < 0.005 * max(abs(one), abs(two), 1e-9):
            return f"{_capital(about.said)} is the same in both models"
        return f"{_capital(about.said)} changes most after {words(layer)}: {_number(one)} in {lines[0].name}, {_number(two)} {_where(lines[1].name)}"
    first, last = have[0], have[-1]
    if len(have) == 1:
        return f"At {words(lines[0].layers[first[1]])}, {about.said} is {_number(first[0])}{level}"
    turn = max(have) if max(have)[1] not in (first[1], last[1]) else min(have)
    verb = "falls" if last[0] < first[0] else "rises"
    by_way = "" if turn[1] in (first[1], last[1]) else f", by way of {_number(turn[0])} after {words(lines[0].layers[turn[1]])}"
    return f"{_capital(about.said)} {verb} from {_number(first[0])} to {_number(last[0])}{by_way}{level}"


def _where(name: str) -> str:
    return name if name == "pruned" else f"in {name}"


def _level(line: _Line, at: int, about: Measure) -> str:
    value = line.chance[at] if at < len(line.chance) else None
    return "" if value is None else f" ({about.level}: {_number(value)})"


def _most_changed(lines: list[_Line]) -> tuple[str, float, float] | None:
    if len(lines) < 2:
        return None
    there = dict(zip(lines[1].layers, lines[1].values, strict=True))
    pairs = [
        (layer, one, there[layer])
        for layer, one in zip(*(lines[0].layers, lines[0].values), strict=True)
        if one is not None and there.get(layer) is not None
    ]
    return max(pairs, key=lambda pair: abs(pair[2] - pair[1]), default=None)


def _change_finding(found: Found, measure: str, line: _Line) -> str:
    less = measure in ("kept", "cka")
    have = [(value, layer) for value, layer in zip(line.values, line.layers, strict=True) if value is not None]
    value, layer = (min if less else max)(have)
    other = side_name(found["sides"][-1]["name"])
    between = "before and after pruning" if other == "pruned" else f"between {side_name(found['sides'][0]['name'])} and {other}"
    who = "from one block to the next" if len(found["sides"]) == 1 else between
    if measure == "kept":
        return f"Most neighbours change at {words(layer)}: {value:.0f} % are kept {who} (chance: {line.chance[0] or 0:.1f} %)"
    return f"{_capital(CHANGES[measure].said)} is {'lowest' if less else 'highest'} at {words(layer)}, {_number(value)}, {who}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _number(value: float) -> str:
    value = 0.0 if abs(value) < 0.005 else value
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def curve_table(found: Found, measure: str) -> pd.DataFrame:
    """The measure and its chance a row a place and model."""
    rows = [[line.name, layer, value, chance] for line in _lines(found, measure)
            for layer, value, chance in zip(line.layers, line.values, line.chance or [None] * len(line.layers), strict=True)]  # fmt: skip
    return pd.DataFrame(rows, columns=["Model", "After", (MEASURES | CHANGES)[measure].label, "By chance"])
