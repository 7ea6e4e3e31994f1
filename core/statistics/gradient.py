from __future__ import annotations

from torch import Tensor

from core.method import statistic


@statistic("gradient", label="Mean gradient", of="gradient", finish=lambda total, sequences: total / sequences)
def gradient(total: Tensor | None, gradient: Tensor) -> Tensor:
    """Which way the loss would move with each weight: the mean over sequences of the gradient of the sequence's mean loss.

    gradient (out, in) -> (out, in), nats a unit of weight. Gradients of opposite sign cancel.
    """
    return gradient.clone() if total is None else total.add_(gradient)
