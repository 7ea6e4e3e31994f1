"""Optimal brain surgeon by columns (SparseGPT's solve): drop weights one input after the other and let the inputs still to come make up for each.

Arrays in, arrays out. numba on a CPU; elsewhere the same sweep in torch, a column at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numba
import numpy as np
import torch
from torch import Tensor

from kernels.masks import keep_highest, keep_n_of_m

WIDTH = 128  # columns that are swept together before the rest of the matrix hears of it
_STEP = 32  # floats that one turn of the compiled inner loop takes


def block_width(pattern: tuple[int, int] | None, width: int = WIDTH) -> int:
    """Columns a block has, so that no group of an N:M pattern lies in two of them."""
    return width if pattern is None else max(width // pattern[1], 1) * pattern[1]


def factorise(hessian: Tensor, width: int) -> Tensor | None:
    """What `solve` has to know of the Hessian of the inputs, written over it. None where it is not positive definite in its precision.

    hessian: (columns, columns), symmetric. With H = M M^T, M upper triangular, and blocks of `width` columns: a block (b, b) on the diagonal becomes
    U = M_bb^-1, a block (b, a) below it the transpose of M_ab U, what a change in the inputs of block a does to the best weights of block b; those
    above are spent. The inverse of H, whose Cholesky factor the paper takes, is never built: M^-1 is that factor, and of it the sweep uses
    only the blocks on the diagonal.
    """
    for start in reversed(range(0, len(hessian), width)):
        stop = min(start + width, len(hessian))
        if stop < len(hessian):  # less what later blocks explain: M_ak M_bk^T = (M_ak M_kk^T) (M_bk U_k)^T
            hessian[:stop, start:stop].addmm_(hessian[:stop, stop:], hessian[stop:, start:stop], alpha=-1)
        lower, failed = torch.linalg.cholesky_ex(hessian[start:stop, start:stop].flip(0, 1))
        if failed:
            return None
        identity = torch.eye(stop - start, dtype=lower.dtype, device=lower.device)
        inner = torch.linalg.solve_triangular(lower, identity, upper=False).flip(0, 1)
        if not torch.isfinite(inner).all():
            return None
        hessian[start:stop, start:stop] = inner
        if start:
            torch.mm(inner.T @ inner, hessian[:start, start:stop].T, out=hessian[start:stop, :start])
    return hessian


def solve(
    weights: Tensor, factor: Tensor, drop: float, pattern: tuple[int, int] | None, width: int = WIDTH, gone: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Prune a matrix so that its outputs change least. Returns (new weights, kept bool), both (rows, columns).

    weights: float32 (rows, columns). factor: float32 (columns, columns), of `factorise` with block_width(pattern, width).
    drop: share to remove, of each `width` columns over all rows, rounded to the nearest (halves up); pattern (n, m) instead keeps n of each m consecutive
    inputs, chosen when the sweep arrives there. Ties drop the lower column first. gone (bool, where an earlier step has dropped a weight): these go
    first, and always.
    """
    new, keep = torch.empty_like(weights, memory_format=torch.contiguous_format), torch.empty_like(weights, dtype=torch.bool)
    changes, width = torch.empty_like(new), block_width(pattern, width)
    for start in range(0, weights.shape[1], width):
        stop = min(start + width, weights.shape[1])
        here, inner = weights[:, start:stop], factor[start:stop, start:stop].contiguous()
        part = here.clone(memory_format=torch.contiguous_format)
        if start:
            part.addmm_(changes[:, :start], factor[start:stop, :start].T)
        kept = torch.ones_like(part, dtype=torch.bool) if gone is None else ~gone[:, start:stop]
        if pattern is None:
            score = part.div(inner.diagonal()).square_()
            if gone is not None:
                score.masked_fill_(~kept, -1.0)
            kept &= keep_highest(score, int(np.floor(drop * part.numel() + 0.5 + 1e-9)))
        _swept(part, kept, inner, pattern)
        new[:, start:stop], keep[:, start:stop] = part, kept
        torch.sub(here, part, out=changes[:, start:stop])
    return new, keep


