"""Who is near whom: exact nearest rows by Euclid, hubs, how many neighbours two spaces share, and how much of a map can be trusted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from core.data.projection import exact_neighbours
from core.errors import DataError

_CHUNK_ROWS = 1024
MOST_RANKED = 1000  # rows whose every rank trustworthiness needs: its memory is the square of this


def need_rows(rows: int, neighbours: int) -> None:
    """Raise DataError where there are too few rows for so many neighbours."""
    if rows <= neighbours:
        raise DataError(
            f"{neighbours} neighbours were asked of {rows} different rows.",
            "Lower geometry.neighbours, or give it more rows." if rows > 3 else "Give it more rows.",
        )


def by_distance(vectors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` nearest other rows of each row by Euclid, nearest first: (index int64, distance float64), both (rows, count). Exact, in chunks of rows.

    The vectors are centred first and squared in float64: a few outlier dimensions with large means would otherwise swallow small distances.
    """
    need_rows(len(vectors), count)
    points = np.asarray(vectors, dtype=np.float64)
    points = points - points.mean(axis=0)
    square = (points**2).sum(axis=1)
    index, distance = np.empty((len(points), count), np.int64), np.empty((len(points), count))
    for start in range(0, len(points), _CHUNK_ROWS):
        part = points[start : start + _CHUNK_ROWS]
        far = square[start : start + _CHUNK_ROWS, None] + square[None] - 2 * part @ points.T
        here = np.arange(len(part))
        far[here, start + here] = np.inf
        near = np.argpartition(far, count - 1, axis=1)[:, :count]
        exact = np.linalg.norm(points[near] - part[:, None], axis=2)  # the expansion above orders; the difference is exact
        order = np.lexsort((near, exact), axis=1)
        index[start : start + _CHUNK_ROWS] = np.take_along_axis(near, order, axis=1)
        distance[start : start + _CHUNK_ROWS] = np.take_along_axis(exact, order, axis=1)
    return index, distance


def hubness(index: np.ndarray) -> float:
    """Skewness of how often each row is among the nearest of others (Radovanovic, Nanopoulos, Ivanovic 2010). index (rows, k): neighbours of each row.

    0: all rows are neighbours equally often; large: a few hubs are near to everything. By Euclid (`by_distance`) it grows with the dimension by itself, so it
    is read against Gaussian vectors of the same number and width. Rows that nobody chose count as 0.
    """
    count = np.bincount(index.ravel(), minlength=len(index)).astype(np.float64)
    spread = count.std()
    return float(((count - count.mean()) ** 3).mean() / spread**3) if spread > 0 else 0.0


def neighbours(vectors: np.ndarray, count: int) -> np.ndarray:
    """The `count` nearest other rows of each row by cosine, int32 (rows, count). Raises DataError where there are too few rows."""
    need_rows(len(vectors), count)
    return exact_neighbours(vectors, count)[0]


def kept(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """For each row, the share of its neighbours in `one` that are its neighbours in `two` as well, float32 (rows,) in 0..1.

    one, two (rows, k). Two spaces without relation share `chance(rows, k)`. Not the Jaccard index j of the two sets, which is share / (2 - share).
    """
    return (one[:, :, None] == two[:, None, :]).any(axis=2).mean(axis=1).astype(np.float32)


def chance(rows: int, count: int) -> float:
    """What share of `count` neighbours two unrelated orders of the other rows have in common."""
    return count / (rows - 1)


@dataclass(frozen=True)
class MapTrust:
    """Both 0..1. trustworthiness: are neighbours on the map neighbours in truth? continuity: are true neighbours still near on the map? `rows`: of how many
    rows it was taken."""

    trustworthiness: float
    continuity: float
    rows: int


def map_trust(vectors: np.ndarray, places: np.ndarray, count: int, seed: int) -> MapTrust:
    """Trustworthiness and continuity (Venna and Kaski 2001) of a map: rank-weighted, by cosine in the space and Euclid on the map.

    Needs every rank, so at most MOST_RANKED rows, drawn with the seed, take part.
    """
    from sklearn.manifold import trustworthiness

    from core.data.clusters import unit

    rows = np.arange(len(vectors))
    if len(rows) > MOST_RANKED:
        rows = np.sort(np.random.default_rng([seed, 0x7235]).choice(len(rows), MOST_RANKED, replace=False))
    count = min(count, (len(rows) - 1) // 2)
    if count < 1:
        raise DataError(f"A map of {len(rows)} rows has no neighbourhoods to trust.", "Give it more rows.")
    space, shown = unit(np.asarray(vectors)[rows]), np.asarray(places)[rows]
    true = float(trustworthiness(space, shown, n_neighbors=count))
    return MapTrust(true, float(trustworthiness(shown, space, n_neighbors=count)), len(rows))
