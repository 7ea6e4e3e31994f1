"""The nearest rows by cosine, of each row or of one: exact, never rows x rows in memory. The search of all pairs is kernels/nearest.py."""

from __future__ import annotations

import numpy as np

from core.data.clusters import unit
from core.errors import DataError


def nearest(vectors: np.ndarray, count: int, *, distinct: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The `count` nearest other rows of each row, or as many as there are: (index int32, distance 1 - cos float32), both (rows, count).

    `distinct`: copies of a row count once, and share its neighbours; so no distance is 0 because of an exact copy. Raises DataError where there is
    no other row.
    """
    first, member = copies(vectors) if distinct else (np.arange(len(vectors)), np.arange(len(vectors)))
    if len(first) < 2:
        what = "All rows are equal" if len(vectors) > 1 else "There is one row"
        raise DataError(f"{what}, so no row has a neighbour.", "Give it more rows, or drop duplicates first.")
    index, distance = exact_neighbours(np.asarray(vectors)[first], min(count, len(first) - 1))
    return first[index][member].astype(np.int32), distance[member]


def copies(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(first, member): positions of the rows that no earlier row equals, and for each row which of those it equals."""
    seen: dict[bytes, int] = {}
    member = np.fromiter((seen.setdefault(row.tobytes(), len(seen)) for row in vectors), dtype=np.int64, count=len(vectors))
    first = np.unique(member, return_index=True)[1]
    return first, member


def exact_neighbours(vectors: np.ndarray, count: int, *, with_self: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The `count` nearest rows of each row by cosine, nearest first: (index int32, distance 1 - cos float32), both (rows, count).

    Exact; equally near: the earlier row first. `with_self` puts the row itself first at distance 0 (as UMAP wants it); else it is left out.
    """
    from kernels.nearest import nearest_rows

    own = np.arange(len(vectors), dtype=np.int32)[:, None]
    others = count - 1 if with_self else count
    if not others:
        return own, np.zeros((len(own), 1), np.float32)
    index, cosine = nearest_rows(unit(vectors), others)
    distance = np.clip(1 - cosine, 0, 2).astype(np.float32)
    if with_self:
        index, distance = np.hstack([own, index]), np.hstack([np.zeros((len(own), 1), np.float32), distance])
    return index, distance


def nearest_to(vectors: np.ndarray, lengths: np.ndarray, at: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` rows nearest to the row at `at`, itself left out, or as many as there are: (index, cosine), nearest first; equally near: the earlier
    row first. lengths (rows,): of the vectors, 1 where that is 0."""
    cosine = (vectors @ vectors[at]) / lengths / lengths[at]
    cosine[at] = -np.inf
    count = min(count, len(cosine) - 1)
    if count < 1:
        return np.empty(0, int), np.empty(0, np.float32)
    least = np.partition(cosine, -count)[-count]
    best = np.flatnonzero(cosine >= least)
    best = best[np.lexsort((best, -cosine[best]))][:count]
    return best, cosine[best]
