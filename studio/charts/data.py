"""A data set in figures: the map, the sizes of its clusters or classes. Pure: DataFrame -> plotly Figure, and findings in words."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from studio.theme import COLOURS, SEQUENCE

MARGIN = {"l": 62, "r": 14, "t": 14, "b": 50}
GONE = "#9aa39d"
# Twelve middle tones that hold 3:1 on paper and on the dark ground; neighbours differ in hue.
MANY = [*SEQUENCE, "#8f6a4a", "#c2549a", "#5f7fd9", "#5c9440"]
LOW_TO_HIGH = ((76, 134, 198), (169, 107, 181), (217, 119, 43))
WAYS = {"label": "Class", "cluster": "Cluster", "score": "Score", "kept": "Stays", "error": "Error"}
CHOSEN = "chosen"  # the trace in front; plotview.js knows the name
RIGHT, WRONG = "#4c86c6", "#d9772b"


def kept_rows(points: pd.DataFrame, share: float) -> np.ndarray:
    """Which rows stay at this share, bool (rows,): the nearest whole number of rows, the first in rank, as core.data.selection counts. Where a selector
    decides otherwise, the column `stays` says it."""
    if "stays" in points:
        return points["stays"].to_numpy()
    count = min(max(1, int(np.floor(len(points) * share + 0.5))), len(points))
    return points["rank"].to_numpy() < count


def points_map(points: pd.DataFrame, share: float, colour: str, names: Sequence[str], axes: tuple[str, str],
               marks: np.ndarray | None = None) -> go.Figure:  # fmt: skip
    """Each row a point: what stays has its colour, fainter where the map is not to be trusted; what goes is grey and small.

    points: row, x, y, trust, cluster, label, score, rank; for `error` also error (0 or 1). `colour`: a key of WAYS. `names`: of the classes. `marks`:
    places of the chosen rows, which stand in front while the others are grey. One WebGL trace but for those, so that a point's index in an event is its
    place in `points`.
    """
    kept = kept_rows(points, share)
    marker = markers(points, kept, colour, slice(None), (7.0, 4.5))
    figure = go.Figure(
        go.Scattergl(
            x=points["x"].to_numpy(),
            y=points["y"].to_numpy(),
            mode="markers",
            marker=marker,
            text=hover(points, kept, names),
            hovertemplate="%{text}<extra></extra>",
            selected={"marker": {"opacity": 1}},
            unselected={"marker": {"opacity": 0.14, "color": GONE}},
            selectedpoints=marks,
            showlegend=False,
        )
    )
    if marks is not None:
        figure.add_trace(front(points, kept, colour, marks))
    return dressed(figure, points, share, colour, names, axes).update_layout(meta=["outline"])


def dressed(
    figure: go.Figure, points: pd.DataFrame, share: float, colour: str, names: Sequence[str], axes: tuple[str, str]
) -> go.Figure:
    """The map with its legend, axes and what outlives a redrawing."""
    for name, shade in _legend(points, colour, names):
        figure.add_scatter(x=[None], y=[None], mode="markers", marker={"color": shade, "size": 9}, name=name, hoverinfo="skip")
    if colour == "score":
        figure.add_scatter(x=[None], y=[None], mode="markers", showlegend=False, hoverinfo="skip", marker=_score_bar(points))
    figure.update_layout(
        margin=MARGIN,
        dragmode="lasso",
        legend={"orientation": "h", "y": -0.16, "x": 0, "font": {"size": 12}, "itemclick": False, "itemdoubleclick": False},
        xaxis={"title": {"text": axes[0], "font": {"size": 12}}, "zeroline": False, "showticklabels": axes[0].startswith("PC")},
        yaxis={"title": {"text": axes[1], "font": {"size": 12}}, "zeroline": False, "showticklabels": axes[0].startswith("PC")},
        uirevision=axes[0],  # a zoom outlives a move of the slider
        selections=[],
    )
    return figure


def markers(points: pd.DataFrame, kept: np.ndarray, colour: str, places: Any, size: tuple[float, float]) -> dict[str, Any]:
    """How the points at these places are drawn, as numbers and a scale: names of colours for each of 100,000 would take seconds. Sizes: of what stays,
    of what goes."""
    stays = kept[places]
    values, scale = shades(points, colour, places)
    return {
        "color": np.where(stays, values, 0).astype(np.float32),
        "colorscale": scale,
        "cmin": 0,
        "cmax": 1,
        "showscale": False,
        "size": np.where(stays, *size).astype(np.float32),
        "opacity": np.where(stays, trusted(points)[places], 0.35).astype(np.float32),
        "line": {"width": 0},
    }


def front(points: pd.DataFrame, kept: np.ndarray, colour: str, places: np.ndarray) -> go.Scattergl:
    """These points once more, on top, in full colour whether they stay or go, whatever the map's worth there. No pointer meets them: those beneath answer."""
    values, scale = shades(points, colour, places)
    size = np.where(kept[places], 8.5, 6.5).astype(np.float32)
    marker = {
        "color": values.astype(np.float32),
        "colorscale": scale,
        "cmin": 0,
        "cmax": 1,
        "showscale": False,
        "size": size,
        "line": {"width": 0},
        "opacity": 1.0,
    }
    x, y = points["x"].to_numpy()[places], points["y"].to_numpy()[places]
    return go.Scattergl(x=x, y=y, mode="markers", marker=marker, name=CHOSEN, hoverinfo="skip", showlegend=False)


