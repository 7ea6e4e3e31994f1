from __future__ import annotations

from torch import Tensor

from core.method import statistic

_OF = "general gradient"  # as "gradient", on the step's general text


@statistic("general_gradient", label="Mean gradient, general text", of=_OF, finish=lambda total, sequences: total / sequences)
def general_gradient(total: Tensor | None, gradient: Tensor) -> Tensor:
    """Which way the loss on the general text would move with each weight: the mean over its sequences of the gradient of the sequence's mean loss.

    gradient (out, in) -> (out, in), nats a unit of weight.
    """
    return gradient.clone() if total is None else total.add_(gradient)


@statistic(
    "general_gradient_square",
    label="Mean squared gradient, general text",
    of=_OF,
    finish=lambda total, sequences: total / sequences,
)
def general_gradient_square(total: Tensor | None, gradient: Tensor) -> Tensor:
    """How much the loss on the general text depends on each weight, whichever way: the mean over its sequences of the squared gradient.

    gradient (out, in) of a sequence's mean loss -> (out, in).
    """
    return gradient.square() if total is None else total.addcmul_(gradient, gradient)
