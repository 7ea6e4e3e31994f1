"""The margin of a row's label over training."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from core.data.dynamics import Dynamics, Epochs, Learner, Prefer, Seeds
from core.method import Paper, data_score


@data_score(
    "aum",
    label="Area under the margin",
    paper=Paper(
        "Pleiss, Zhang, Elenberg, Weinberger",
        2020,
        "Identifying Mislabeled Data using the Area Under the Margin Ranking",
        "2001.10528",
    ),
    needs={"labels", "dynamics"},
    place="training",
)
def aum(
    dynamics: Callable[..., Dynamics],
    labels: np.ndarray,
    *,
    prefer: Prefer = "hard",
    learner: Learner = "mlp",
    seeds: Seeds = 5,
    epochs: Epochs = 20,
) -> np.ndarray:
    """Keep rows whose own label barely beat the best other one while learning (hard), or those where it won clearly (easy).

    labels int (rows,). The measure: mean over `seeds` of the sum over epochs of p(own label) - p(best other label), between -epochs and
    epochs. Low = hard. Returns float32 (rows,): its negative where hard rows are preferred, itself where easy ones are.

    Intuition: a wrong label is pulled to its own class by the neighbours of that class, so its margin is low for most of training: `easy`
    is the choice that drops suspected labels.

    When it lies: rare but right rows have low margins too, and `easy` drops them with the noise.

    Ours: margins of probabilities, not of logits, so that one seed's large logits do not outweigh the others; all epochs, no threshold
    classes.
    """
    record = dynamics(learner, seeds, epochs)
    total = np.zeros(len(labels))
    for seed in range(seeds):
        for epoch in range(epochs):
            total += record.own(seed, epoch) - record.best_other(seed, epoch)
    area = (total / seeds).astype(np.float32)
    return -area if prefer == "hard" else area