def trusted(points: pd.DataFrame) -> np.ndarray:
    """An opacity for each point, 0.4 (none of its neighbours on the map is real) to 0.95 (all are); 0.92 where trust is not measured."""
    trust = points["trust"].to_numpy(dtype=np.float64)
    return np.where(np.isfinite(trust), 0.4 + 0.55 * np.nan_to_num(trust), 0.92)


def sizes(points: pd.DataFrame, share: float, by: str, names: Sequence[str]) -> go.Figure:
    """A bar a cluster (or class): its rows, the part that stays in colour."""
    table = size_table(points, share, by, names)
    figure = go.Figure()
    stays = {"name": "stays", "y": table["kept"], "marker": {"color": COLOURS["accent"], "line": {"width": 0}}}
    goes = {"name": "goes", "y": table["rows"] - table["kept"], "marker": {"color": GONE, "opacity": 0.55, "line": {"width": 0}}}
    for bar in (stays, goes):
        figure.add_bar(
            x=[escape(str(name)) for name in table["name"]],
            **bar,
            hovertemplate=f"%{{x}}: %{{y:,}} rows {bar['name'][:-1]}<extra></extra>",
        )
    figure.update_layout(
        barmode="stack",
        bargap=0.22,
        margin={**MARGIN, "t": 34},
        legend={"orientation": "h", "y": 1.16, "x": 0},
        xaxis={"type": "category", "title": {"text": WAYS[by], "font": {"size": 12}}, "showgrid": False},
        yaxis={"title": {"text": "Rows", "font": {"size": 12}}},
    )
    return figure


def size_table(points: pd.DataFrame, share: float, by: str, names: Sequence[str]) -> pd.DataFrame:
    """name, rows, kept, share (0..1) of each cluster or class, in its own order."""
    kept = pd.Series(kept_rows(points, share), index=points.index)
    groups = points[by]
    rows, stay = groups.value_counts().sort_index(), kept.groupby(groups).sum().sort_index()
    called = [names[at] if by == "label" and 0 <= at < len(names) else str(at) for at in rows.index]
    return pd.DataFrame({"name": called, "rows": rows.to_numpy(), "kept": stay.to_numpy(), "share": (stay / rows).to_numpy()})


def size_finding(points: pd.DataFrame, share: float, by: str, names: Sequence[str]) -> str:
    """Which cluster or class is cut the most, and which the least."""
    table = size_table(points, share, by, names)
    if len(table) < 2:
        return "There is one group only"
    word = WAYS[by].lower()
    low, high = table.loc[table["share"].idxmin()], table.loc[table["share"].idxmax()]
    if high["share"] - low["share"] < 0.05:
        return f"Every {word} keeps nearly the same share"
    return f"{WAYS[by]} {low['name']} keeps {_percent(low['share'])} of its rows, {word} {high['name']} {_percent(high['share'])}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.095 or share == 0 else f"{100 * share:.1f} %"


