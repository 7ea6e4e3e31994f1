"""How undecided a trained learner is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from core.data.dynamics import Dynamics, Epochs, Learner, Prefer, Seeds
from core.method import Paper, data_score


@data_score(
    "entropy",
    label="Entropy of the answer",
    paper=Paper(
        "Coleman, Yeh, Mussmann, Mirzasoleiman, Bailis, Liang, Leskovec, Zaharia",
        2019,
        "Selection via Proxy: Efficient Data Selection for Deep Learning",
        "1906.11829",
    ),
    needs={"labels", "dynamics"},
    place="training",
)
def entropy(
    dynamics: Callable[..., Dynamics],
    labels: np.ndarray,
    *,
    prefer: Prefer = "hard",
    learner: Learner = "mlp",
    seeds: Seeds = 5,
    epochs: Epochs = 20,
) -> np.ndarray:
    """Keep rows on which a trained learner is undecided between classes: they lie where the border has to be drawn.

    labels int (rows,), to train on. Returns float32 (rows,): entropy in nats of the answer after `epochs` epochs, the mean of `seeds`
    softmaxes; 0 = certain, log(classes) = no idea. Its negative where easy rows are preferred.

    Intuition: unlike EL2N it does not look at the row's own label, so a wrong label that the learner is sure about does not come first.

    When it lies: a learner that has fitted every row is certain everywhere, and the order left is noise: take fewer epochs. Rows of no
    class at all come first.

    Ours: a small learner on the embedding; the seeds' answers are averaged before the entropy is taken.
    """
    record = dynamics(learner, seeds, epochs)
    mean = sum(record.at(seed, -1) for seed in range(seeds)).astype(np.float64) / seeds
    score = -(mean * np.log(np.maximum(mean, 1e-30))).sum(axis=1).astype(np.float32)
    return score if prefer == "hard" else -score
