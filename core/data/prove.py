"""Prove a selection by training on it: a linear probe on the kept rows against as many rows drawn by chance."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from core.data.clusters import cluster
from core.data.dataset import Dataset, need_labels
from core.data.selection import decide, generator, kept_count
from core.errors import DataError
from core.events import Progress, Watcher
from core.recipe import Recipe

STAGE = "prove"
TEST_SHARE = 0.2
WHOLE, CHANCE = "all", "random"
PROTOCOL = (
    "Linear probe (logistic regression, C = 1, L-BFGS, at most 1,000 passes, features standardised on the training rows). For each seed 20 % of "
    "every class is held out first; clusters, scores and selection see only the other 80 %, and the shares are shares of those. The seeds' "
    "choices, the random rows and the whole are tested on the same held-out rows."
)


def prove(dataset: Dataset, vectors: np.ndarray, recipe: Recipe, watcher: Watcher) -> list[dict[str, Any]]:
    """Train on each kept share, on as many random rows, and on all rows, once a seed: one line {share, selector, seed, accuracy} a fit.

    `share` is of the rows that may be chosen (80 % of the data); `selector` is the recipe's score (or selector), "random" or "all"; accuracy
    0..1 on the held-out rows; also rows (trained on) and test_rows. Raises DataError without labels, or with too few rows to hold any out.
    """
    labels = need_labels(dataset, "the proof")
    assert recipe.select is not None and recipe.prove is not None
    shares = sorted(set(recipe.prove.shares or (recipe.select.keep or 1.0,)))
    name = recipe.select.score or recipe.select.selector or "top"
    lines: list[dict[str, Any]] = []
    total = recipe.prove.seeds * (1 + len(shares) * (1 if name == CHANCE else 2))
    watcher.check()
    watcher.say(Progress(STAGE, 0, total))
    for seed in range(recipe.seed, recipe.seed + recipe.prove.seeds):
        pool, test = hold_out(labels, seed)
        for share, chosen, rows in _choices(dataset, vectors, recipe, shares, name, seed, pool):
            watcher.check()
            accuracy = probe(vectors[rows], labels[rows], vectors[test], labels[test])
            lines.append(
                {
                    "share": share,
                    "selector": chosen,
                    "seed": seed,
                    "accuracy": accuracy,
                    "rows": len(rows),
                    "test_rows": len(test),
                }
            )
            watcher.say(Progress(STAGE, len(lines), total))
    return lines


def _choices(
    dataset: Dataset, vectors: np.ndarray, recipe: Recipe, shares: list[float], name: str, seed: int, pool: np.ndarray
) -> list[tuple[float, str, np.ndarray]]:
    """(share, who chose, positions to train on): the whole pool, and for each share the selection and as many random rows."""
    part, inside = dataset.part(pool), np.asarray(vectors[pool])
    count = None if recipe.clusters.count is None else min(recipe.clusters.count, len(pool))
    clusters = cluster(inside, recipe.clusters.model_copy(update={"count": count}), seed)
    order = generator(seed, "random of the same size").permutation(len(pool))
    choices = [(1.0, WHOLE, pool)]
    for share in shares:
        if name != CHANCE:
            choices.append((share, name, pool[decide(part, inside, clusters, recipe.select, seed, share).kept]))
        choices.append((share, CHANCE, np.sort(pool[order[: kept_count(len(pool), share)]])))
    return choices


def hold_out(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(pool, test): positions that may be chosen, and a fifth of each class (rounded down) that is only ever tested on. Seeded.

    Raises DataError where no class has five rows, or there is only one class.
    """
    if len(np.unique(labels)) < 2:
        raise DataError(
            "The proof needs at least two classes, and these labels have one.", "Choose another label column with `label:`."
        )
    random = generator(seed, "hold out")
    test = [random.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    test = np.sort(np.concatenate([rows[: int(len(rows) * TEST_SHARE)] for rows in test]))
    if len(test) == 0:
        raise DataError(
            "No class has the 5 rows that the proof needs to hold some out.", "Give it more rows, or leave prove out."
        )
    return np.setdiff1d(np.arange(len(labels)), test), test


def probe(train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray) -> float:
    """Accuracy (0..1) of a linear classifier trained on the one part and tested on the other; see PROTOCOL."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(train_labels)) == 1:  # nothing to tell apart: it answers that class always
        return float(np.mean(test_labels == train_labels[0]))
    mean = train.mean(axis=0, dtype=np.float64)
    spread = train.std(axis=0, dtype=np.float64)
    spread[spread == 0] = 1.0
    model = LogisticRegression(C=1.0, max_iter=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 1,000 passes are the protocol, converged or not
        model.fit((train - mean) / spread, train_labels)
    return float(model.score((test - mean) / spread, test_labels))
