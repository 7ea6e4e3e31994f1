from __future__ import annotations

from typing import Annotated

from torch import Tensor

from core.method import Paper, Param, score


@score(
    "flap",
    label="FLAP",
    paper=Paper(
        "An, Zhao, Yu, Tang, Wang", 2023, "Fluctuation-based Adaptive Structured Pruning for Large Language Models", "2312.11983"
    ),
    needs={"input_variance", "input_mean"},
    compare="model",
    structures=("neurons", "heads", "channels"),
    adds_bias="compensate",
    place="criterion/weights and activations",
)
def flap(
    out_of: Tensor,
    input_variance: Tensor,
    *,
    standardise: Annotated[bool, Param("Standardise in each block")] = True,
    compensate: Annotated[bool, Param("Put the mean into the bias")] = True,
) -> Tensor:
    """Keep units whose output fluctuates: one that is nearly constant can be replaced by a bias.

    out_of (units, entries * out): the weights that read each entry of a unit; input_variance (units, entries): over all calibration tokens.
    Returns (units,): the sum over a unit's entries of variance_j * sum over outputs of W_ij^2; standardised: less the mean and divided by the
    standard deviation of its block, so that `allocation: global` ranks the units of all blocks against each other, as the paper does.

    `compensate`: what the removed units gave on average, W mean, is added to the bias of the layer that read them, which gets one where it had
    none. A family whose layers have no such bias then loads with Prunarium only.

    Intuition: removing a unit and leaving its mean behind costs exactly its variance, seen through the weights that read it.
    When it lies: the layer's output may hold still while the few tokens on which it moves are the ones that matter; units that fluctuate
    together and cancel are both kept; and a mean of the calibration text is not the mean of yours. Where a block has two groups of heads, their
    standardised scores are 1 and -1 whatever the block, so a global ranking says nothing about blocks: switch `standardise` off there.
    Deviations from the paper: activations of the pruned model, not of the dense one, decide within a block; heads go by key-value group, and neurons
    and heads each have a ranking of their own, so no cost in parameters is weighed between them; the ranking is that of `allocation`, uniform by
    default. The variance is exact over all tokens.
    """
    entries = input_variance.shape[1]
    found = (out_of.unflatten(1, (entries, -1)).square().sum(2) * input_variance).sum(1)
    if not standardise:
        return found
    return (found - found.mean()) / found.std(correction=0).clamp_min(1e-12)
