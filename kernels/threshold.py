"""A global cut over many arrays, without ever holding more than one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numba
import numpy as np

_CHUNKS = 8  # of an array, each counted by one thread at a time
_HALF = 1 << 16
_FEW = 13  # bits of a coarse histogram: sign, exponent and four of the fraction, small enough for the first cache


def drops_per_array(array: Callable[[int], np.ndarray], sizes: Sequence[int], drop: int) -> list[int]:
    """How many entries of each array are among the `drop` smallest of all of them together.

    array(i) -> float32, sizes[i] entries, no NaN; called twice for each i. Exact: the counts add up to `drop`; entries that equal the cut are
    taken from the earlier arrays first. Radix selection on the ordered bits of the floats: a histogram of their upper halves says in which bucket
    the cut lies, and of that bucket alone the lower halves are kept.
    """
    if not 0 <= drop <= sum(sizes):
        raise ValueError(f"cannot drop {drop} of {sum(sizes)}")
    if drop == 0:
        return [0] * len(sizes)
    counts = np.zeros((_CHUNKS, _HALF), np.int64)
    for i in range(len(sizes)):
        _count(_bits(array(i)), counts, 16)
    total = counts.sum(0)
    bucket = int(np.searchsorted(np.cumsum(total), drop))
    left = drop - int(total[:bucket].sum())
    below, lower = [], []
    for i in range(len(sizes)):
        smaller, found = _split(_bits(array(i)), bucket, int(total[bucket]))
        below.append(smaller)
        lower.append(found)
    cut = int(np.searchsorted(np.cumsum(sum(np.bincount(part, minlength=_HALF) for part in lower)), left))
    left -= sum(int((part < cut).sum()) for part in lower)
    out = []
    for smaller, part in zip(below, lower, strict=True):
        tied = min(int((part == cut).sum()), left)
        left -= tied
        out.append(smaller + int((part < cut).sum()) + tied)
    return out


def cut_of(values: np.ndarray, drop: int) -> tuple[np.float32, int]:
    """The drop-th smallest of float32 values (no NaN), 0 < drop <= their number, and how many of those that equal it are among the `drop` smallest.

    A histogram of the upper bits says in which bucket the cut lies; only that bucket is sorted.
    """
    bits, counts = _bits(values), np.zeros((_CHUNKS, 1 << _FEW), np.int32)
    _count(bits, counts, 32 - _FEW)
    total = counts.sum(0)
    bucket = int(np.searchsorted(np.cumsum(total), drop))
    left, found = drop - int(total[:bucket].sum()), np.empty(int(total[bucket]), np.float32)
    _collect(values.reshape(-1), bits, bucket, counts[:, bucket].cumsum() - counts[:, bucket], found)
    cut = np.partition(found, left - 1)[left - 1]
    return cut, left - int((found < cut).sum())


def _bits(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint32)


def _split(values: np.ndarray, bucket: int, most: int) -> tuple[int, np.ndarray]:
    """(entries below the bucket, the lower halves of those in it); at most `most` are in it."""
    room = min(most, -(-len(values) // _CHUNKS))
    kept, counts = np.empty((_CHUNKS, room), np.uint16), np.zeros((_CHUNKS, 2), np.int64)
    _gather(values, bucket, kept, counts)
    return int(counts[:, 0].sum()), np.concatenate([row[:count] for row, count in zip(kept, counts[:, 1], strict=True)])


@numba.njit(inline="always")
def _ordered(bits: np.uint32) -> np.uint32:
    """A float's bits as an unsigned number in the same order: positive ones get the sign bit, negative ones are inverted. -0.0 counts as 0.0."""
    if bits == np.uint32(0x80000000):
        return bits
    return ~bits if bits >> np.uint32(31) else bits | np.uint32(0x80000000)


@numba.njit(parallel=True, cache=True, nogil=True)
def _count(values: np.ndarray, counts: np.ndarray, shift: int) -> None:
    """Add to `counts` (chunks, 2^(32 - shift)) how many values have each upper part."""
    size, down = values.shape[0], np.uint32(shift)
    for chunk in numba.prange(_CHUNKS):
        mine = counts[chunk]
        for i in range(np.uint64(chunk * size // _CHUNKS), np.uint64((chunk + 1) * size // _CHUNKS)):
            mine[np.uint64(_ordered(values[i]) >> down)] += 1


@numba.njit(parallel=True, cache=True, nogil=True)
def _gather(values: np.ndarray, bucket: int, kept: np.ndarray, counts: np.ndarray) -> None:
    """For each chunk: how many values lie below the bucket and in it (`counts`), and the lower halves of the latter (`kept`)."""
    size = values.shape[0]
    for chunk in numba.prange(_CHUNKS):
        below = inside = 0
        for i in range(np.uint64(chunk * size // _CHUNKS), np.uint64((chunk + 1) * size // _CHUNKS)):
            key = _ordered(values[i])
            upper = np.int64(key >> np.uint32(16))
            below += upper < bucket
            if upper == bucket:
                kept[chunk, inside] = np.uint16(key & np.uint32(0xFFFF))
                inside += 1
        counts[chunk, 0], counts[chunk, 1] = below, inside


@numba.njit(parallel=True, cache=True, nogil=True)
def _collect(values: np.ndarray, bits: np.ndarray, bucket: int, places: np.ndarray, found: np.ndarray) -> None:
    """Write the values of one bucket of the coarse histogram to `found`, each chunk's from its place on."""
    size, down = values.shape[0], np.uint32(32 - _FEW)
    for chunk in numba.prange(_CHUNKS):
        place = places[chunk]
        for i in range(np.uint64(chunk * size // _CHUNKS), np.uint64((chunk + 1) * size // _CHUNKS)):
            if np.int64(_ordered(bits[i]) >> down) == bucket:
                found[place] = values[i]
                place += 1
