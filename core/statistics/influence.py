from __future__ import annotations

import torch
from torch import Tensor

from core.method import statistic


@statistic("influence", label="Block influence", of="block", finish=lambda state, sequences: 1 - state[0] / state[1])
def influence(state: tuple[Tensor, int] | None, before: Tensor, after: Tensor) -> tuple[Tensor, int]:
    """How much a block turns the hidden state: 1 - the mean over tokens of cos(before, after) (ShortGPT, arXiv 2403.03853).

    before, after (sequences, tokens, hidden) -> one number in 0..2, accumulated in float64.
    """
    cosine = torch.nn.functional.cosine_similarity(before.flatten(0, -2), after.flatten(0, -2), dim=-1)
    total, seen = state or (torch.zeros((), dtype=torch.float64), 0)
    return total + cosine.cpu().double().sum(), seen + cosine.numel()
