from __future__ import annotations

from torch import Tensor

from core.method import statistic


def _squares(total: Tensor | None, gradient: Tensor) -> Tensor:
    return gradient.square() if total is None else total.addcmul_(gradient, gradient)


@statistic("gradient_square", label="Mean squared gradient", of="gradient", finish=lambda total, sequences: total / sequences)
def gradient_square(total: Tensor | None, gradient: Tensor) -> Tensor:
    """How much the loss depends on each weight, whichever way: the mean over sequences of the squared gradient (the empirical Fisher diagonal).

    gradient (out, in) of a sequence's mean loss -> (out, in).
    """
    return _squares(total, gradient)


@statistic("gradient_norm", label="Gradient norm", of="gradient", finish=lambda total, sequences: (total / sequences).sqrt())
def gradient_norm(total: Tensor | None, gradient: Tensor) -> Tensor:
    """The root of the mean over sequences of the squared gradient, the size of each weight's gradient in one sequence.

    gradient (out, in) of a sequence's mean loss -> (out, in), nats a unit of weight.
    """
    return _squares(total, gradient)
