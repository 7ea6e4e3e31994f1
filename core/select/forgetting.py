"""How often a row is unlearnt."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from core.data.dynamics import Dynamics, Epochs, Learner, Prefer, Seeds
from core.method import Paper, data_score


@data_score(
    "forgetting",
    label="Forgetting events",
    paper=Paper(
        "Toneva, Sordoni, Tachet des Combes, Trischler, Bengio, Gordon",
        2018,
        "An Empirical Study of Example Forgetting during Deep Neural Network Learning",
        "1812.05159",
    ),
    needs={"labels", "dynamics"},
    place="training",
)
def forgetting(
    dynamics: Callable[..., Dynamics],
    labels: np.ndarray,
    generator: np.random.Generator,
    *,
    prefer: Prefer = "hard",
    learner: Learner = "mlp",
    seeds: Seeds = 5,
    epochs: Epochs = 20,
) -> np.ndarray:
    """Keep rows that are learnt and lost again, and first of all those never learnt: the others need no second look.

    labels int (rows,). Returns float32 (rows,): mean over `seeds` of how often a row goes from right to wrong between the ends of two
    epochs. A row that is never right in a seed counts as `epochs` there, more than any row can be forgotten. Negative where easy rows are
    preferred.

    Intuition: a row that neighbours support stays learnt; one at the border, or alone, is overwritten by them.

    When it lies: a wrong label is never learnt, so noise is kept first. An easy set has few forgotten rows: all others are equal, and
    chance orders them.

    Ours: looked at once an epoch on all rows, by a small learner. Never learnt is hardest (some codes count it as 0). Rows with equal
    counts are ordered by chance, from the recipe's seed, and not by their place in the file.
    """
    record = dynamics(learner, seeds, epochs)
    total = np.zeros(len(labels))
    for seed in range(seeds):
        before = record.right(seed, 0)
        learnt, lost = before.copy(), np.zeros(len(labels), dtype=np.int64)
        for epoch in range(1, epochs):
            now = record.right(seed, epoch)
            lost += before & ~now
            learnt |= now
            before = now
        total += np.where(learnt, lost, epochs)
    score = total / seeds if prefer == "hard" else -total / seeds
    return (score + generator.random(len(labels)) * 0.4 / seeds).astype(np.float32)  # less than one event in one seed
