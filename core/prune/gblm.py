from __future__ import annotations

from typing import Annotated

from torch import Tensor

from core.method import Paper, Param, score


@score(
    "gblm",
    label="GBLM",
    paper=Paper(
        "Das, Sun, Ma, Shen", 2023, "Beyond Size: How Gradients Shape Pruning Decisions in Large Language Models", "2311.04902"
    ),
    needs={"input_norm", "gradient_norm"},
    compare="row",
    place="criterion/gradients",
)
def gblm(
    weight: Tensor,
    input_norm: Tensor,
    gradient_norm: Tensor,
    *,
    balance: Annotated[float, Param("Gradient weight", 0.0, 100_000.0)] = 1131.0,
) -> Tensor:
    """Keep weights that are large and see large inputs, or that the loss is sensitive to.

    weight (out, in); input_norm (in,): root of the mean over sequences of each input feature's squared L2 norm, in the partly pruned model;
    gradient_norm (out, in): root of the mean over sequences of the squared gradient, in the dense model. Returns (out, in): |W| * (input_norm +
    balance * gradient_norm), compared within one output row (N:M: within each group of M).

    Intuition: Wanda knows what a weight does to its layer's output; the gradient knows what the rest of the model makes of that.
    When it lies: the two terms have different units, so `balance` decides which one speaks. Gradients shrink with longer sequences and larger models, and
    a balance that suits one does not suit another.
    Deviations from the paper: the published code multiplies gradients by 100 and takes the root of the sum over 128 sequences; with the root of the mean that
    is 100 * sqrt(128) = 1131, whatever the number of sequences.
    """
    return weight.abs() * (input_norm + balance * gradient_norm)
