from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from core.events import Watcher
from core.method import Paper, Param, solver
from core.model.memory import check_fits


@solver(
    "greedy_output",
    label="Greedy output approximation",
    paper=Paper(
        "Li, Dong, Lei",
        2024,
        "Greedy Output Approximation: Towards Efficient Structured Pruning for LLMs Without Retraining",
        "2407.19126",
    ),
    needs={"gram"},
    structures=("neurons", "heads"),
    place="criterion/output error",
)
def greedy_output(
    weight: Tensor,
    index: Tensor,
    count: int,
    gram: Tensor,
    watcher: Watcher,
    *,
    refit: Annotated[bool, Param("Re-fit what stays")] = True,
    ridge: Annotated[float, Param("Ridge", 1e-6, 10.0)] = 0.01,
) -> tuple[Tensor, Tensor]:
    """Keep the units without which a sub-layer's output changes most: take out the one that is missed least, look again, repeat.

    weight W (out, n) of the layer that reads the units; index (units, entries): each unit's columns; gram G (n, n): sum over calibration tokens of what that
    layer reads, x x^T. Without the set R its output loses sum over i, j in R of (W^T W)_ij G_ij. Each round removes the unit with which this grows least,
    given those that have gone (ties: the first), until `count` have. `refit`: the columns S that stay become W_S + W_R G_RS (G_SS + l I)^-1,
    l = ridge * mean of G_SS's diagonal: least squares for the dense output, held to the old weights by the ridge. Zeros that were there stay.
    Returns (W, kept (units,)).

    Intuition: what a unit says may be said by others too, or cancelled by them: so ask what the sum loses, not what one part was; then let
    the rest take over what they can.
    When it lies: it mends one sub-layer's output on the calibration text; few tokens make a G that others do not share, and a small ridge then fits their
    noise. Greedy is not best: two units that cancel may both look dear when neither has gone.
    Deviations from the paper: its measure of a neuron is its own second moment, which is our first round's; here the products with those that have gone
    count too. Its measure of likeness between heads and its step before pruning are left out: heads go by the same rule as neurons, by key-value group.
    """
    check_fits(32 * weight.shape[1] ** 2, "What the output loses by each pair of units", "Use flap, or fewer blocks with `only`.")
    written = weight.double()
    gram = gram.to(weight.device, torch.float64)
    order = index.flatten().to(weight.device)
    lost = (written.T @ written).mul_(gram)[order][:, order]
    lost = lost.unflatten(0, index.shape).unflatten(2, index.shape).sum((1, 3))
    keep = _kept(lost, count, watcher).to(weight.device)
    if not refit or keep.all():
        return weight, keep.cpu()
    stays, gone = (index.to(weight.device)[chosen].flatten().sort().values for chosen in (keep, ~keep))
    return _refitted(written, gram, stays, gone, ridge).to(weight.dtype), keep.cpu()


def _kept(lost: Tensor, count: int, watcher: Watcher) -> Tensor:
    """lost (units, units): what the output loses by each pair of units. bool (units,) with `count` False."""
    grows, keep = lost.diagonal().clone(), torch.ones(len(lost), dtype=torch.bool, device=lost.device)
    for _ in range(count):
        watcher.check()
        gone = int(grows.masked_fill(~keep, torch.inf).argmin())
        keep[gone] = False
        grows += 2 * lost[:, gone]
    return keep


def _refitted(weight: Tensor, gram: Tensor, stays: Tensor, gone: Tensor, ridge: float) -> Tensor:
    """The weights of the columns that stay, moved so that they say what went as well as they can; float64."""
    inner, across = gram[stays][:, stays], gram[gone][:, stays]
    held = ridge * inner.diagonal().mean()
    if held <= 0:  # what stays is never on, so it can take nothing over
        return weight
    inner.diagonal().add_(held)
    moved = torch.linalg.solve(inner, (weight[:, gone] @ across).T).T
    return weight.index_add(1, stays, moved)
