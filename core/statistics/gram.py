from __future__ import annotations

from torch import Tensor

from core.method import statistic


@statistic("gram", label="Gram matrix of the inputs", of="layer", finish=lambda total, sequences: total)
def gram(total: Tensor | None, inputs: Tensor) -> Tensor:
    """Which input features of a layer move together: the sum over all tokens of x x^T.

    inputs (sequences, tokens, features) -> (features, features), accumulated in float64 because it is inverted later.
    """
    flat = inputs.flatten(0, -2)
    product = (flat.T @ flat).cpu().double()
    return product if total is None else total.add_(product)
