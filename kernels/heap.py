"""A heap of rows whose keys change under it: the largest key on top, of equal keys the earlier row. For loops compiled by numba."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(inline="always")
def comes_before(keys: np.ndarray, a: int, b: int) -> bool:
    """Does row a come before row b?"""
    return keys[a] > keys[b] or (keys[a] == keys[b] and a < b)


@numba.njit(inline="always")
def sink(heap: np.ndarray, size: int, at: int, keys: np.ndarray) -> None:
    """Let the row at this place fall to where it belongs. heap: int (rows,), of which the first `size` count; keys: a number a row."""
    row = heap[at]
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and comes_before(keys, heap[child + 1], heap[child]):
            child += 1
        if not comes_before(keys, heap[child], row):
            break
        heap[at] = heap[child]
        at = child
    heap[at] = row
