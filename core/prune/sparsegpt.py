from __future__ import annotations

import weakref
from typing import Annotated

import torch
from torch import Tensor

from core.errors import ModelError
from core.events import Progress, Watcher
from core.method import Paper, Param, solver
from kernels.obs import inverse_lower, solve

_HIGHEST_DAMP = 1.0
_last: dict[float, tuple[weakref.ref[Tensor], Tensor]] = {}  # layers that read one tensor (query, key, value) share its factor


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
    Deviations from the paper: the Gram matrix is summed in float64, exactly round(share * weights) of each 128 columns go, and ties drop the
    lower column. Where H is not positive definite the damping is raised tenfold, and the run says so.
    """
    factor, dead = _factor(gram, damp, watcher)
    return solve(weight.masked_fill(dead.to(weight.device), 0.0), factor.to(weight.device), share, pattern)


def _factor(gram: Tensor, damp: float, watcher: Watcher) -> tuple[Tensor, Tensor]:
    """(U float32, dead bool): U upper triangular with U^T U = H^-1; dead: inputs that the calibration text never drives."""
    dead = gram.diagonal() == 0
    known = _last.get(damp)
    if known is not None and known[0]() is gram:
        return known[1], dead
    used = damp
    while (factor := _inverted(gram, dead, used)) is None:
        if used >= _HIGHEST_DAMP:
            raise ModelError(
                "The inputs of a layer cannot be inverted: its Gram matrix is not positive definite even with full damping.",
                "Use more calibration samples, or check the text and the weights for NaN.",
            )
        used = min(used * 10, _HIGHEST_DAMP)
        watcher.say(Progress("prune", kind="note", text=f"A Gram matrix was not positive definite: damping raised to {used:g}."))
    _last.clear()
    _last[damp] = (weakref.ref(gram), factor)
    return _last[damp][1], dead


def _inverted(gram: Tensor, dead: Tensor, damp: float) -> Tensor | None:
    """U float32, upper triangular with U^T U = H^-1; None where H is not positive definite in float32 nor in float64.

    With J the reversal of order, J H J = L L^T gives U = J L^-1 J: one factorisation and one triangular inverse, where the usual way (factor, invert,
    factor again) takes twice the work.
    """
    for dtype in (torch.float32, torch.float64):
        hessian = gram.flip(0, 1).to(dtype)  # a copy
        diagonal = hessian.diagonal()
        diagonal[dead.flip(0)] = 1.0
        diagonal += damp * diagonal.mean()
        lower, failed = torch.linalg.cholesky_ex(hessian)
        if not failed:
            factor = inverse_lower(lower).flip(0, 1)
            if torch.isfinite(factor).all():
                return factor.float().contiguous()
    return None
