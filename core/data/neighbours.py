"""The nearest rows of each row by cosine: exact, in chunks, never rows x rows in memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from core.data.clusters import unit
from core.errors import DataError

_CHUNK_ROWS = 2048
_FEW_ROWS = 4096


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

    Exact, in chunks of rows. `with_self` puts the row itself first at distance 0 (as UMAP wants it); else it is left out.
    """
    nearest = _nearest_torch if len(vectors) > _FEW_ROWS else _nearest_numpy
    index, distance = [], []
    for found, cosine in nearest(vectors, count, 3.0 if with_self else -3.0):  # beyond any cosine: first, or last
        if with_self:
            cosine[np.arange(len(found)), 0] = 1.0
        index.append(found.astype(np.int32))
        distance.append(np.clip(1 - cosine, 0, 2).astype(np.float32))
    return np.concatenate(index), np.concatenate(distance)


def _nearest_numpy(vectors: np.ndarray, count: int, own: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(neighbours, cosines) a chunk of rows. For few rows this is over before torch would be imported."""
    points = unit(vectors)
    for start in range(0, len(points), _CHUNK_ROWS):
        similarity = points[start : start + _CHUNK_ROWS] @ points.T
        here = np.arange(len(similarity))
        similarity[here, start + here] = own
        best = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
        cosine = np.take_along_axis(similarity, best, axis=1)
        order = np.lexsort((best, -cosine), axis=1)
        yield np.take_along_axis(best, order, axis=1), np.take_along_axis(cosine, order, axis=1)


def _nearest_torch(vectors: np.ndarray, count: int, own: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The same with torch's faster choice of the largest."""
    import torch

    points = torch.from_numpy(unit(vectors))
    for start in range(0, len(points), _CHUNK_ROWS):
        similarity = points[start : start + _CHUNK_ROWS] @ points.T
        here = torch.arange(len(similarity))
        similarity[here, start + here] = own
        best = similarity.topk(count, dim=1)
        yield best.indices.numpy(), best.values.numpy()
