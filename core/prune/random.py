from __future__ import annotations

import torch
from torch import Generator, Tensor

from core.method import score


@score(
    "random",
    label="Random",
    compare="layer",
    structures=(
        "unstructured",
        "N:M",
        "tiles",
        "neurons",
        "heads",
        "query_heads",
        "channels",
        "width",
        "blocks",
        "sublayers",
        "experts",
    ),
    place="criterion/baseline",
)
def random(shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Keep weights by lot: the baseline that every criterion must beat.

    shape of the layer's weight, (experts,) of a mixture, or () for a block or sub-layer -> uniform numbers in 0..1 of that shape, from the recipe's
    seed and the layer's name, so one layer's numbers do not depend on which others are pruned.

    When it lies: never; but one draw is one draw. Compare over several seeds.
    """
    return torch.rand(shape, generator=generator)
