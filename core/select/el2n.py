"""The error of an early answer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from core.data.dynamics import Dynamics, Epochs, Learner, Prefer, Seeds
from core.method import Paper, data_score


@data_score(
    "el2n",
    label="EL2N",
    paper=Paper(
        "Paul, Ganguli, Dziugaite",
        2021,
        "Deep Learning on a Data Diet: Finding Important Examples Early in Training",
        "2107.07075",
    ),
    needs={"labels", "dynamics"},
    place="training",
)
def el2n(
    dynamics: Callable[..., Dynamics],
    labels: np.ndarray,
    *,
    prefer: Prefer = "hard",
    learner: Learner = "mlp",
    seeds: Seeds = 10,
    epochs: Epochs = 3,
) -> np.ndarray:
    """Keep rows that a learner still gets wrong early in training: what is right at once teaches little more.

    labels int (rows,). Returns float32 (rows,): mean over `seeds` of |p - y|, the length of softmax minus one-hot label after `epochs`
    epochs, between 0 and the square root of 2; its negative where easy rows are preferred.

    Intuition: |p - y| is the length of the loss's gradient at the logits, so a row of a small one hardly moves the weights.

    When it lies: a wrong label is the hardest row of all, so noise is kept first; and when most rows go, the hardest alone are too few to
    show the easy shape of a class, and random does better. One seed alone orders the middle badly.

    Ours: a small learner on the embedding in the place of the network, no augmentation, one checkpoint (the mean over several epochs is
    another quantity).
    """
    record = dynamics(learner, seeds, epochs)
    total = np.zeros(len(labels))
    for seed in range(seeds):
        error = record.at(seed, -1)
        error[np.arange(len(labels)), labels] -= 1
        total += np.linalg.norm(error, axis=1)
    score = (total / seeds).astype(np.float32)
    return score if prefer == "hard" else -score
