from __future__ import annotations

from torch import Tensor

from core.method import Paper, score


@score(
    "pruner_zero",
    label="Pruner-Zero",
    paper=Paper(
        "Dong, Li, Tang et al.",
        2024,
        "Pruner-Zero: Evolving Symbolic Pruning Metric from Scratch for Large Language Models",
        "2406.02924",
    ),
    needs={"gradient_norm"},
    compare="row",
    place="criterion/gradients",
)
def pruner_zero(weight: Tensor, gradient_norm: Tensor) -> Tensor:
    """Keep weights that are large and that the loss is sensitive to, by the formula that an evolutionary search found best.

    weight (out, in); gradient_norm (out, in): root of the mean over calibration sequences of the squared gradient, in the dense model.
    Returns (out, in): W^2 * minmax(G), minmax over the layer: (G - min) / (max - min), 0 where all gradients are equal. Compared within one output row
    (N:M: within each group of M). The formula method starts from such expressions.

    Intuition: the square of the weight puts size first, the gradient decides among weights of like size.
    When it lies: the search was scored on one family of models. The layer's smallest gradient gets exactly 0, whatever its weight; inputs are not seen.
    Deviations from the paper: its gradients are scaled and summed over sequences before the minmax, which undoes both.
    """
    low, high = gradient_norm.aminmax()
    if low == high:
        return weight.new_zeros(weight.shape)
    return weight.square() * ((gradient_norm - low) / (high - low))
