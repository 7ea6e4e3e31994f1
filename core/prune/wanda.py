from __future__ import annotations

from typing import Annotated

from torch import Tensor

from core.method import Paper, Param, score


@score(
    "wanda",
    label="Wanda",
    paper=Paper(
        "Sun, Liu, Bair, Kolter", 2023, "A Simple and Effective Pruning Approach for Large Language Models", "2306.11695"
    ),
    needs={"input_norm"},
    compare="row",
    structures=("unstructured", "N:M", "tiles", "neurons", "heads", "query_heads", "channels", "width"),
    place="criterion/weights and activations",
)
def wanda(weight: Tensor, input_norm: Tensor, *, power: Annotated[float, Param("Input weight", 0.0, 2.0)] = 1.0) -> Tensor:
    """Keep weights that are large and that see large inputs.

    weight (out, in); input_norm (in,): root of the mean over calibration sequences of each input feature's squared L2 norm.
    Returns (out, in): |W| * input_norm ** power, compared within one output row (N:M: within each group of M).

    Intuition: what a weight adds to its output is weight times input, so score that, not the weight alone.
    When it lies: it looks at one weight at a time. Weights whose effects cancel, or repair each other, are invisible to it; and it sees
    the calibration text only.
    Deviations from the paper: `power` bends the weight of the input (1 is the paper's, 0 is magnitude within rows).
    """
    return weight.abs() * (input_norm if power == 1.0 else input_norm**power)
