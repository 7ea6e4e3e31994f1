from __future__ import annotations

import torch
from torch import Tensor

from core.method import statistic

Sum = tuple[Tensor, int]


@statistic("input_mean_size", label="Mean size of the inputs", of="layer", finish=lambda state, sequences: state[0] / state[1])
def input_mean_size(state: Sum | None, inputs: Tensor) -> Sum:
    """How large each input feature of a layer is on average, whatever its sign: the mean over all tokens of |x|.

    inputs (sequences, tokens, features) -> (features,).
    """
    flat = inputs.flatten(0, -2)
    total, seen = flat.abs().sum(0), len(flat)
    return (total, seen) if state is None else (state[0] + total, state[1] + seen)


@statistic(
    "input_mean_size_norm", label="Norm of the inputs' mean sizes", of="layer", finish=lambda total, sequences: total.sqrt()
)
def input_mean_size_norm(total: Tensor | None, inputs: Tensor) -> Tensor:
    """How large each input feature of a layer is, a sequence at a time: the L2 norm over sequences of the mean over tokens of |x|.

    inputs (sequences, tokens, features) -> (features,) (Minitron's aggregation, arXiv 2407.14679).
    """
    squares = inputs.abs().mean(1).square().sum(0)
    return squares if total is None else torch.add(total, squares)
