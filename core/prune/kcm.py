from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from core.method import Paper, Param, score
from core.model.memory import check_fits

_MOST_ROUNDS = 1000


@score(
    "kcm",
    label="KCM (representatives)",
    paper=Paper("Nova, Dai, Schuurmans", 2023, "Gradient-Free Structured Pruning with Unlabeled Data", "2303.04185"),
    needs={"input_mean_size"},
    compare="layer",
    structures=("neurons",),
    place="criterion/weights and activations",
)
def kcm(
    out_of: Tensor,
    input_mean_size: Tensor,
    *,
    width: Annotated[float, Param("Kernel width", 0.05, 20.0)] = 1.0,
    until: Annotated[float, Param("Stop below a change of", 1e-6, 0.5)] = 0.01,
) -> Tensor:
    """Keep neurons that no mixture of others can stand in for, and that are active.

    out_of (units, out): what each neuron writes, its column of the layer out of the MLP; input_mean_size (units, 1): mean over tokens of its
    activation's size. K_ij = exp(-|w_i - w_j|^2 / (width * median distance)^2). C (units, units) starts at 1 / units; C <- C sqrt(K / (K C)), elementwise,
    until the sum of C changes by less than `until` of itself. Returns (units,): C_ii times the neuron's part of all mean sizes in the block.

    Intuition: C says how each column is made of the others, by weights that cannot be negative; a column at the rim of the cloud needs itself (C_ii near
    1), one inside it is made by its neighbours. Then those that are hardly ever on are worth less.
    When it lies: it looks at one block's weights at a time, and at directions as if inputs to the columns were alike. Where the kernel is narrow
    beside the distances, K is nearly the identity and every neuron represents itself: then the activation alone decides. Three matrices
    of units^2 numbers and a product of them each round: minutes a block where neurons are ten thousand.
    Deviations from the paper: its kernel's width is a number of its own, here it is counted in median distances, so that 1 means the same in every
    block; sizes of activations instead of activations (a gated neuron's has both signs); heads, its search over costs and its scaling of what
    stays are left out (choose shares by `allocation`).
    """
    check_fits(
        40 * len(out_of) ** 2, "Comparing every neuron of a block with every other", "Use flap, or fewer blocks with `only`."
    )
    columns = out_of.double()
    distances = torch.cdist(columns, columns)
    apart = distances[~torch.eye(len(columns), dtype=torch.bool, device=columns.device)]
    scale = width * float(apart.median()) if apart.numel() else 1.0
    kernel = torch.exp(-(distances / max(scale, 1e-300)).square()).float()
    made_of = torch.full_like(kernel, 1 / len(kernel))
    for _ in range(_MOST_ROUNDS):
        after = made_of * (kernel / (kernel @ made_of)).sqrt()
        change = abs(float((after - made_of).sum())) / float(made_of.sum())
        made_of = after
        if change < until:
            break
    sizes = input_mean_size[:, 0]
    return made_of.diagonal() * sizes / sizes.sum().clamp_min(torch.finfo(sizes.dtype).tiny)
