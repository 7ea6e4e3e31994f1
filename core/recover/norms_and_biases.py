from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import ModelError
from core.events import Watcher
from core.method import Paper, recovery
from core.model.training import train


@recovery(
    "norms_and_biases",
    label="Norms and biases",
    paper=Paper(
        "Zimmer, Andoni, Spiegel, Pokutta", 2023, "PERP: Rethinking the Prune-Retrain Paradigm in the Era of LLMs", "2312.15230"
    ),
    learning_rate=5e-3,
    place="recovery/training",
)
def norms_and_biases(
    model: nn.Module, batches: Iterable[Any], masks: Mapping[str, Tensor], steps: int, learning_rate: float, watcher: Watcher
) -> list[float]:
    """Keep every weight matrix as it is; train the scales of the norms and the biases alone, some hundredths of a percent of the model.

    batches: int64 ids (batch, tokens) or (images, labels), one a step. Trains each parameter of one dimension (a number a feature: norm scales,
    norm shifts, biases) with AdamW on the mean negative log-likelihood; returns its value at each step, before that step.

    Intuition: pruning shifts and shrinks what layers put out; a number a feature is enough to put the mean and the scale right again.
    When it lies: what pruning has cut away cannot be said by a scale; at high sparsity LoRA recovers more. A model without biases (Llama)
    has little to train, and needs a larger learning rate than matrices do.
    Zeros: no matrix is touched, so every mask holds by itself; where a Stop comes, the steps taken so far stay.
    Deviations from the paper: no dropout, and statistics of batch norms stay; AdamW, linear warm-up and decay throughout.
    """
    trained = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    if not trained:
        raise ModelError(f"{type(model).__name__} has neither norms nor biases to train.", "Use lora.")
    before = [parameter.detach().clone() for parameter in trained]
    try:
        return train(model, trained, batches, steps, learning_rate, watcher)
    except ModelError:
        with torch.no_grad():
            for parameter, old in zip(trained, before, strict=True):
                parameter.copy_(old)
        raise
