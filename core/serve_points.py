"""Questions about the points of a map: which lie inside a lasso, which rows say a word, which are near a row, which are read wrongly. See core/serve_data.py.

Coordinates have travelled once; a polygon comes back, and what goes out is a count and a mask of bits, never a list of ids. Each answer takes under 200 ms
at 400,000 points.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc

from core.data.dataset import Dataset, need_labels
from core.data.mapped import is_text
from core.data.mistakes import mistaken
from core.data.neighbours import nearest_to
from core.errors import DataError

_SHOWN = 50
_MOST_CORNERS = 5000


@dataclass(frozen=True)
class Plane:
    """Points sorted by height, so that an edge of a polygon looks only at those it passes: `order` sorts them, `x` and `y` are sorted."""

    order: np.ndarray
    x: np.ndarray
    y: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray) -> Plane:
        order = np.argsort(y, kind="stable")
        return cls(order, x[order].astype(np.float64), y[order].astype(np.float64))


def inside(plane: Plane, polygon: np.ndarray) -> np.ndarray:
    """bool (points,), in the points' own order: an odd number of the closed polygon's edges lies to the right of the point.

    polygon (corners, 2) float64. Exact but for points on an edge. Each edge looks at the points between its two heights only, so the work is the number
    of points times how often the outline goes up and down past them, whatever the number of corners.
    """
    odd = np.zeros(len(plane.y), bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        (xl, yl), (xh, yh) = ((x0, y0), (x1, y1)) if y0 < y1 else ((x1, y1), (x0, y0))
        first, last = np.searchsorted(plane.y, (yl, yh))
        if last > first:
            edge = xl + (plane.y[first:last] - yl) * ((xh - xl) / (yh - yl))
            odd[first:last] ^= plane.x[first:last] < edge
    out = np.empty(len(odd), bool)
    out[plane.order] = odd
    return out


def lasso(session: Any, polygon: list[list[float]], points: str | None = None) -> dict[str, Any]:
    """The rows inside a polygon on the map, an outline of [x, y] in the map's own units (see `chosen` for the answer).

    On the map that was drawn last; or, with `points`, on that of a finished run: its points.parquet, whose rows must be the open ones.
    """
    opened = _opened(session)
    if points is None and opened.last not in opened.laid:
        raise DataError("There is no map yet.", "Draw the map first.")
    corners = np.asarray(polygon, dtype=np.float64)
    if corners.ndim != 2 or corners.shape[1:] != (2,) or len(corners) < 3 or not np.isfinite(corners).all():
        raise DataError("A lasso is a list of at least three [x, y].", "Draw it again.")
    if len(corners) > _MOST_CORNERS:
        raise DataError(f"A lasso has at most {_MOST_CORNERS:,} corners, this one has {len(corners):,}.", "Draw it again.")
    return chosen(opened, inside(_plane(opened, points), corners))


def search(session: Any, query: str, column: str | None = None) -> dict[str, Any]:
    """The rows whose text (or another column of words) holds `query` as it is written, whatever its case. For the answer see `chosen`."""
    opened = _opened(session)
    name = column or words_column(opened.dataset)
    if name not in opened.dataset.columns or not is_text(opened.dataset.mapped.column(name).type):
        raise DataError(f"{opened.dataset.name} has no column {name!r} of words to search.", "Choose a column of texts.")
    if not query.strip():
        raise DataError("There is nothing to search for.", "Type a word.")
    held: Any = opened.dataset.mapped.column(name)
    if query.isascii():
        found = pc.match_substring(held, query, ignore_case=True)
    else:  # RE2 knows the cases of every alphabet
        found = pc.match_substring_regex(held, re.escape(query), ignore_case=True)
    return chosen(opened, pc.fill_null(found, False).to_numpy())


def neighbours(session: Any, row: int, count: int = 8, of: str | None = None) -> list[dict[str, Any]] | None:
    """The rows nearest to one row by cosine: {row, cosine}, nearest first, itself left out.

    In the embedding that was mapped last; or in that of the map which answered this `of`, and None where it is no longer held: map it again.
    """
    opened = _opened(session)
    if not opened.last:
        if of:
            return None
        raise DataError("There is no embedding yet.", "Draw the map first.")
    at = position(opened.dataset, row)
    if at is None:
        raise DataError(f"{opened.dataset.name} has no row {row}.", "Choose a point on the map.")
    key = of or opened.last
    if key not in opened.made:
        return None
    vectors, _ = opened.made[key]
    best, cosine = nearest_to(vectors, _lengths(opened, key, vectors), at, count)
    return [{"row": int(opened.dataset.row[one]), "cosine": float(near)} for one, near in zip(best, cosine, strict=True)]


def mistakes(session: Any, of: str) -> dict[str, Any] | None:
    """Which rows a linear probe of that map's embedding gets wrong that has not seen them (core.data.mistakes): {"mask": a bit a row, packed, base64;
    "share": of the rows}. None where the embedding is no longer held: map it again. Raises DataError without labels, or with one class."""
    opened = _opened(session)
    labels = need_labels(opened.dataset, "Colouring by error")
    if len(np.unique(labels)) < 2:
        raise DataError("All rows have the same label, so none can be read wrongly.", "Choose another column with `label:`.")
    if of not in opened.made:
        return None
    if of not in opened.wrong:
        opened.wrong[of] = mistaken(opened.made[of][0], labels, 0)
    return {"mask": packed(opened.wrong[of]), "share": float(opened.wrong[of].mean())}


def packed(mask: np.ndarray) -> str:
    """bool (rows,) as a bit a row, base64."""
    return base64.b64encode(np.packbits(mask).tobytes()).decode()


def chosen(opened: Any, mask: np.ndarray) -> dict[str, Any]:
    """A choice of rows: `count`; `rows`, the numbers of the first 50; `mask`, a bit a point in the map's order, packed, base64; how many of each class
    (`labels`) and cluster (`clusters`; empty before a map is drawn)."""
    dataset = opened.dataset
    _, clusters = opened.made.get(opened.last, (None, None))
    labels = np.bincount(dataset.labels[mask], minlength=len(dataset.label_names)).tolist() if dataset.labels is not None else []
    return {
        "count": int(mask.sum()),
        "rows": dataset.row[np.flatnonzero(mask)[:_SHOWN]].tolist(),
        "mask": packed(mask),
        "labels": labels,
        "clusters": np.bincount(clusters.assignment[mask], minlength=len(clusters)).tolist() if clusters is not None else [],
    }


def position(dataset: Dataset, row: int) -> int | None:
    """Where the row of that number lies. Rows of an open data set come in the order of their numbers."""
    at = int(np.searchsorted(dataset.row, row))
    return at if at < len(dataset) and dataset.row[at] == row else None


def _opened(session: Any) -> Any:
    if "data" not in session.parts:
        raise DataError("No data set is open.", "Open one in the Data room.")
    return session.parts["data"]


def _plane(opened: Any, points: str | None) -> Plane:
    """The sorted points of that map, sorted once."""
    if points is None:
        return opened.laid[opened.last].plane
    if points not in opened.planes:
        opened.planes[points] = Plane.of(*_places_of(opened.dataset, points))
    return opened.planes[points]


def _places_of(dataset: Dataset, points: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        frame = pd.read_parquet(points, columns=["row", "x", "y"])
    except (OSError, ValueError, KeyError):
        raise DataError(f"{points} holds no map.", "Run the map again.") from None
    if not np.array_equal(frame["row"].to_numpy(), dataset.row):
        raise DataError("That map is of other rows than the open ones.", "Run the map again.")
    return frame["x"].to_numpy(), frame["y"].to_numpy()


def _lengths(opened: Any, key: str, vectors: np.ndarray) -> np.ndarray:
    """The length of each vector, 1 where it is 0; worked out once for an embedding."""
    if key not in opened.lengths:
        found = np.sqrt(np.einsum("rf,rf->r", vectors, vectors))
        opened.lengths[key] = np.where(found > 0, found, 1)
    return opened.lengths[key]


def words_column(dataset: Dataset) -> str | None:
    """The column that a search reads: the text's, else the first of words; None where there is none."""
    return dataset.text_column or next(
        (name for name in dataset.columns if is_text(dataset.mapped.table.column(name).type)), None
    )


ASKS: dict[str, Callable[..., Any]] = {"lasso": lasso, "search": search, "neighbours": neighbours, "mistakes": mistakes}
