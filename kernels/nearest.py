"""The nearest rows of every row, exactly, each pair of rows multiplied once. Arrays in, arrays out."""

from __future__ import annotations

import numba
import numpy as np

_TILE = 2048  # rows x rows that are multiplied at a time: 16 MiB of similarities


def nearest_rows(points: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` rows of the largest cosine with each row, itself left out: (index int32, cosine float32), both (rows, count), nearest first.

    points: float32 (rows, features) of length 1 (or 0). Equal cosines: the earlier row first. The matrix of all pairs goes by in tiles: a tile above its
    diagonal serves the rows of both its sides, so half the work of a plain search; each row keeps its best in a heap.
    """
    rows = len(points)
    if not 0 < count < rows:
        raise ValueError(f"{rows} rows have no {count} nearest others")
    points = np.ascontiguousarray(points, np.float32)
    index, cosine = np.full((rows, count), rows, np.int32), np.full((rows, count), -np.inf, np.float32)
    for top in range(0, rows, _TILE):
        for left in range(top, rows, _TILE):
            tile = points[top : top + _TILE] @ points[left : left + _TILE].T
            _take(tile, top, left, index, cosine)
            if left > top:
                _take(np.ascontiguousarray(tile.T), left, top, index, cosine)
    _sort(index, cosine)
    return index, cosine


@numba.njit(inline="always")
def _worse(cosine: np.ndarray, index: np.ndarray, a: int, b: int) -> bool:
    return cosine[a] < cosine[b] or (cosine[a] == cosine[b] and index[a] > index[b])


@numba.njit(inline="always")
def _sink(index: np.ndarray, cosine: np.ndarray, size: int) -> None:
    """The root of a heap, whose root is its worst entry, falls to where it belongs."""
    at = 0
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and _worse(cosine, index, child + 1, child):
            child += 1
        if not _worse(cosine, index, child, at):
            break
        index[at], index[child] = index[child], index[at]
        cosine[at], cosine[child] = cosine[child], cosine[at]
        at = child


@numba.njit(parallel=True, cache=True, nogil=True)
def _take(tile: np.ndarray, top: int, left: int, index: np.ndarray, cosine: np.ndarray) -> None:
    """Offer the columns of a tile to the heaps of its rows."""
    size = index.shape[1]
    for line in numba.prange(tile.shape[0]):
        row = top + line
        mine, value = index[row], cosine[row]
        for at in range(tile.shape[1]):
            near = tile[line, at]
            column = left + at
            if column != row and (near > value[0] or (near == value[0] and column < mine[0])):
                mine[0], value[0] = column, near
                _sink(mine, value, size)


@numba.njit(parallel=True, cache=True, nogil=True)
def _sort(index: np.ndarray, cosine: np.ndarray) -> None:
    """Each heap in order, best first: the worst is taken off again and again."""
    for row in numba.prange(index.shape[0]):
        mine, value = index[row], cosine[row]
        for size in range(index.shape[1] - 1, 0, -1):
            mine[0], mine[size] = mine[size], mine[0]
            value[0], value[size] = value[size], value[0]
            _sink(mine, value, size)
