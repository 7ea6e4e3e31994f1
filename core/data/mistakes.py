"""Which rows a plain learner gets wrong when it has not seen them: what a map or a treemap of errors is coloured by."""

from __future__ import annotations

import numpy as np

from core.data.clusters.density import main_directions
from core.data.clusters.groups import unit
from core.data.draws import generator

FOLDS = 5
RIDGE = 1e-2
_MOST_FEATURES = 1024


def mistaken(vectors: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """Is each row's class not the one that a linear probe of the other four fifths of the rows would say? bool (rows,).

    vectors (rows, features), labels int (rows,). Each row of length 1 (of more than 1,024 features their 50 main directions), and a constant; least
    squares on one-hot classes with a ridge of 0.01 x the rows, in closed form, so that any number of rows takes two passes. Every class is spread over
    the folds by the seed.
    """
    points = unit(vectors)
    points = main_directions(points) if points.shape[1] > _MOST_FEATURES else points
    draw, fold = generator(seed, "mistakes"), np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        mine = draw.permutation(np.flatnonzero(labels == label))
        fold[mine] = (np.arange(len(mine)) + label) % FOLDS  # classes of one row do not all lie in the first
    moments = [_moments(points[fold == k], labels[fold == k], int(labels.max()) + 1) for k in range(FOLDS)]
    gram, target = sum(one for one, _ in moments), sum(other for _, other in moments)
    wrong = np.empty(len(labels), dtype=bool)
    for k, (own_gram, own_target) in enumerate(moments):
        mine = np.flatnonzero(fold == k)
        ridge = RIDGE * (len(labels) - len(mine)) * np.eye(len(gram)) / len(gram)
        ridge[-1, -1] = 1e-9  # the constant is free
        weights = np.linalg.solve(gram - own_gram + ridge, target - own_target)
        wrong[mine] = (points[mine] @ weights[:-1] + weights[-1]).argmax(axis=1) != labels[mine]
    return wrong


def _moments(points: np.ndarray, labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(sum of x x', sum of x y') with a constant as last feature, float64."""
    wide = np.concatenate([points, np.ones((len(points), 1))], axis=1, dtype=np.float64)
    told = np.zeros((len(points), classes))
    told[np.arange(len(points)), labels] = 1
    return wide.T @ wide, wide.T @ told
