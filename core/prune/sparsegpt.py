from __future__ import annotations

import weakref
from typing import Annotated

import torch
from torch import Tensor

from core.errors import ModelError
from core.events import Progress, Watcher
from core.method import Paper, Param, solver
from kernels.obs import block_width, factorise, solve

_HIGHEST_DAMP = 1.0
_last: dict[
    tuple[float, int], tuple[weakref.ref[Tensor], Tensor]
] = {}  # layers that read one tensor (query, key, value) share its factor


@solver(
    "sparsegpt",
    label="SparseGPT",
    paper=Paper(
        "Frantar, Alistarh", 2023, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot", "2301.00774"
    ),
    needs={"gram"},
    place="criterion/weights and activations",
)
def sparsegpt(
    weight: Tensor,
    gram: Tensor,
    share: float,
    pattern: tuple[int, int] | None,
    watcher: Watcher,
    *,
    damp: Annotated[float, Param("Damping", 0.0001, 1.0)] = 0.01,
) -> tuple[Tensor, Tensor]:
    """Drop the weights whose loss the others can make up for, and let them make up for it.

    weight (out, in) float32; gram (in, in): sum over calibration tokens of x x^T. Returns (new weight, kept bool).
    H = gram + damp * mean(diagonal); U = upper Cholesky factor of H^-1; score = w^2 / U_jj^2, compared over 128 columns and all rows (N:M: within each
    group of M, on the weights as they are when the sweep arrives). Each dropped weight's error is spread over the columns to its right.

    Intuition: one weight's loss depends on which others remain to repair it; the inverse Hessian says how well they can.
    When it lies: it repairs the layer's output on the calibration text, which at high sparsity fits that text more than the language.
    Deviations from the paper: the Gram matrix is summed in float64 and factorised in float32 (in float64 where that fails), exactly round(share * weights)
    of each 128 columns go, and ties drop the lower column; weights that are zero already go first and stay zero. An input that the text never drives
    (a dead column) ranks lowest; where N:M or a small share lets its weight stay, it keeps its old value, which the paper sets to zero. Where H is not
    positive definite the damping is raised tenfold, and the run says so.
    """
    if pattern is None and share == 0:
        return weight, torch.ones_like(weight, dtype=torch.bool)
    factor, dead = _factor(gram, damp, block_width(pattern), watcher)
    factor, dead, gone = factor.to(weight.device), dead.to(weight.device), weight == 0
    if not dead.any():
        return solve(weight, factor, share, pattern, gone=gone if gone.any() else None)
    new, keep = solve(weight.masked_fill(dead, 0.0), factor, share, pattern, gone=gone)
    return torch.where(keep & dead, weight, new), keep  # what no input drives ranks lowest; where it stays, it stays as it was


def _factor(gram: Tensor, damp: float, width: int, watcher: Watcher) -> tuple[Tensor, Tensor]:
    """(what `solve` needs of the inputs, float32; dead bool: inputs that the calibration text never drives)."""
    dead, which = gram.diagonal() == 0, (damp, width)
    known = _last.get(which)
    if known is not None and known[0]() is gram:
        return known[1], dead
    used = damp
    while (factor := _factorised(gram, dead, used, width)) is None:
        if used >= _HIGHEST_DAMP:
            raise ModelError(
                "The inputs of a layer cannot be inverted: its Gram matrix is not positive definite even with full damping.",
                "Use more calibration samples, or check the text and the weights for NaN.",
            )
        used = min(used * 10, _HIGHEST_DAMP)
        watcher.say(Progress("prune", kind="note", text=f"A Gram matrix was not positive definite: damping raised to {used:g}."))
    _last.clear()
    _last[which] = (weakref.ref(gram, lambda _: _last.clear()), factor)
    return factor, dead


def _factorised(gram: Tensor, dead: Tensor, damp: float, width: int) -> Tensor | None:
    """`factorise` of the damped Hessian; None where it is not positive definite in float32 nor in float64."""
    for dtype in (torch.float32, torch.float64):
        hessian = gram.to(dtype, copy=True)
        diagonal = hessian.diagonal()
        diagonal[dead] = 1.0
        diagonal += damp * diagonal.mean()
        if (factor := factorise(hessian, width)) is not None:
            return factor.float()
    return None
