"""How close the second answer comes to the first."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from core.data.dynamics import Dynamics, Epochs, Learner, Prefer, Seeds
from core.method import Paper, data_score


@data_score(
    "margin",
    label="Margin between answers",
    paper=Paper(
        "Coleman, Yeh, Mussmann, Mirzasoleiman, Bailis, Liang, Leskovec, Zaharia",
        2019,
        "Selection via Proxy: Efficient Data Selection for Deep Learning",
        "1906.11829",
    ),
    needs={"labels", "dynamics"},
    place="training",
)
def margin(
    dynamics: Callable[..., Dynamics],
    labels: np.ndarray,
    *,
    prefer: Prefer = "hard",
    learner: Learner = "mlp",
    seeds: Seeds = 5,
    epochs: Epochs = 20,
) -> np.ndarray:
    """Keep rows on which a trained learner's two likeliest classes are close (hard): the border between these two runs there.

    labels int (rows,), to train on. The measure: likeliest minus second likeliest probability of the answer after `epochs` epochs, the
    mean of `seeds` softmaxes; between 0 and 1. Low = hard. Returns float32 (rows,): its negative where hard rows are preferred, itself
    where easy ones are.

    Intuition: as entropy, but only the two best classes count, however many others there are.

    When it lies: as entropy does; and all rows between the two most alike classes come before any other border.

    Ours: a small learner on the embedding; the row's own label plays no part in the score (`aum` is the margin of that).
    """
    record = dynamics(learner, seeds, epochs)
    mean = sum(record.at(seed, -1) for seed in range(seeds)) / seeds
    second, first = np.partition(mean, -2, axis=1)[:, -2:].T
    gap = (first - second).astype(np.float32)
    return -gap if prefer == "hard" else gap
