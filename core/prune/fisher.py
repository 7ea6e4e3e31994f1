from __future__ import annotations

from torch import Tensor

from core.method import Paper, score


@score(
    "fisher",
    label="Fisher (diagonal)",
    paper=Paper("LeCun, Denker, Solla", 1989, "Optimal Brain Damage"),
    needs={"gradient_square"},
    compare="layer",
    structures=("unstructured", "N:M", "tiles", "neurons", "heads", "query_heads", "width"),
    place="criterion/gradients",
)
def fisher(weight: Tensor, gradient_square: Tensor) -> Tensor:
    """Keep weights along which the loss is steeply curved: removing them costs most near a minimum.

    weight (out, in); gradient_square (out, in): mean over calibration sequences of the squared gradient of the sequence's mean loss, in the dense
    model: the diagonal of the empirical Fisher matrix, standing for that of the Hessian. Returns (out, in): w^2 * mean g^2 (twice the estimated rise
    of the loss, up to the scale of the Fisher). Layers compare with one another.

    Intuition: at a minimum the slope is gone and the curvature decides; where gradients are large, whichever way they point, the curve is steep.
    When it lies: only the diagonal is seen, so weights that can stand in for each other all look dear or all look cheap; few sequences make a noisy estimate.
    Deviations from the paper: squared gradients of whole sequences in the place of back-propagated second derivatives; pruned once, without retraining.
    """
    return weight.square() * gradient_square
