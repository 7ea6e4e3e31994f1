from __future__ import annotations

from torch import Tensor

from core.method import Paper, score


@score(
    "magnitude",
    label="Magnitude",
    paper=Paper(
        "Han, Pool, Tran, Dally", 2015, "Learning both Weights and Connections for Efficient Neural Networks", "1506.02626"
    ),
    compare="layer",
    structures=("unstructured", "N:M", "tiles", "neurons", "heads", "query_heads", "channels", "width", "experts"),
    place="criterion/weights only",
)
def magnitude(weight: Tensor) -> Tensor:
    """Keep weights that are large: a small weight changes the output little.

    weight (out, in) -> (out, in): |W|. No unit of its own, so layers compare only where their weights are of one scale.

    Intuition: setting w to zero changes a layer's output by w times its input; with all inputs alike, small |w| costs least.
    When it lies: inputs are not alike. In language models a few features are a hundred times larger than the rest, and the small weights
    that they meet matter most; there magnitude collapses where Wanda holds.
    Deviations from the paper: pruned once, without the paper's retraining between rounds (add a recover step for that).
    """
    return weight.abs()
