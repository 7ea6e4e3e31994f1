"""The rows beside the map, as cards: both ends of the order, what is chosen, what another room suggests, what is near a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from studio.bench import Bench
from studio.charts.data import kept_rows
from studio.charts.data_dense import FROM_ROWS, MARKED
from studio.rooms.data import dataview, samples
from studio.rooms.data.dataplan import way_label
from studio.rooms.data.dataview import View

SHOWN = 24  # rows shown as cards at once


def ends(bench: Bench, view: View, frame: pd.DataFrame, kept: np.ndarray) -> dict[str, Any]:
    """The rows that the order keeps first, and those that it gives up first."""
    order = np.argsort(frame["rank"].to_numpy())
    half = SHOWN // 2 if view.facts["kind"] == "images" else 5
    groups = [("Kept first", order[:half]), ("Given up first", order[::-1][:half])]
    return samples.shown("Both ends of the order", f"{way_label(view.choice.way)}. Choose a row to see what is near it.",
                         [(name, _cards(bench, view, frame, kept, places)) for name, places in groups])  # fmt: skip


def chosen(
    bench: Bench, view: View, frame: pd.DataFrame, kept: np.ndarray, places: np.ndarray, how: str = "chosen"
) -> dict[str, Any]:
    """The rows in a lasso (or `how` they came), the order's first ones first; an even sample where there are many."""
    ordered = places[np.argsort(frame["rank"].to_numpy()[places])]
    some, stay = samples.evenly(ordered, SHOWN), int(kept[places].sum())
    title = f"{len(places):,} {'row' if len(places) == 1 else 'rows'} {how}: {stay:,} stay, {len(places) - stay:,} go"
    note = f"{_mostly(view, frame, places)} {f'{len(some)} of them, spread evenly over the order.' if len(some) < len(places) else ''}"
    if len(frame) > FROM_ROWS and len(places) > MARKED:
        note += f" On the map {MARKED:,} of them stand out."
    return samples.shown(title, note.strip(), [("", _cards(bench, view, frame, kept, some))])


def _mostly(view: View, frame: pd.DataFrame, places: np.ndarray) -> str:
    """The three classes (or clusters) that most of these rows are of."""
    if len(places) < 2:
        return ""
    by, names = ("label", view.names) if view.names else ("cluster", None)
    counts = np.bincount(frame[by].to_numpy()[places])
    first = [at for at in np.argsort(-counts, kind="stable")[:3] if counts[at]]
    said = [names[at] if names else str(at) for at in first]
    kind = "class" if names else "cluster"
    if len(first) == 1:
        return f"All of {kind} {said[0]}."
    return (
        f"Mostly {kind} "
        + ", ".join(f"{one} ({100 * counts[at] / len(places):.0f} %)" for one, at in zip(said, first, strict=True))
        + "."
    )


def suggested(bench: Bench, view: View, keep: float, told: Mapping[str, Any]) -> dict[str, Any]:
    """Rows that another room picked ({rows, why}), as a lasso shows its rows."""
    frame, _ = dataview.points(bench, view, "pca")
    places = np.flatnonzero(frame["row"].isin(told["rows"]).to_numpy())
    shown = chosen(bench, view, frame, kept_rows(frame, keep / 100), places)
    return {**shown, "note": f"{told['why']}. {shown['note']}".strip()}


def near(bench: Bench, view: View, frame: pd.DataFrame, kept: np.ndarray, row: int) -> dict[str, Any]:
    """One row and those nearest to it, as cards."""
    places, cosines = dataview.nearest(bench, view, frame, row)
    mine, others = _cards(bench, view, frame, kept, places[:1]), _cards(bench, view, frame, kept, places[1:])
    for card, cosine in zip(others, cosines, strict=True):
        card["note"] = f"{cosine:.2f}"
    title = f"Row {row} {'stays' if kept[places[0]] else 'goes'}"
    told = "Nearest first, by cosine in the embedding. On the map they stand out: near there is not always near here."
    return samples.shown(title, told, [("The row", mine), ("Nearest to it", others)])


def _cards(bench: Bench, view: View, frame: pd.DataFrame, kept: np.ndarray, places: np.ndarray) -> list[dict[str, Any]]:
    shown = dataview.rows(bench, view, frame["row"].to_numpy()[places])
    return [{**card, "stays": bool(kept[at])} for card, at in zip(shown, places, strict=True)]
