"""Rows read wrongly by a probe that has not seen them, against one that is fitted anew for each fold."""

import numpy as np
import pytest

from core.data.draws import generator
from core.data.mistakes import FOLDS, RIDGE, mistaken

pytestmark = pytest.mark.quick
RNG = np.random.default_rng


@pytest.mark.parametrize(("rows", "features", "classes"), [(40, 3, 2), (60, 8, 4), (25, 40, 3)])
def test_mistakes_equal_those_of_a_probe_fitted_anew_for_each_fold(rows, features, classes):
    labels = np.arange(rows) % classes
    vectors = RNG(2).normal(size=(rows, features)).astype(np.float32) + labels[:, None] * 0.7
    points = np.hstack([vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.ones((rows, 1))])
    draw, fold = generator(0, "mistakes"), np.empty(rows, int)
    for label in range(classes):
        mine = draw.permutation(np.flatnonzero(labels == label))
        fold[mine] = [(place + label) % FOLDS for place in range(len(mine))]
    wrong = []
    for at in range(rows):
        seen = fold != fold[at]
        ridge = np.diag([RIDGE * seen.sum() / (features + 1)] * features + [1e-9])
        weights = np.linalg.solve(points[seen].T @ points[seen] + ridge, points[seen].T @ np.eye(classes)[labels[seen]])
        wrong.append((points[at] @ weights).argmax() != labels[at])
    assert np.array_equal(mistaken(vectors, labels, 0), wrong) and any(wrong)


def test_a_row_among_strangers_is_read_as_one_of_them():
    # Two directions, ten rows each; the row at place 3 points to the first and bears the second's label: only it is read wrongly.
    vectors = np.repeat(np.eye(2, dtype=np.float32), 10, axis=0) + RNG(0).normal(0, 0.01, (20, 2)).astype(np.float32)
    labels = np.repeat([0, 1], 10)
    labels[3] = 1
    assert np.flatnonzero(mistaken(vectors, labels, 0)).tolist() == [3]


def test_where_nothing_can_be_told_chance_decides():
    labels = np.arange(200) % 2
    assert 0.35 < mistaken(RNG(0).normal(size=(200, 4)).astype(np.float32), labels, 0).mean() < 0.65
