"""Where rows go between two spaces, on one map: geometry.parquet -> arrows, the most changed neighbourhoods, findings, tables. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from studio.charts.geometry import side_name, words
from studio.charts.xray import MARGIN, titled
from studio.theme import COLOURS

MOST_ARROWS = 300
_TWIN_ROWS = 200
_LOST_TO_KEPT = [[0.0, "#d9772b"], [0.5, "#b3ab78"], [1.0, "#2f9465"]]


def layers(places: pd.DataFrame) -> list[str]:
    """The places in the model that the map can show, in their order."""
    return list(dict.fromkeys(places["layer"]))


def of_layer(places: pd.DataFrame, layer: str) -> pd.DataFrame:
    """One place's rows, the most changed neighbourhood first; where two kept as many, the one that moved further."""
    mine = places[places["layer"] == layer]
    return mine.sort_values(["shared", "moved", "row"], ascending=[True, False, True], kind="stable").reset_index(drop=True)


def most_changed(places: pd.DataFrame, layer: str, share: float) -> list[int]:
    """Numbers of the rows whose neighbourhoods changed most: that share of all, one at least."""
    mine = of_layer(places, layer)
    return [int(row) for row in mine["row"][: max(1, round(share * len(mine)))]]


def drift_map(places: pd.DataFrame, layer: str, share: float) -> go.Figure:
    """Each row where it ends, coloured by the share of its neighbours that it keeps; arrows from where it was for the most changed ones."""
    mine = of_layer(places, layer)
    count = max(1, round(share * len(mine)))
    arrows = mine[: min(count, MOST_ARROWS)]
    drawn = mine[::-1]  # the most changed on top
    figure = go.Figure(
        go.Scattergl(
            x=drawn["to_x"], y=drawn["to_y"], mode="markers", showlegend=False, customdata=drawn["row"],
            marker={
                "color": 100 * drawn["shared"], "colorscale": _LOST_TO_KEPT, "cmin": 0, "cmax": 100,
                "size": 7, "opacity": 0.85, "line": {"width": 0},
                "colorbar": {"title": {**titled("neighbours kept, %"), "side": "right"}, "thickness": 10, "outlinewidth": 0, "len": 0.96},
            },
            hovertemplate="row %{customdata}: keeps %{marker.color:.0f} % of its neighbours<extra></extra>",
        )
    )  # fmt: skip
    figure.add_scatter(
        x=_broken(arrows["x"], arrows["to_x"]), y=_broken(arrows["y"], arrows["to_y"]), mode="lines+markers",
        name=f"the {len(arrows):,} most changed, from where they were",
        line={"color": COLOURS["warn"], "width": 1.8}, hoverinfo="skip",
        marker={"symbol": "arrow", "angleref": "previous", "color": COLOURS["warn"], "size": [0, 10, 0] * len(arrows)},
    )  # fmt: skip
    figure.update_layout(
        margin={**MARGIN, "b": 70, "r": 4},
        legend={"orientation": "h", "y": -0.16, "x": 0, "font": {"size": 12}},
        uirevision=layer,
    )
    figure.update_xaxes(title=titled("PC 1 of both together"), zeroline=False)
    figure.update_yaxes(title=titled("PC 2 of both together"), zeroline=False)
    return figure


def _broken(start: Sequence[float], end: Sequence[float]) -> np.ndarray:
    """start, end, gap, start, end, gap: many arrows in one trace."""
    gap = np.full(len(start), np.nan)
    return np.column_stack([start, end, gap]).ravel()


def drift_finding(found: Mapping[str, Any], places: pd.DataFrame, layer: str, share: float) -> str:
    mine = of_layer(places, layer)
    count = max(1, round(share * len(mine)))
    kept, worst = 100 * float(mine["shared"].mean()), 100 * float(mine["shared"][:count].mean())
    return f"After {words(layer)} a row keeps {kept:.0f} % of its neighbours; the {count:,} most changed keep {worst:.0f} %"


def drift_note(found: Mapping[str, Any], layer: str) -> str:
    """What the arrows go from and to, and how far the map may be believed."""
    drift = found["drift"]
    line = next((row for row in drift["layers"] if row["layer"] == layer), None)
    if len(found["sides"]) > 1:
        first, last = (side_name(found["sides"][at]["name"]) for at in (0, -1))
        way = f"{first} before and after pruning" if last == "pruned" else f"From {first} to {last}"
    else:
        way = f"From {words(line['before']) if line else 'the block before'} to {words(layer)}"
    turned = ", the second turned and scaled onto the first" if line and line["turned"] else ""
    return (
        f"{way}, both on the two main axes of both together{turned}. Of {found['neighbours']} neighbours by cosine in the space itself; "
        f"two unrelated spaces share {100 * drift['chance_kept']:.1f} %."
    )


def drift_table(places: pd.DataFrame, layer: str) -> pd.DataFrame:
    """The most changed rows first."""
    mine = of_layer(places, layer)[:_TWIN_ROWS]
    table = mine[["row", "shared", "moved", "x", "y", "to_x", "to_y"]].copy()
    table.columns = ["Row", "Neighbours kept", "Moved", "From x", "From y", "To x", "To y"]
    return table.round(4)
