from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from torch import Tensor, nn

from core.events import Watcher
from core.method import Paper, Param, recovery
from core.model.adapters import train_adapted


@recovery(
    "perp",
    label="PERP: norms, biases, thin LoRA",
    paper=Paper(
        "Zimmer, Andoni, Spiegel, Pokutta", 2023, "PERP: Rethinking the Prune-Retrain Paradigm in the Era of LLMs", "2312.15230"
    ),
    learning_rate=2e-3,
    place="recovery/training",
)
def perp(
    model: nn.Module,
    batches: Iterable[Any],
    masks: Mapping[str, Tensor],
    steps: int,
    learning_rate: float,
    watcher: Watcher,
    *,
    rank: Annotated[int, Param("Rank", 1, 64)] = 1,
    alpha: Annotated[float, Param("Alpha", 0.1, 512.0)] = 2.0,
) -> list[float]:
    """Keep nearly all parameters as they are: train norms, biases and a thin update through the mask, some thousandths of the model.

    batches: int64 ids (batch, tokens) or (images, labels), one a step. masks: {module path: bool, as the weight}: the layers that get the update
    W' = W + keep * (B A) * alpha / rank; where there are none, every linear layer but the head. Every parameter of one dimension is trained too. AdamW on the
    mean negative log-likelihood; returns its value at each step, before that step. Merged at the end: zeros stay zero (asserted).

    Intuition: what pruning has put out of scale is put right by a number a feature, the rest by one direction a layer; there is nothing more to learn anew.
    When it lies: at high sparsity the model has lost what so few numbers cannot say; then train more of it (a higher rank, masked_tuning).
    Deviations from the paper: its MaskLoRA together with biases and norms, without the head, which in small models is a fifth of the parameters; one
    learning rate for all.
    """
    also = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    return train_adapted(model, batches, masks, steps, learning_rate, watcher, rank=rank, alpha=alpha, also=also)
