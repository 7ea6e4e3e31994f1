from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from core.method import Paper, Param, score

_FARTHEST, _TINY = 3.0, 1e-9


@score(
    "seap",
    label="Task activation (SEAP)",
    paper=Paper(
        "Liang, Wang, Lai et al.",
        2025,
        "SEAP: Training-free Sparse Expert Activation Pruning Unlock the Brainpower of Large Language Models",
        "2503.07605",
    ),
    needs={"input_variance", "input_mean"},
    compare="model",
    structures=("neurons", "heads", "query_heads"),
    place="criterion/weights and activations",
)
def seap(
    out_of: Tensor,
    input_variance: Tensor,
    input_mean: Tensor,
    *,
    measure: Annotated[str, Param("Activation by", choices=("variance", "norm"))] = "variance",
    standardise: Annotated[bool, Param("Standardise in each block")] = False,
) -> Tensor:
    """Keep the neurons and heads that a task drives: give the task's own prompts as calibration text.

    out_of (units, entries * out): the weights that read each entry of a unit; input_variance, input_mean (units, entries): over all tokens. An entry is
    worth its variance ("norm": its root mean square, sqrt(mean^2 + variance)) times sum over outputs of W^2; a unit the mean of its entries.
    Returns (units,). `standardise`: less the block's median, divided by the distance between its quartiles, and held within -3 and 3, for
    `allocation: global`. For the paper's rising shares over depth: `allocation: logistic_depth`.

    Intuition: prompts of one task wake the same neurons, and other tasks wake others; what this task leaves alone it can do without.
    When it lies: the model that is left is for that task; on others it may be worse than by any general criterion. Within a block the order by
    variance is FLAP's for the same text, so what differs is what you calibrate on. Standardised scores are tied where they are held.
    Deviations from the paper: one task, one model: no router chooses masks by the prompt. A block is scored by what it is given in the model pruned so
    far. Its code's running variance leaves the first prompt's own out; here it is exact. Heads go by key-value group; heads and neurons
    are not ranked against each other by cost.
    """
    activation = input_variance if measure == "variance" else (input_variance + input_mean.square()).sqrt()
    found = (out_of.unflatten(1, (activation.shape[1], -1)).square().sum(2) * activation).mean(1)
    if not standardise:
        return found
    low, high = torch.quantile(found, 0.25), torch.quantile(found, 0.75)
    return ((found - found.median()) / (high - low + _TINY)).clamp(-_FARTHEST, _FARTHEST)