def shades(points: pd.DataFrame, colour: str, places: Any = slice(None)) -> tuple[np.ndarray, list[list[Any]]]:
    """A number 0..1 for each point, or for those at these places, and the scale that makes it a colour; 0 is that of what goes."""
    if colour == "score":
        stops = [[0.04 + 0.96 * at / (len(LOW_TO_HIGH) - 1), "rgb({},{},{})".format(*rgb)] for at, rgb in enumerate(LOW_TO_HIGH)]
        return 0.04 + 0.96 * _position(points)[places], [[0, GONE], [0.039, GONE], *stops]
    if colour == "kept":
        return np.ones(len(points))[places], _steps([COLOURS["accent"]])
    palette = [RIGHT, WRONG] if colour == "error" else MANY
    return (points[colour].to_numpy()[places] % len(palette) + 1.5) / (len(palette) + 1), _steps(palette)


def _steps(palette: Sequence[str]) -> list[list[Any]]:
    """Equal bands: what goes, then these."""
    bands = [GONE, *palette]
    return [[(at + side) / len(bands), shade] for at, shade in enumerate(bands) for side in (0, 1)]


def _position(points: pd.DataFrame) -> np.ndarray:
    """Each score's place in the colours' span, 0..1; one half where there is no score."""
    score = points["score"].to_numpy(dtype=np.float64)
    low, high = _score_range(score)
    return np.nan_to_num(np.clip((score - low) / (high - low), 0, 1), nan=0.5) if high > low else np.full(len(score), 0.5)


def _score_range(score: np.ndarray) -> tuple[float, float]:
    """What the colours span: the middle 96 % of the scores, so that a few far ones do not wash out the rest."""
    if not np.isfinite(score).any():
        return 0.0, 0.0
    low, high = np.nanpercentile(score, [2, 98])
    return float(low), float(high)


def _score_bar(points: pd.DataFrame) -> dict[str, Any]:
    score = points["score"].to_numpy(dtype=np.float64)
    if not np.isfinite(score).any():
        return {"color": [0]}
    low, high = _score_range(score)
    scale = [[at / (len(LOW_TO_HIGH) - 1), "rgb({},{},{})".format(*rgb)] for at, rgb in enumerate(LOW_TO_HIGH)]
    bar = {"title": {"text": "Score", "font": {"size": 12}}, "thickness": 10, "len": 0.7, "outlinewidth": 0}
    return {
        "color": [0.0],
        "cmin": low,
        "cmax": high,
        "colorscale": scale,
        "showscale": True,
        "colorbar": bar,
    }


def hover(points: pd.DataFrame, kept: np.ndarray, names: Sequence[str]) -> list[str]:
    safe = [escape(str(name)[:40]) for name in names]
    read = points["error"] if "error" in points else np.full(len(points), -1)
    lines = zip(points["row"], points["label"], points["cluster"], points["score"], kept, read, strict=True)
    words = ("", " · read rightly", " · read wrongly")
    return [
        f"row {row}{f' · class {safe[label]}' if 0 <= label < len(safe) else ''} · cluster {cluster}"
        f"{f' · score {score:.3f}' if score == score else ''} · {'stays' if stays else 'goes'}{words[wrong + 1]}"
        for row, label, cluster, score, stays, wrong in lines
    ]


def _legend(points: pd.DataFrame, colour: str, names: Sequence[str]) -> list[tuple[str, str]]:
    """Names and colours to show below the map: the classes where there are at most twelve, and what grey means."""
    classes = []
    if colour == "label" and len(names) <= len(MANY):
        classes = [(escape(str(name)[:24]), MANY[at]) for at, name in enumerate(names)]
    others = {"kept": [("stays", COLOURS["accent"])], "error": [("read rightly", RIGHT), ("read wrongly", WRONG)]}
    return [*classes, *others.get(colour, []), ("goes", GONE)]
