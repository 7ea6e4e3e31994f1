"""What a formula does and what a search over formulas found: plain data -> plotly figures, findings in words, table twins. Pure, no screen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from studio.charts.xray import MARGIN, titled
from studio.theme import COLOURS, SCALE

# view -> (its words, the colour bar's title, how a cell is written)
VIEWS = {
    "agreement": ("Agreement with Wanda", "% of Wanda's kept weights", ".0%"),
    "share_kept": ("Share kept if all layers compete", "% kept", ".0%"),
    "mean_score": ("Mean score", "mean score", ".4g"),
}
WHO = {"dense": "Dense", "wanda": "Wanda", "magnitude": "Magnitude", "formula": "This formula"}
_OF = {"wanda": "Wanda's", "magnitude": "magnitude's"}
_COLOUR = {"dense": COLOURS["dense"], "wanda": "#4c86c6", "magnitude": COLOURS["muted"], "formula": COLOURS["recovered"]}


def heat(seen: Mapping[str, Any], view: str) -> go.Figure:
    """Block x module: one figure of each layer under the formula. Shares have the same colours whatever the formula."""
    modules, blocks = _modules(seen), [str(block["index"]) for block in seen["blocks"]]
    at = {(_module(row["name"]), row["name"].split(".")[1]): row["scores"][view] for row in seen["layers"]}
    values = [[at.get((module, block)) for block in blocks] for module in modules]
    scale = 1.0 if view == "mean_score" else 100.0
    cells = [[None if x is None else scale * x for x in row] for row in values]
    bar = {"title": {**titled(VIEWS[view][1]), "side": "right"}, "thickness": 10, "outlinewidth": 0, "len": 0.96}
    picture = go.Heatmap(
        x=blocks, y=[escape(module) for module in modules], z=cells, colorscale=SCALE, xgap=1, ygap=1, colorbar=bar, customdata=values,
        hovertemplate=f"block %{{x}}, %{{y}}: %{{customdata:{VIEWS[view][2]}}}<extra></extra>",
    )  # fmt: skip
    if view != "mean_score":
        picture.update(zmin=0 if view == "share_kept" else min((*_numbers(cells), 99)), zmax=100)
    if len(blocks) <= 12:
        picture.update(texttemplate="%{z:.2g}" if view == "mean_score" else "%{z:.0f}", textfont={"size": 10})
    figure = go.Figure(picture)
    figure.update_layout(margin={**MARGIN, "l": 130, "r": 4})
    figure.update_xaxes(title=titled("Block"), type="category", showgrid=False, nticks=24, tickangle=0)
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False)
    return figure


def heat_finding(seen: Mapping[str, Any], view: str) -> str:
    """What the heat map shows, in a sentence."""
    found = sorted((x, row["name"]) for row in seen["layers"] if (x := _number(row["scores"][view])) is not None)
    if not found:
        return "No layer has a score that is a number"
    (low, least), (high, most) = found[0], found[-1]
    if view == "agreement":
        if low > 0.9995:
            return "It keeps the very weights that Wanda keeps, in every layer"
        total = sum(row["parameters"] for row in seen["layers"])
        mean = sum(row["scores"][view] * row["parameters"] for row in seen["layers"]) / total
        return f"It keeps {_percent(mean)} of the weights that Wanda keeps, fewest in {least} ({_percent(low)})"
    if view == "share_kept":
        return f"Were all layers to compete, {most} would keep {_percent(high)} and {least} {_percent(low)}"
    return f"{least} scores lowest on average ({low:.3g}), {most} highest ({high:.3g})"


def bars(seen: Mapping[str, Any]) -> go.Figure:
    """A bar for each way to choose: the perplexity that it leaves at the same share."""
    order = [name for name in WHO if _number(seen["perplexity"].get(name)) is not None]
    values = [seen["perplexity"][name] for name in order]
    figure = go.Figure(
        go.Bar(
            y=[WHO[name] for name in order], x=values, orientation="h", marker={"color": [_COLOUR[name] for name in order]},
            text=[f"{value:,.2f}" if value < 1e5 else f"{value:.2e}" for value in values], textposition="outside", cliponaxis=False,
            hovertemplate="%{y}: %{x:.4g}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_layout(margin={**MARGIN, "l": 100, "t": 4}, bargap=0.3)
    wide = bool(values) and max(values) > 20 * min(values)
    figure.update_xaxes(
        title=titled("perplexity, lower is better"),
        **({"type": "log"} if wide else {"range": [0, 1.16 * max(values, default=1.0)]}),
    )
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure


def finding(seen: Mapping[str, Any]) -> str:
    """How the formula compares at its share, in a sentence."""
    share, values = _percent(seen["protocol"]["share"]), {name: _number(value) for name, value in seen["perplexity"].items()}
    who, mine = seen["expression"] if len(seen["expression"]) <= 40 else "this formula", values.get("formula")
    if mine is None:
        return f"At {share}, {who} ruins the model: its perplexity is no number"
    others = [(_against(mine, value), name, value) for name in ("wanda", "magnitude") if (value := values.get(name)) is not None]
    said = [f"{verdict} {_OF[name]} {_written(value)}" for verdict, name, value in others]
    if len(others) == 2 and others[0][0] == others[1][0]:
        said[1] = said[1].removeprefix(f"{others[0][0]} ")
    return f"At {share}, {who} leaves a perplexity of {_written(mine)}" + (f", {' and '.join(said)}" if said else "")


def table(seen: Mapping[str, Any]) -> pd.DataFrame:
    """The table twin of the heat map: a row a layer."""
    rows = [
        [row["name"], row["parameters"], *(f"{row['scores'][view]:.4g}" if view == "mean_score" else f"{100 * row['scores'][view]:.1f} %" for view in VIEWS)]
        for row in seen["layers"]
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["Layer", "Parameters", *(words for words, *_ in VIEWS.values())])


def perplexity_table(seen: Mapping[str, Any]) -> pd.DataFrame:
    """The table twin of the bars."""
    rows = [[WHO[name], "no number" if _number(value) is None else f"{value:,.3f}"] for name, value in seen["perplexity"].items()]
    return pd.DataFrame(rows, columns=["Chosen by", "Perplexity"])


def evolution(curve: Sequence[tuple[int, float]], references: Mapping[str, Any]) -> go.Figure | None:
    """The best perplexity so far over the formulas tried, with what known criteria leave. None: nothing was tried yet."""
    if not curve:
        return None
    x, y = zip(*curve, strict=True)
    figure = go.Figure()
    for name in ("wanda", "magnitude"):
        if (value := _number(references.get(name))) is not None:
            figure.add_scatter(
                x=[x[0], max(x[-1], x[0] + 1)], y=[value, value], mode="lines", name=WHO[name], hovertemplate=f"{WHO[name]}: %{{y:.4g}}<extra></extra>",
                line={"color": _COLOUR[name], "width": 1.5, "dash": "dot"},
            )  # fmt: skip
    figure.add_scatter(
        x=x, y=y, mode="lines", name="Best so far", line={"color": _COLOUR["formula"], "width": 2.5, "shape": "hv"},
        hovertemplate="after %{x} formulas: %{y:.4g}<extra></extra>",
    )  # fmt: skip
    figure.update_layout(
        margin={**MARGIN, "t": 48},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "entrywidth": 76},
        showlegend=True,
    )
    low = [value for name in ("wanda", "magnitude") if (value := _number(references.get(name))) is not None]
    if low and max(y) > 3 * max(low):  # the first formulas are far off, and would flatten the rest
        figure.update_yaxes(range=[0.95 * min(*low, *y), 1.6 * max(*low, y[-1])])
    figure.update_xaxes(title=titled("formulas tried"))
    figure.update_yaxes(title=titled("perplexity"))
    return figure


def evolution_finding(found: Mapping[str, Any] | None, ended: bool) -> str:
    """What the search has come to, in a sentence: by the second look, once that was taken."""
    best = (found or {}).get("best") or []
    if not found or not best:
        return "The search ended before a formula worked" if ended else "The search has begun"
    again = _number(best[0].get("again"))
    wanda = _number((found["references"] if again is None else found["again"]).get("wanda"))
    mine = best[0]["perplexity"] if again is None else again
    against = f", {_against(mine, wanda)} Wanda's {_written(wanda)}" if wanda else ""
    looked = "" if again is None else ", at a second look at more text"
    return f"The best of {found['tried']:,} formulas{'' if ended else ' so far'} leaves {_written(mine)}{against}{looked}"


def proof(found: Mapping[str, Any] | None) -> str:
    """What the best formula is worth on text that nothing was chosen by, in a sentence; empty where that was not measured."""
    held = (found or {}).get("held_out") or {}
    mine, others = _number(held.get("formula")), {name: _number(held.get(name)) for name in ("wanda", "magnitude", "dense")}
    if mine is None or not others["wanda"]:
        return ""
    verdict = (
        "it wins there too"
        if mine < others["wanda"]
        else "there Wanda is better"
        if mine > others["wanda"]
        else "there they are equal"
    )
    figures = ", ".join(f"{WHO[name]} {_written(value)}" for name, value in others.items() if value is not None)
    return f"Behind a real prune step, on {held['samples']} test windows that chose nothing, it leaves {_written(mine)} ({figures}): {verdict}."


def best_rows(found: Mapping[str, Any] | None) -> list[list[str]]:
    """The best formulas as rows of a table."""
    return [
        [
            row["formula"],
            f"{row['perplexity']:,.2f}",
            "" if _number(row.get("again")) is None else f"{row['again']:,.2f}",
            str(row["size"]),
        ]
        for row in (found or {}).get("best") or ()
    ]


def _against(mine: float, other: float | None) -> str:
    if other is None or abs(mine / other - 1) < 0.0005:
        return "equal to"
    return "better than" if mine < other else "worse than"


def _written(value: float | None) -> str:
    return "no number" if value is None else f"{value:,.2f}" if value < 1e5 else f"{value:.2e}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share == 0 or share >= 0.01 else f"{100 * share:.1f} %"


def _modules(seen: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(_module(row["name"]) for row in seen["layers"]))


def _module(name: str) -> str:
    return name.split(".", 2)[2]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _numbers(cells: Sequence[Sequence[float | None]]) -> list[float]:
    return [x for row in cells for x in row if x is not None]
