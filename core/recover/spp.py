from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from torch import Tensor, nn

from core.events import Watcher
from core.method import Paper, Param, recovery
from core.model.adapters import train_adapted


@recovery(
    "spp",
    label="SPP: weights by shares",
    paper=Paper(
        "Lu, Zhou, Xu, Zhou, Wei, Li, Wang", 2024, "SPP: Sparsity-Preserved Parameter-Efficient Fine-Tuning for Large Language Models", "2405.16057"),
    learning_rate=3e-3,
    place="recovery/training",
)  # fmt: skip
def spp(
    model: nn.Module,
    batches: Iterable[Any],
    masks: Mapping[str, Tensor],
    steps: int,
    learning_rate: float,
    watcher: Watcher,
    *,
    rank: Annotated[int, Param("Rank", 1, 256)] = 8,
    scale: Annotated[float, Param("Scale", 0.1, 512.0)] = 8.0,
) -> list[float]:
    """Keep the pattern by construction: each weight is trained by what share of itself it changes, so a zero stays zero.

    W' = W + W * (B A) * scale / rank, elementwise product with W, with A (rank, in), B (out, rank), B = 0 at first. batches: int64 ids (batch, tokens) or
    (images, labels), one a step. masks: {module path: bool, as the weight}: the layers trained; where there are none, every linear layer but the head. Trained
    with AdamW on the mean negative log-likelihood; returns its value at each step, before that step. Merged at the end.

    Intuition: a weight that survived is worth scaling, one that went is not worth anything; the product of two thin matrices says the scale of each.
    When it lies: a weight cannot change its sign easily, nor a small one become large in a few steps; where values and not scales are wrong, take LoRA.
    Deviations from the paper: both factors are low-rank matrices over whole rows and columns, where the paper shares numbers within groups of rows; no dropout.
    """
    return train_adapted(model, batches, masks, steps, learning_rate, watcher, rank=rank, alpha=scale, by_weight=True)
