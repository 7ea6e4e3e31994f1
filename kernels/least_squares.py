"""Weights that give a wanted output best, from sums over the inputs alone: with every input free, or each row with its own.

Arrays in, arrays out. Memory: a few matrices of the shape of the weight and of the Gram matrix.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def fit(gram: Tensor, cross: Tensor, prior: Tensor, damp: float) -> Tensor | None:
    """The W (rows, columns) with the least |W X - Y|^2 + damp |W - prior|^2, from gram = X X^T (columns, columns) and cross = Y X^T (rows, columns).

    All float64. None where gram + damp is not positive definite.
    """
    damped = gram + damp * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    lower, failed = torch.linalg.cholesky_ex(damped)
    if failed:
        return None
    return torch.cholesky_solve((cross + damp * prior).T.contiguous(), lower).T


def fit_kept(
    gram: Tensor,
    cross: Tensor,
    prior: Tensor,
    keep: Tensor,
    damp: float,
    rounds: int = 300,
    tolerance: float = 1e-6,
    check: Callable[[], None] = lambda: None,
) -> Tensor:
    """As `fit`, where each row may use those columns only that `keep` (rows, columns, bool) gives it: zeros elsewhere, exactly.

    Conjugate gradients for all rows at once, from the prior on, each preconditioned by its diagonal, until no row's residual is above `tolerance` of
    what it was given, or `rounds` products with the Gram matrix are done. `check` is called before each of them, and may raise.
    A row is an independent problem, (keep gram keep) w = keep (cross + damp prior).
    """
    mask = keep.to(gram.dtype)
    diagonal = gram.diagonal() + damp
    inverse = torch.where(diagonal > 0, 1 / diagonal.clamp_min(1e-300), torch.zeros_like(diagonal))

    def times(rows: Tensor, free: Tensor) -> Tensor:
        return (rows @ gram).add_(rows, alpha=damp).mul_(free)

    weight = prior * mask
    aim = (cross + damp * prior) * mask
    scale = aim.norm(dim=1).clamp_min(1e-300)
    residual = aim - times(weight, mask)
    ready = residual * inverse
    direction, power = ready.clone(), (residual * ready).sum(1)
    for _ in range(rounds):
        active = (residual.norm(dim=1) > tolerance * scale).nonzero().flatten()
        if not len(active):
            break
        check()
        onward, free = direction[active], mask[active]
        pushed = times(onward, free)
        curvature = (onward * pushed).sum(1)
        step = torch.where(curvature > 0, power[active] / curvature.clamp_min(1e-300), torch.zeros_like(curvature))[:, None]
        weight[active] += step * onward
        left = residual[active] - step * pushed
        residual[active] = left
        ready = left * inverse
        now = (left * ready).sum(1)
        direction[active] = ready + (now / power[active].clamp_min(1e-300))[:, None] * onward
        power[active] = now
    return weight
