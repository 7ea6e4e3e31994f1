from __future__ import annotations

from torch import Tensor

from core.method import Paper, score


@score(
    "taylor",
    label="Taylor",
    paper=Paper(
        "Molchanov, Mallya, Tyree, Frosio, Kautz", 2019, "Importance Estimation for Neural Network Pruning", "1906.10771"
    ),
    needs={"gradient"},
    compare="layer",
    structures=("unstructured", "N:M", "tiles", "neurons", "heads", "width"),
    place="criterion/gradients",
)
def taylor(weight: Tensor, gradient: Tensor) -> Tensor:
    """Keep weights whose removal would move the loss: weight times the slope of the loss along it.

    weight (out, in); gradient (out, in): mean over calibration sequences of the gradient of the sequence's mean loss, in the dense model.
    Returns (out, in): |w * g|, in nats: the first-order estimate of how the loss changes when w becomes zero. Layers compare with one another.

    Intuition: a straight line through the loss at w, followed down to w = 0.
    When it lies: near a minimum the mean gradient is nearly nothing whatever the weight is worth, since sequences pull in opposite directions and cancel
    (Fisher looks at the squares instead); and a straight line says nothing about two weights removed together.
    Deviations from the paper: the absolute value in place of its square, which ranks single weights alike; of neurons, heads and channels of the stream the
    sizes are added over all weights of the unit, where the paper squares one sum, in which opposite signs cancel (group Taylor can do either); pruned
    once, not in rounds.
    """
    return (weight * gradient).abs()
