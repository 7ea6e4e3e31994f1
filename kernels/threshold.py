"""A global cut over many arrays, without ever holding more than one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

_PASSES = ((21, 11), (10, 11), (0, 10))  # (shift, bits): 32 bits of a float in three histograms


def drops_per_array(array: Callable[[int], np.ndarray], sizes: Sequence[int], drop: int) -> list[int]:
    """How many entries of each array are among the `drop` smallest of all of them together.

    array(i) -> float32, sizes[i] entries, no NaN; called four times for each i. Exact: the counts add up to `drop`; entries that equal the cut
    are taken from the earlier arrays first. Radix selection on the ordered bits of the floats, so memory is one array at a time.
    """
    if not 0 <= drop <= sum(sizes):
        raise ValueError(f"cannot drop {drop} of {sum(sizes)}")
    if drop == 0:
        return [0] * len(sizes)
    prefix, left = np.uint32(0), drop
    for shift, bits in _PASSES:
        counts = np.zeros(1 << bits, np.int64)
        for i in range(len(sizes)):
            key = _ordered(array(i))
            inside = key[(key >> np.uint32(shift + bits)) == (prefix >> np.uint32(shift + bits))] if shift + bits < 32 else key
            counts += np.bincount((inside >> np.uint32(shift)) & np.uint32((1 << bits) - 1), minlength=1 << bits)
        bucket = int(np.searchsorted(np.cumsum(counts), left))
        left -= int(counts[:bucket].sum())
        prefix |= np.uint32(bucket << shift)
    out = []
    for i in range(len(sizes)):
        key = _ordered(array(i))
        tied = min(int((key == prefix).sum()), left)
        left -= tied
        out.append(int((key < prefix).sum()) + tied)
    return out


def _ordered(values: np.ndarray) -> np.ndarray:
    """Floats as unsigned integers in the same order: positive ones get the sign bit, negative ones are inverted. -0.0 counts as 0.0."""
    bits = (np.ascontiguousarray(values, np.float32).reshape(-1) + np.float32(0.0)).view(np.uint32)
    return np.where(bits >> np.uint32(31), ~bits, bits | np.uint32(1 << 31))
