from __future__ import annotations

from torch import Tensor

from core.method import Paper, score


@score(
    "cfsp",
    label="CFSP",
    paper=Paper(
        "Wang, Ma, Wang et al.",
        2024,
        "CFSP: An Efficient Structured Pruning Framework for LLMs with Coarse-to-Fine Activation Information",
        "2409.13199",
    ),
    needs={"input_norm"},
    compare="layer",
    structures=("neurons",),
    place="criterion/weights and activations",
)
def cfsp(out_of: Tensor, into: Tensor, input_norm: Tensor) -> Tensor:
    """Keep neurons that are driven hard and have large weights on both sides, into the neuron and out of it.

    out_of (units, out): column of the layer out of the MLP; into (units, in or 2 * in): rows of the layers into it; input_norm (units, 1): root of the
    mean over sequences of the neuron's squared L2 norm. Returns (units,): (sum |W_down| * norm + sum |W_up| + sum |W_gate|) * norm.

    Intuition: what a neuron adds is its activation times the weights that read it; large weights into it say that it was trained for something.
    When it lies: sums of absolute values count weights that cancel each other in full, and the norm grows with the length of the calibration
    sequences, so on long ones the weights out weigh more against the weights in.
    Deviations from the paper: this is the score within a block; for its budget over blocks choose allocation influence_weighted, rule CFSP. The
    published code first divides each neuron's weights by their own sum, and the mean it then takes over them is the same for every neuron, so that the
    norm alone decides; here the weights are left as they are.
    """
    norm = input_norm[:, 0]
    return (out_of.abs().sum(1) * norm + into.abs().sum(1)) * norm
