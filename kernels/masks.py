"""Which entries of a score matrix stay. Arrays in, arrays out; ties drop the lower column first, so that equal scores give equal masks everywhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numba
import numpy as np
import torch
from torch import Tensor

from kernels.threshold import cut_of

_UNROLLED = 16  # largest group that has a compiled loop of its own: m * m comparisons written out


def keep_highest_per_row(scores: Tensor, drop: int) -> Tensor:
    """Drop the `drop` lowest entries of each row.

    scores: (rows, columns), no NaN. Returns bool (rows, columns), True = keep, exactly `drop` False in each row.
    """
    if drop <= 0:
        return torch.ones(scores.shape, dtype=torch.bool, device=scores.device)
    if drop >= scores.shape[1]:
        return torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    cut = _kth_smallest_per_row(scores, drop)
    keep = scores > cut
    # Entries that equal the cut: as many are dropped, from the left, as the row still owes. Few rows have more than one.
    owed = drop - (scores < cut).sum(1)
    tied = scores == cut
    rows = torch.nonzero(tied.sum(1) > owed).flatten()
    keep[rows] |= tied[rows] & (tied[rows].cumsum(1) > owed[rows, None])
    return keep


def keep_highest(scores: Tensor, drop: int) -> Tensor:
    """Drop the `drop` lowest entries of the whole matrix; ties drop the earlier entry in row-major order first."""
    if scores.device.type != "cpu" or scores.dtype != torch.float32 or not 0 < drop < scores.numel():
        return keep_highest_per_row(scores.reshape(1, -1), drop).reshape(scores.shape)
    flat = scores.detach().contiguous().numpy().reshape(-1)
    cut, owed = cut_of(flat, drop)
    keep = np.empty(len(flat), np.bool_)
    tied = _above(flat, cut, keep)
    if tied > owed:
        keep[np.flatnonzero(flat == cut)[owed:]] = True
    return torch.from_numpy(keep).reshape(scores.shape)


@numba.njit(parallel=True, cache=True, nogil=True)
def _above(values: np.ndarray, cut: float, keep: np.ndarray) -> int:
    """Write which values lie above the cut; returns how many equal it."""
    tied = 0
    for i in numba.prange(values.shape[0]):
        keep[i] = values[i] > cut
        tied += values[i] == cut
    return tied


def keep_n_of_m(scores: Tensor, n: int, m: int) -> Tensor:
    """Keep the n highest of each m consecutive entries of a row.

    scores: (rows, columns), columns divisible by m, no NaN. Returns bool of that shape. An entry's rank in its group is the number of
    entries that must go before it: m * m comparisons, no sort; compiled on a CPU, of whole slices elsewhere.
    """
    if scores.device.type == "cpu" and scores.dtype == torch.float32 and m <= _UNROLLED:
        keep = torch.empty(scores.shape, dtype=torch.bool)
        _ranking(m)(scores.detach().contiguous().numpy(), keep.numpy(), m - n)
        return keep
    return keep_n_of_m_in_torch(scores, n, m)


@cache
def _ranking(m: int) -> Callable[[np.ndarray, np.ndarray, int], None]:
    """Compiled for groups of m, a constant: the loops over a group are unrolled and those over groups vectorised (10 x as fast at 2:4)."""

    @numba.njit(parallel=True, cache=True, nogil=True)
    def keep_n_of_m(scores: np.ndarray, keep: np.ndarray, drop: int) -> None:
        rows, columns = scores.shape
        for row in numba.prange(rows):
            line, kept = scores[row], keep[row]
            for group in range(np.uint64(columns // m)):  # unsigned places need no check for negative ones
                start = group * np.uint64(m)
                for i in range(np.uint64(m)):
                    mine, before = line[start + i], np.int32(0)
                    for j in range(np.uint64(m)):
                        if j < i:  # of two equal ones the lower column goes first
                            before += np.int32(line[start + j] <= mine)
                        elif j > i:
                            before += np.int32(line[start + j] < mine)
                    kept[start + i] = before >= drop

    return keep_n_of_m


def keep_n_of_m_in_torch(scores: Tensor, n: int, m: int) -> Tensor:
    """What `keep_n_of_m` does, on any device."""
    groups = scores.reshape(scores.shape[0], -1, m)
    keep = torch.empty(groups.shape, dtype=torch.bool, device=scores.device)
    for j in range(m):
        rank = torch.zeros(groups.shape[:2], dtype=torch.int16, device=scores.device)
        for i in range(m):
            if i != j:
                rank += (groups[:, :, i] <= groups[:, :, j]) if i < j else (groups[:, :, i] < groups[:, :, j])
        keep[:, :, j] = rank >= m - n
    return keep.reshape(scores.shape)


def keep_tiles(scores: Tensor, size: int, drop: int) -> Tensor:
    """Drop whole tiles of size x size, those with the lowest mean score first, until as near to `drop` weights as whole tiles come.

    scores: (rows, columns), no NaN. Where size does not divide a side, the tiles at its end are smaller: they count by the weights that they have.
    Ties drop the earlier tile in row-major order first; halfway between two numbers of tiles, the fewer go. Returns bool of that shape.
    """
    rows, columns = scores.shape
    down, across = -(-rows // size), -(-columns // size)

    def sums(values: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(values, (0, across * size - columns, 0, down * size - rows))
        return padded.reshape(down, size, across, size).sum((1, 3)).flatten()

    weights = sums(torch.ones_like(scores, dtype=torch.float64))
    order = torch.argsort(sums(scores.double()) / weights, stable=True)
    gone = torch.cat((weights.new_zeros(1), weights[order].cumsum(0)))
    kept = torch.ones(down * across, dtype=torch.bool, device=scores.device)
    kept[order[: int((gone - drop).abs().argmin())]] = False
    return kept.reshape(down, across).repeat_interleave(size, 0).repeat_interleave(size, 1)[:rows, :columns].contiguous()


def _kth_smallest_per_row(scores: Tensor, k: int) -> Tensor:
    """The k-th smallest of each row as (rows, 1). numpy's partition is several times faster than torch.kthvalue on a CPU."""
    if scores.device.type == "cpu" and scores.dtype in (torch.float32, torch.float64):
        return torch.from_numpy(np.partition(scores.detach().numpy(), k - 1, axis=1)[:, k - 1 : k].copy())
    return scores.kthvalue(k, dim=1, keepdim=True).values
