from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from core.errors import ModelError
from core.method import Paper, Param, reconstruction
from core.model.reconstructing.pairs import Seen
from core.model.reconstructing.refit import Refit


@reconstruction(
    "admm",
    label="ADMM under the mask",
    paper=Paper("Boža", 2024, "Fast and Effective Weight Update for Pruned Large Language Models", "2401.02938"),
    layers="masked",
    targets="own",
)
def admm(
    weight: Tensor,
    dense_weight: Tensor,
    keep: Tensor,
    seen: Seen,
    bias: Tensor | None,
    *,
    damp: Annotated[float, Param("Damping", 0.0001, 1.0)] = 0.1,
    rounds: Annotated[int, Param("Rounds", 1, 200)] = 20,
) -> Refit:
    """Keep the mask, and choose every surviving weight so that the layer gives what its dense weights would give for the same inputs.

    weight, dense_weight, keep (out, in); seen.gram (in, in) float64: sum of x x^T over calibration tokens. Columns are scaled so that G, the Gram matrix,
    has a diagonal of ones, damped by `damp`; with penalty 1, each round solves W = (G + I)^-1 (G W0 + Z - U), then Z = mask (W + U), then U += W - Z.
    Returns the last Z, unscaled.

    Intuition: the best weights under a mask are a least-squares problem for each row with a matrix of its own; ADMM factorises one matrix for all rows, and
    pulls the solution into the mask round by round.
    When it lies: it ends after a fixed number of rounds, near the solution and not at it; and it repairs the layer for what it reads in the pruned
    model, not what the layers before have lost.
    Deviations from the paper: the mask is given, and never chosen anew. The result is never worse than the weights as they were: where it is, they stay.
    """
    scale = seen.gram.diagonal().sqrt()
    live = scale > 0
    scale = torch.where(live, scale, torch.ones_like(scale))
    gram = seen.gram / torch.outer(scale, scale)
    gram.diagonal().add_(damp)
    mask = keep.to(gram)
    start = dense_weight.to(gram) * scale
    wanted = start @ gram
    lower, failed = torch.linalg.cholesky_ex(gram + torch.eye(len(gram), dtype=gram.dtype))
    if failed:
        raise ModelError(
            "The inputs of a layer cannot be inverted.", "Raise the damping, or check the text and the weights for NaN."
        )
    inverse = torch.cholesky_inverse(lower)
    near, dual = start * mask, torch.zeros_like(start)
    for _ in range(rounds):
        free = (wanted + near - dual) @ inverse
        near = (free + dual) * mask
        dual += free - near
    new = torch.where(live, near / scale, weight.to(near)).to(weight) * keep
    return Refit(new if seen.error(new, bias) <= seen.error(weight, bias) else weight)
