from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from core.events import Watcher
from core.method import Paper, recovery
from core.model.tuning import tune


@recovery(
    "masked_tuning",
    label="Masked full tuning",
    paper=Paper(
        "Zimmer, Andoni, Spiegel, Pokutta", 2023, "PERP: Rethinking the Prune-Retrain Paradigm in the Era of LLMs", "2312.15230"
    ),
    learning_rate=1e-4,
    place="recovery/training",
)
def masked_tuning(
    model: nn.Module, batches: Iterable[Any], masks: Mapping[str, Tensor], steps: int, learning_rate: float, watcher: Watcher
) -> list[float]:
    """Keep the mask and train everything else: every parameter of the model, each pruned weight held at zero.

    batches: int64 ids (batch, tokens) or (images, labels), one a step. masks: {module path: bool, as the weight}. AdamW on the mean negative log-likelihood;
    returns its value at each step, before that step. Memory: the model, its gradient, two moments and a copy to go back to, so about five times the model.

    Intuition: the most that training can do within a mask; what the cheaper recoveries are measured against.
    When it lies: a few hundred steps of all parameters learn the recovery text as well as what was lost: compare on another text, and with a dense model
    trained the same way. It is the first to forget what that text does not speak of.
    Deviations from the paper (where it is the full retraining that PERP is compared with): no weight decay, no dropout, linear warm-up and decay.
    """
    return tune(model, list(model.parameters()), batches, masks, steps, learning_rate, watcher)
