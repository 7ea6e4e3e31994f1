"""Rows far from each other, one after the other (the greedy 2-approximation of k-center). Arrays in, arrays out."""

from __future__ import annotations

import numba
import numpy as np

from kernels.heap import sink


def farthest_first(points: np.ndarray, start: int, count: int) -> np.ndarray:
    """`count` different rows: `start`, then always the row whose nearest chosen row is farthest away; ties take the earlier row.

    points: float32 (rows, features) of length 1 (or 0); distance is 1 - cos. Returns int64 (count,), in the order chosen. Exact, and lazy: a row's
    distance to the nearest of the *first* chosen ones is never below that to the nearest of all, so a row is compared with the later ones only
    when it comes to the top of a heap, and only until it has fallen below the next. Memory: two numbers a row and the chosen rows again.
    """
    if not 0 < count <= len(points):
        raise ValueError(f"cannot choose {count} of {len(points)} rows")
    points = np.ascontiguousarray(points, np.float32)
    chosen = np.empty(count, np.int64)
    _choose(points, start, chosen)
    return chosen


@numba.njit(fastmath={"reassoc", "contract", "nsz"}, inline="always")
def _dot(a: np.ndarray, b: np.ndarray) -> np.float32:
    total = np.float32(0)
    for i in range(a.shape[0]):
        total += a[i] * b[i]
    return total


@numba.njit(cache=True, nogil=True)
def _choose(points: np.ndarray, start: int, chosen: np.ndarray) -> None:
    rows, count = points.shape[0], chosen.shape[0]
    centres = np.empty((count, points.shape[1]), np.float32)  # side by side: a row reads many of them in one go
    near, seen = np.empty(rows, np.float32), np.ones(rows, np.int64)
    chosen[0], centres[0] = start, points[start]
    heap, size = np.empty(rows, np.int64), 0
    for row in range(rows):
        near[row] = np.float32(1) - _dot(points[row], centres[0])
        if row != start:
            heap[size] = row
            size += 1
    for at in range(size // 2 - 1, -1, -1):
        sink(heap, size, at, near)
    done = 1
    while done < count:
        row = heap[0]
        if seen[row] == done:
            chosen[done], centres[done] = row, points[row]
            done += 1
            size -= 1
            heap[0] = heap[size]
        else:
            near[row], seen[row] = _compared(points[row], centres, near[row], seen[row], done, _second(heap, size, near))
        sink(heap, size, 0, near)


@numba.njit(inline="always")
def _second(heap: np.ndarray, size: int, near: np.ndarray) -> np.float32:
    """The distance of the row next to the top."""
    if size < 2:
        return np.float32(-1)
    return near[heap[1]] if size == 2 else max(near[heap[1]], near[heap[2]])


@numba.njit(inline="always")
def _compared(
    point: np.ndarray, centres: np.ndarray, near: np.float32, seen: int, done: int, enough: np.float32
) -> tuple[np.float32, int]:
    """Compare a row with the chosen ones it has not seen, until all are seen or it is nearer than `enough`."""
    while seen < done and near >= enough:
        near = min(near, np.float32(1) - _dot(point, centres[seen]))
        seen += 1
    return near, seen
