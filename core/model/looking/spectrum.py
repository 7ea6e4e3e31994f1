"""How many directions a weight matrix uses: singular values, effective and stable rank, and what low rank keeps at the budget's size."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from core.budget import check_share
from core.errors import ModelError

MOST = 6144  # the smaller side: its cube is the work
_ENERGY = 0.99
_POINTS = 400


def spectrum(weight: Tensor, share: float | None = None) -> dict[str, Any]:
    """weight (out, in). `values`: singular values, largest first, at `ranks` (1-based; every one where there are few).

    effective_rank = exp(-sum p log p), p = s / sum s (Roy and Vetterli 2007); stable_rank = sum s^2 / s_1^2; energy_rank: the fewest directions that hold
    99 % of sum s^2. With a share to remove: `cut`, the rank r at which two factors (out x r and r x in) have as many weights as would be left, and
    `kept`, the part of the energy in the first r.
    """
    if min(weight.shape) > MOST:
        raise ModelError(f"A matrix of {weight.shape[0]:,} × {weight.shape[1]:,} is too large for its spectrum here.",
                         f"Choose a layer whose smaller side is at most {MOST:,}.")  # fmt: skip
    if not torch.isfinite(weight).all():
        raise ModelError("Some weights of this layer are NaN or infinite.", "The file is damaged; fetch the model again.")
    values = torch.linalg.svdvals(weight.double() if min(weight.shape) <= 1024 else weight.float()).double()
    energy = values.square()
    total = float(energy.sum())
    if total == 0:
        raise ModelError("Every weight of this layer is zero.", "There is no direction left in it.")
    p = values[values > 0] / values.sum()
    running = energy.cumsum(0) / total
    full, (rows, columns) = len(values), weight.shape
    told: dict[str, Any] = {
        "full_rank": full,
        "effective_rank": float((-(p * p.log()).sum()).exp()),
        "stable_rank": total / float(energy[0]),
        "energy_rank": int((running < _ENERGY).sum()) + 1,
    }
    places = sorted({round(i * (full - 1) / (_POINTS - 1)) for i in range(_POINTS)}) if full > _POINTS else range(full)
    told |= {"ranks": [place + 1 for place in places], "values": [float(values[place]) for place in places]}
    if share:
        check_share("this layer", share)
        cut = min(int((1 - share) * rows * columns / (rows + columns)), full)
        told |= {"share": share, "cut": cut, "kept": float(running[cut - 1]) if cut else 0.0}
    return told
