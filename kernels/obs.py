"""Optimal brain surgeon by columns (SparseGPT's solve): drop weights one input after the other and let the inputs still to come make up for each.

Arrays in, arrays out. numba on a CPU; elsewhere the same sweep in torch, a column at a time.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from kernels.masks import keep_highest, keep_n_of_m

WIDTH = 128  # columns that are swept together before the rest of the matrix hears of it


def solve(
    weights: Tensor, factor: Tensor, drop: float, pattern: tuple[int, int] | None, width: int = WIDTH
) -> tuple[Tensor, Tensor]:
    """Prune a matrix so that its outputs change least. Returns (new weights, kept bool), both (rows, columns).

    weights: float32 (rows, columns). factor: float32 (columns, columns), the upper Cholesky factor of the inverse Hessian of the inputs.
    drop: share to remove, of each `width` columns over all rows, rounded to the nearest (halves up); pattern (n, m) instead keeps n of each m consecutive
    inputs, chosen when the sweep arrives there. Ties drop the lower column first.
    """
    weights, keep = (
        weights.clone(memory_format=torch.contiguous_format),
        torch.ones(weights.shape, dtype=torch.bool, device=weights.device),
    )
    if pattern is not None:
        width = max(width // pattern[1], 1) * pattern[1]
    for start in range(0, weights.shape[1], width):
        stop = min(start + width, weights.shape[1])
        part, inner = weights[:, start:stop].contiguous(), factor[start:stop, start:stop].contiguous()
        if pattern is None:
            kept = keep_highest((part / inner.diagonal()).square(), int(np.floor(drop * part.numel() + 0.5 + 1e-9)))
        else:
            kept = torch.ones(part.shape, dtype=torch.bool, device=part.device)
        errors = _swept(part, kept, inner, pattern)
        weights[:, start:stop], keep[:, start:stop] = part, kept
        if stop < weights.shape[1]:
            weights[:, stop:].addmm_(errors, factor[start:stop, stop:], alpha=-1)
    return weights, keep


def _swept(part: Tensor, kept: Tensor, inner: Tensor, pattern: tuple[int, int] | None) -> Tensor:
    """Sweep some columns in place (and fill `kept` where a pattern is asked). Returns the errors to hand on, of the shape of `part`."""
    if part.device.type == "cpu":
        errors = torch.empty_like(part)
        arrays = (part.numpy(), kept.numpy(), inner.numpy(), errors.numpy())
        _sweep(*arrays) if pattern is None else _sweep_n_of_m(*arrays, *pattern)
        return errors
    return swept_in_torch(part, kept, inner, pattern)


def swept_in_torch(part: Tensor, kept: Tensor, inner: Tensor, pattern: tuple[int, int] | None) -> Tensor:
    """What `_swept` does, on any device, a column at a time."""
    errors = torch.zeros_like(part)
    for i in range(part.shape[1]):
        if pattern is not None and i % pattern[1] == 0:
            group = slice(i, i + pattern[1])
            kept[:, group] = keep_n_of_m((part[:, group] / inner.diagonal()[group]).square(), *pattern)
        errors[:, i] = torch.where(kept[:, i], 0.0, part[:, i] / inner[i, i])
        part[:, i + 1 :] -= errors[:, i, None] * inner[i, None, i + 1 :]
        part[:, i] *= kept[:, i]
    return errors


@numba.njit(parallel=True, cache=True, nogil=True)
def _sweep(weights: np.ndarray, keep: np.ndarray, factor: np.ndarray, errors: np.ndarray) -> None:
    """Drop the entries of `weights` (rows, width) where `keep` is False, in place, column by column; float32, C order.

    factor (width, width): upper triangular, the Cholesky factor of the inverse Hessian. errors (rows, width) gets what each drop costs, weight /
    factor's diagonal, for the columns right of these. A kept weight costs nothing and is skipped, so half of the sums are never done at 50 %.
    """
    rows, width = weights.shape
    for row in numba.prange(rows):
        for i in range(width):
            errors[row, i] = 0.0
            if not keep[row, i]:
                _drop(weights[row], factor, errors[row], i)


@numba.njit(parallel=True, cache=True, nogil=True)
def _sweep_n_of_m(weights: np.ndarray, keep: np.ndarray, factor: np.ndarray, errors: np.ndarray, n: int, m: int) -> None:
    """As `_sweep`, choosing on the way: of each m consecutive inputs the n with the highest (weight / factor's diagonal)^2 stay. Fills `keep`.

    Groups are judged when the sweep arrives at them, on the weights as they then are. Equal scores drop the lower column first.
    """
    rows, width = weights.shape
    for row in numba.prange(rows):
        for start in range(0, width, m):
            for i in range(start, start + m):
                mine, before = (weights[row, i] / factor[i, i]) ** 2, 0
                for j in range(start, start + m):
                    other = (weights[row, j] / factor[j, j]) ** 2
                    before += other < mine or (other == mine and j < i)
                keep[row, i] = before >= m - n
            for i in range(start, start + m):
                errors[row, i] = 0.0
                if not keep[row, i]:
                    _drop(weights[row], factor, errors[row], i)


@numba.njit(inline="always")
def _drop(weights: np.ndarray, factor: np.ndarray, errors: np.ndarray, i: int) -> None:
    error = weights[i] / factor[i, i]
    errors[i] = error
    for j in range(
        np.uint64(i + 1), np.uint64(weights.shape[0])
    ):  # unsigned: a check for negative places would keep it from being vectorised
        weights[j] -= error * factor[i, j]
    weights[i] = 0.0


def inverse_lower(lower: Tensor) -> Tensor:
    """The inverse of a lower triangular matrix (n, n), by halves: a third of the work of solving against the identity, nearly all of it products."""
    size = len(lower)
    if size <= 96:
        return torch.linalg.solve_triangular(lower, torch.eye(size, dtype=lower.dtype, device=lower.device), upper=False)
    half, out = size // 2, torch.zeros_like(lower)
    out[:half, :half], out[half:, half:] = inverse_lower(lower[:half, :half]), inverse_lower(lower[half:, half:])
    out[half:, :half] = -(out[half:, half:] @ (lower[half:, :half] @ out[:half, :half]))
    return out
