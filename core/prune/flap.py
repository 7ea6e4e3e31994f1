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
    structures=("neurons", "heads", "query_heads", "heads_and_neurons", "channels"),
    adds_bias="compensate",
    version=2,
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
    Returns (units,): the mean over a unit's entries of variance_j * sum over outputs of W_ij^2; standardised: each entry less the mean of its
    block's and divided by their standard deviation, so that `allocation: global` ranks the units of all blocks against each other, as the paper does.
    `structure: heads_and_neurons` with it is the paper's full search (AL-AM): heads and neurons of all blocks in one ranking, and so many of the
    lowest go that the share of their parameters is met, a head counting for as many as it has.

    `compensate`: what the removed units gave on average, W mean, is added to the bias of the layer that read them, which gets one where it had
    none. A family whose layers have no such bias then loads with Prunarium only.

    Intuition: removing a unit and leaving its mean behind costs exactly its variance, seen through the weights that read it.
    When it lies: the layer's output may hold still while the few tokens on which it moves are the ones that matter; units that fluctuate
    together and cancel are both kept; and a mean of the calibration text is not the mean of yours. A head is a mean over many entries, so its
    score lies nearer to 0 than a neuron's: in one ranking few heads go before many neurons have, and once they do, whole blocks of them follow.
    Deviations from the paper: activations of the pruned model, not of the dense one, decide within a block; heads go by key-value group (or
    singly, `query_heads`); the ranking is that of `allocation`, uniform by default. The variance is exact over all tokens.
    """
    entries = input_variance.shape[1]
    found = out_of.unflatten(1, (entries, -1)).square().sum(2) * input_variance
    if standardise:
        found = (found - found.mean()) / found.std(correction=0).clamp_min(1e-12)
    return found.mean(1)
