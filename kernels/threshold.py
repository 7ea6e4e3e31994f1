"""A global cut over many arrays, without ever holding more than one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numba
import numpy as np

_PASSES = ((21, 11), (10, 11), (0, 10))  # (shift, bits): 32 bits of a float in three histograms
_CHUNKS = 8  # of an array, each counted by one thread at a time


def drops_per_array(array: Callable[[int], np.ndarray], sizes: Sequence[int], drop: int) -> list[int]:
    """How many entries of each array are among the `drop` smallest of all of them together.

    array(i) -> float32, sizes[i] entries, no NaN; called four times for each i. Exact: the counts add up to `drop`; entries that equal the cut
    are taken from the earlier arrays first. Radix selection on the ordered bits of the floats, so memory is one array at a time.
    """
    if not 0 <= drop <= sum(sizes):
        raise ValueError(f"cannot drop {drop} of {sum(sizes)}")
    if drop == 0:
        return [0] * len(sizes)
    prefix, left = 0, drop
    for shift, bits in _PASSES:
        counts = np.zeros((_CHUNKS, 1 << bits), np.int64)
        for i in range(len(sizes)):
            _count(_bits(array(i)), prefix >> (shift + bits), shift, bits, counts)
        total = counts.sum(0)
        bucket = int(np.searchsorted(np.cumsum(total), left))
        left -= int(total[:bucket].sum())
        prefix |= bucket << shift
    out = []
    for i in range(len(sizes)):
        below, equal = _below_and_equal(_bits(array(i)), prefix)
        tied = min(equal, left)
        left -= tied
        out.append(below + tied)
    return out


def _bits(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint32)


@numba.njit(inline="always")
def _ordered(bits: int) -> int:
    """A float's bits as an unsigned number in the same order: positive ones get the sign bit, negative ones are inverted. -0.0 counts as 0.0."""
    if bits == 0x80000000:
        return 0x80000000
    return bits ^ 0xFFFFFFFF if bits >> 31 else bits | 0x80000000


@numba.njit(parallel=True, cache=True, nogil=True)
def _count(values: np.ndarray, prefix: int, shift: int, bits: int, counts: np.ndarray) -> None:
    """Add to `counts` (chunks, 2^bits) the next bits of those values whose higher bits are `prefix`."""
    size, mask = values.shape[0], (1 << bits) - 1
    for chunk in numba.prange(_CHUNKS):
        for i in range(chunk * size // _CHUNKS, (chunk + 1) * size // _CHUNKS):
            key = _ordered(np.int64(values[i]))
            if key >> (shift + bits) == prefix:
                counts[chunk, (key >> shift) & mask] += 1


@numba.njit(parallel=True, cache=True, nogil=True)
def _below_and_equal(values: np.ndarray, cut: int) -> tuple[int, int]:
    below = equal = 0
    for i in numba.prange(values.shape[0]):
        key = _ordered(np.int64(values[i]))
        below += key < cut
        equal += key == cut
    return below, equal
