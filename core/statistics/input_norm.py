from __future__ import annotations

from torch import Tensor

from core.method import statistic


def root_mean(total: Tensor, sequences: int) -> Tensor:
    return (total / sequences).sqrt()


@statistic("input_norm", label="Input norm", of="layer", finish=root_mean)
def input_norm(total: Tensor | None, inputs: Tensor) -> Tensor:
    """How strongly each input feature of a layer is driven.

    inputs (sequences, tokens, features) -> (features,): root of the mean over sequences of the feature's squared L2 norm (Wanda's norm,
    arXiv 2306.11695).
    """
    squares = inputs.flatten(0, -2).square().sum(0)
    return squares if total is None else total + squares
