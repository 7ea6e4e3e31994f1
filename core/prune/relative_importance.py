from __future__ import annotations

from typing import Annotated

from torch import Tensor

from core.method import Paper, Param, score


@score(
    "relative_importance",
    label="RIA (relative importance)",
    paper=Paper(
        "Zhang, Bai, Lin, Zhao, Hou, Cannistraci",
        2024,
        "Plug-and-Play: An Efficient Post-training Pruning Method for Large Language Models",
    ),
    needs={"input_norm"},
    compare="layer",
    place="criterion/weights and activations",
)
def relative_importance(
    weight: Tensor, input_norm: Tensor, *, power: Annotated[float, Param("Input weight", 0.0, 2.0)] = 0.5
) -> Tensor:
    """Keep weights that are large among those of their own input and of their own output, so that no channel is emptied.

    weight (out, in); input_norm (in,): root of the mean over calibration sequences of each input feature's squared L2 norm.
    Returns (out, in): (|W| / its column's sum + |W| / its row's sum) * input_norm ** power, compared over the layer (N:M: within each group of M).

    Intuition: a weight of middling size may be all that a channel has; measured against its row and column it is large.
    When it lies: a channel that is useless has its largest weights kept all the same. It sees the calibration text only.
    Deviations from the paper: none in the score; the channel permutation for N:M is not done. (Published at ICLR 2024.)
    """
    size = weight.abs()
    relative = _share(size, size.sum(0, keepdim=True)) + _share(size, size.sum(1, keepdim=True))
    return relative * input_norm**power


def _share(size: Tensor, total: Tensor) -> Tensor:
    """size / total, and 0 where the total is 0 (an emptied channel)."""
    return size / total.masked_fill(total == 0, 1.0)
