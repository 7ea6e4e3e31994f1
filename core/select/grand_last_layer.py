"""How hard a row pulls at the last layer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from core.data.dynamics import Dynamics, Epochs, Learner, Prefer, Seeds
from core.method import Paper, data_score


@data_score(
    "grand_last_layer",
    label="GraNd, last layer",
    paper=Paper(
        "Paul, Ganguli, Dziugaite",
        2021,
        "Deep Learning on a Data Diet: Finding Important Examples Early in Training",
        "2107.07075",
    ),
    needs={"labels", "dynamics"},
    place="training",
)
def grand_last_layer(
    dynamics: Callable[..., Dynamics],
    labels: np.ndarray,
    *,
    prefer: Prefer = "hard",
    learner: Learner = "mlp",
    seeds: Seeds = 10,
    epochs: Epochs = 3,
) -> np.ndarray:
    """Keep rows whose loss pulls hardest at the last layer's weights: they change the learner most.

    labels int (rows,). Returns float32 (rows,): mean over `seeds` of the length of the gradient of a row's cross-entropy by the last
    layer's weights and biases after `epochs` epochs. That gradient is the outer product of p - y and what the layer reads (its constant 1
    included), so its length is |p - y| x sqrt(|h|^2 + 1). Negative where easy rows are preferred.

    Intuition: EL2N, weighed by how loudly the row speaks to the last layer.

    When it lies: as EL2N does, on wrong labels and small shares; and a row of large features is kept for its size alone.

    Ours: the last layer only, as the name says; the paper's score takes all layers. After some epochs, never at the start: the score at
    initialisation could not be reproduced (2303.14753).
    """
    record = dynamics(learner, seeds, epochs)
    total = np.zeros(len(labels))
    for seed in range(seeds):
        error = record.at(seed, -1)
        error[np.arange(len(labels)), labels] -= 1
        total += np.linalg.norm(error, axis=1) * record.lengths[seed, -1]
    score = (total / seeds).astype(np.float32)
    return score if prefer == "hard" else -score
