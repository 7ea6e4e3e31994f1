from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from core.method import Paper, Param, reconstruction
from core.model.reconstructing.pairs import Seen
from core.model.reconstructing.refit import Refit


@reconstruction(
    "dsnot",
    label="DSnoT",
    paper=Paper(
        "Zhang, Zhao, Lin, Sun, Yao, Han, Tanner, Liu, Ji", 2023,
        "Dynamic Sparse No Training: Training-Free Fine-tuning for Sparse LLMs", "2310.08915"),
    layers="masked",
    structures=("unstructured",),
    targets="own",
)  # fmt: skip
def dsnot(
    weight: Tensor,
    dense_weight: Tensor,
    keep: Tensor,
    seen: Seen,
    *,
    cycles: Annotated[int, Param("Cycles", 1, 500)] = 50,
    threshold: Annotated[float, Param("Small enough an error", 0.0, 10.0)] = 0.1,
) -> Refit:
    """Keep as many weights as before in each row, but let those that went and are missed come back, and others go for them.

    weight, dense_weight, keep (out, in); seen: sums over calibration tokens of x. A row's expected error is the sum over its pruned weights of w * mean(x). A
    cycle lets the pruned weight return that takes most from it for its fluctuation, w * mean(x) / var(x), and drops, of the kept weights whose going takes
    more from it, the one of the lowest |w| * |x|. A row rests when its error is below `threshold`, when nothing can be exchanged, or when an exchange would
    not make it smaller; no weight moves twice.

    Intuition: a mask chosen weight by weight leaves rows whose losses all point one way; a few exchanges balance them, and nothing is trained.
    When it lies: it balances the mean only, so an error that fluctuates is not seen; at 50 % there is little to win, at 60 to 70 % more.
    Deviations from the paper: all layers, those of the MLP too, which its code leaves out; the weights that stay keep the values they have; a mask
    with a pattern such as 2:4 is refused, since an exchange would break it.
    """
    average, power = seen.inputs / seen.tokens, seen.gram.diagonal() / seen.tokens
    mean, size = average.to(weight), power.sqrt().to(weight)
    variance = (power - average.square()).clamp_min(1e-12).to(weight)
    gives = dense_weight * mean  # what a pruned weight's return takes from the error
    losing = weight * mean  # what a kept weight's going adds to it
    keep, moved, new = keep.clone(), torch.zeros_like(keep), weight.clone()
    error = ((dense_weight - weight) * mean).sum(1)  # of a plain mask: what its pruned weights gave
    rows = torch.arange(len(weight), device=weight.device)
    for _ in range(cycles):
        sign = error.sign()[:, None]
        helps = (gives / variance * sign).masked_fill(keep | moved | (gives * sign <= 0), -torch.inf)
        costs = (weight.abs() * size).masked_fill(~keep | moved | (losing * sign >= 0), torch.inf)
        grow, drop = helps.argmax(1), costs.argmin(1)
        there = torch.isfinite(helps[rows, grow]) & torch.isfinite(costs[rows, drop])
        after = error - gives[rows, grow] + losing[rows, drop]
        chosen = rows[there & (error.abs() > threshold) & (after.abs() < error.abs())]
        if not len(chosen):
            break
        grow, drop = grow[chosen], drop[chosen]
        keep[chosen, grow], keep[chosen, drop] = True, False
        moved[chosen, grow] = moved[chosen, drop] = True
        new[chosen, grow], new[chosen, drop] = dense_weight[chosen, grow], 0.0
        error[chosen] = after[chosen]
    return Refit(new, keep=keep)
