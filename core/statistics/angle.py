from __future__ import annotations

from math import pi

import torch
from torch import Tensor

from core.method import statistic


@statistic("angle", label="Angle of a block", of="block", finish=lambda state, sequences: state[0] / state[1])
def angle(state: tuple[Tensor, int] | None, before: Tensor, after: Tensor) -> tuple[Tensor, int]:
    """How far a block turns the hidden state: the mean over tokens of arccos(cos(before, after)) / pi (CFSP, arXiv 2409.13199).

    before, after (sequences, tokens, hidden) -> one number in 0..1, accumulated in float64.
    """
    cosine = torch.nn.functional.cosine_similarity(before.flatten(0, -2), after.flatten(0, -2), dim=-1)
    turned = cosine.cpu().double().clamp(-1, 1).arccos() / pi
    total, seen = state or (torch.zeros((), dtype=torch.float64), 0)
    return total + turned.sum(), seen + turned.numel()
