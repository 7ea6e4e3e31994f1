"""Weights from losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import numpy as np

from core.data.dynamics import Dynamics, Epochs, Learner, Seeds
from core.method import Paper, Param, data_score

_SMALLEST = 1e-7


@data_score(
    "loss_weight",
    label="Weight by loss",
    paper=Paper(
        "Sow, Woisetschläger, Bulusu, Wang, Jacobsen, Liang",
        2025,
        "Dynamic Loss-Based Sample Reweighting for Improved Large Language Model Pretraining",
        "2502.06733",
    ),
    needs={"labels", "dynamics"},
    place="training",
)
def loss_weight(
    dynamics: Callable[..., Dynamics],
    labels: np.ndarray,
    generator: np.random.Generator,
    *,
    shape: Annotated[str, Param("More weight for", choices=("high losses", "middle losses", "extreme losses"))] = "high losses",
    cap: Annotated[float, Param("High losses are cut at", -1.0, 1.0)] = 0.5,
    strength: Annotated[float, Param("How far weights differ", 0.1, 10.0)] = 1.0,
    learner: Learner = "mlp",
    seeds: Seeds = 5,
    epochs: Epochs = 3,
) -> np.ndarray:
    """Keep rows to which training would give much weight because of their loss: what is learnt already gets little.

    labels int (rows,). Loss l of a row: mean over `seeds` of -log p(own label) after `epochs` epochs, in nats. h = 2 (l - min) / (max -
    min) - 1 lies in -1..1. f(h) is min(h, cap) for high losses, 1 - h^2 for middle ones, |h| for extreme ones. Returns float32 (rows,):
    exp(strength x f) scaled to mean 1: how many rows this one counts for.

    Intuition: rows of low loss are repeats; those of the highest may be noise, so the weight stops growing at the cap.

    When it lies: one row of an enormous loss squeezes all the others to one end of h. Weights are of this learner at this epoch.

    Ours: the paper reweighs every step of a language model's training; here weights are taken once, from a small learner, and used to
    choose. Rows of equal weight (all above the cap) are ordered by chance.
    """
    record = dynamics(learner, seeds, epochs)
    loss = sum(-np.log(np.maximum(record.own(seed, -1).astype(np.float64), _SMALLEST)) for seed in range(seeds)) / seeds
    width = loss.max() - loss.min()
    h = 2 * (loss - loss.min()) / width - 1 if width > 0 else np.zeros(len(loss))
    f = {"high losses": np.minimum(h, cap), "middle losses": 1 - h**2, "extreme losses": np.abs(h)}[shape]
    weight = np.exp(strength * f)
    return (weight / weight.mean() + generator.random(len(labels)) * 1e-6).astype(np.float32)
