from __future__ import annotations

from typing import Annotated

from torch import Tensor

from core.events import Watcher
from core.method import Paper, Param, reconstruction
from core.model.reconstructing.pairs import Seen
from core.model.reconstructing.refit import Refit
from core.prune.sparsegpt import factor_of
from kernels.obs import block_width, solve


@reconstruction(
    "sparsegpt_update",
    label="SparseGPT's update",
    paper=Paper(
        "Frantar, Alistarh", 2023, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot", "2301.00774"
    ),
    layers="masked",
    targets="own",
)
def sparsegpt_update(
    weight: Tensor,
    dense_weight: Tensor,
    keep: Tensor,
    seen: Seen,
    watcher: Watcher,
    *,
    damp: Annotated[float, Param("Damping", 0.0001, 1.0)] = 0.01,
) -> Refit:
    """Keep any mask, and let the weights that stay make up for those that went, column by column.

    weight, dense_weight, keep (out, in); seen.gram (in, in): sum of x x^T over calibration tokens. SparseGPT's sweep on the dense weights with the mask
    fixed beforehand: each weight that goes spreads its error over the columns to its right by the inverse Hessian.

    Intuition: any criterion may choose the mask; the repair does not depend on who chose it.
    When it lies: only columns to the right can repair, so the last columns are repaired by nobody; and what it fits is the calibration text.
    Deviations from the paper: none in the sweep; an input that the text never drives keeps its weights as they were.
    """
    factor, dead = factor_of(seen.gram, damp, block_width(None), watcher)
    factor, dead = factor.to(weight.device), dead.to(weight.device)
    new, _ = solve(dense_weight.to(weight.device).masked_fill(dead, 0.0), factor, 0.0, None, gone=~keep | dead)
    return Refit(new.where(~dead, weight) * keep)