def _swept(part: Tensor, kept: Tensor, inner: Tensor, pattern: tuple[int, int] | None) -> None:
    """Sweep some columns in place (choosing among those that `kept` leaves where a pattern is asked)."""
    if part.device.type != "cpu":
        swept_in_torch(part, kept, inner, pattern)
    elif pattern is None:
        _sweep(part.numpy(), kept.numpy(), inner.numpy())
    else:
        _sweep_n_of_m(pattern[1])(part.numpy(), kept.numpy(), inner.numpy(), pattern[1] - pattern[0])


def swept_in_torch(part: Tensor, kept: Tensor, inner: Tensor, pattern: tuple[int, int] | None) -> None:
    """What `_swept` does, on any device, a column at a time."""
    for i in range(part.shape[1]):
        if pattern is not None and i % pattern[1] == 0:
            group = slice(i, i + pattern[1])
            score = (part[:, group] / inner.diagonal()[group]).square().masked_fill_(~kept[:, group], -1.0)
            kept[:, group] &= keep_n_of_m(score, *pattern)
        error = torch.where(kept[:, i], 0.0, part[:, i] / inner[i, i])
        part[:, i + 1 :] -= error[:, None] * inner[i, None, i + 1 :]
        part[:, i] *= kept[:, i]


@numba.njit(parallel=True, cache=True, nogil=True)
def _sweep(weights: np.ndarray, keep: np.ndarray, factor: np.ndarray) -> None:
    """Drop the entries of `weights` (rows, width) where `keep` is False, in place, column by column; float32, C order.

    factor (width, width): upper triangular, zeros below. A kept weight costs nothing and is skipped, so half of the sums are never done at 50 %.
    """
    rows, width = weights.shape
    for row in numba.prange(rows):
        for i in range(width):
            if not keep[row, i]:
                _drop(weights[row], factor, i)


@cache
def _sweep_n_of_m(m: int) -> Callable[[np.ndarray, np.ndarray, np.ndarray, int], None]:
    """Compiled for groups of m, a constant, so that the loops over a group are unrolled."""

    @numba.njit(parallel=True, cache=True, nogil=True)
    def sweep_n_of_m(weights: np.ndarray, keep: np.ndarray, factor: np.ndarray, drop: int) -> None:
        """As `_sweep`, choosing on the way: of each m consecutive inputs `drop` go, those with the lowest (weight / factor's diagonal)^2, and those that
        `keep` has lost already. Groups are judged when the sweep arrives at them, on the weights as they then are. Narrows `keep`."""
        rows, width = weights.shape
        for row in numba.prange(rows):
            line, kept, score = weights[row], keep[row], np.empty(m, np.float32)
            for start in range(np.uint64(0), np.uint64(width), np.uint64(m)):
                for i in range(np.uint64(m)):
                    here = start + i
                    score[i] = (line[here] / factor[here, here]) ** 2 if kept[here] else -1.0
                for i in range(np.uint64(m)):
                    mine, before = score[i], np.int32(0)
                    for j in range(np.uint64(m)):
                        if j < i:  # of two equal ones the lower column goes first
                            before += np.int32(score[j] <= mine)
                        elif j > i:
                            before += np.int32(score[j] < mine)
                    kept[start + i] = before >= drop and mine >= 0
                for i in range(np.uint64(m)):
                    if not kept[start + i]:
                        _drop(line, factor, np.int64(start + i))

    return sweep_n_of_m


@numba.njit(inline="always")
def _drop(weights: np.ndarray, factor: np.ndarray, i: int) -> None:
    """Take weight i away and add to those right of it what makes up for it."""
    error = weights[i] / factor[i, i]
    # From the multiple of _STEP below i, where the factor is zero: whole turns of a vectorised loop, no rest done one by one. Unsigned places: a check
    # for negative ones would keep it from being vectorised.
    for j in range(np.uint64(i // _STEP * _STEP), np.uint64(weights.shape[0])):
        weights[j] -= error * factor[i, j]
    weights[i] = 0.0
