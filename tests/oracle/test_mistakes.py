"""Rows read wrongly by a reader that never saw them, against one that is fitted anew without each row."""

import numpy as np
import pytest

from core.data import mistakes
from core.data.mistakes import left_out_answers
from core.errors import DataError

pytestmark = pytest.mark.quick
RNG = np.random.default_rng


def refitted(vectors, labels, share):
    """Ridge regression on one-hot labels with a free intercept, fitted anew without each row: answers, and the sum of squared residuals."""
    scale = vectors.std(0)
    points = (vectors / np.where(scale > 0, scale, np.inf)).astype(np.float64)
    wanted = np.eye(labels.max() + 1)[labels]
    penalty = np.diag([0.0] + [share * len(points)] * points.shape[1])
    answers, lost = [], 0.0
    for at in range(len(points)):
        rest = np.arange(len(points)) != at
        seen = np.hstack([np.ones((rest.sum(), 1)), points[rest]])
        weights = np.linalg.solve(seen.T @ seen + penalty, seen.T @ wanted[rest])
        read = np.append(1, points[at]) @ weights
        answers.append(int((read + wanted.mean(0) - wanted[rest].mean(0)).argmax()))
        lost += ((wanted[at] - read) ** 2).sum()
    return np.array(answers), lost


@pytest.mark.parametrize(("rows", "features", "classes"), [(40, 3, 2), (60, 8, 4), (25, 40, 3)])
def test_answers_equal_those_of_a_reader_fitted_anew_without_each_row(rows, features, classes):
    labels = RNG(1).integers(0, classes, rows)
    vectors = RNG(2).normal(size=(rows, features)).astype(np.float32) + labels[:, None] * 0.7
    vectors[:, 1] = 4.0  # a constant feature says nothing
    plain = [refitted(vectors, labels, share) for share in mistakes._PENALTIES]
    wanted = min(plain, key=lambda one: one[1])[0]
    assert np.array_equal(left_out_answers(vectors, labels), wanted) and (wanted != labels).any()


def test_a_row_among_strangers_is_read_as_one_of_them():
    # On a line: 0 0 0 1 | 9 9 9, the fourth bears the right side's label. Without it, left is class 2 and right class 7, so it is read as 2; all others
    # are on their own side, whatever is left out.
    vectors, labels = np.array([[0], [0], [0], [1], [9], [9], [9.0]], np.float32), np.array([2, 2, 2, 7, 7, 7, 7])
    assert left_out_answers(vectors, labels).tolist() == [2, 2, 2, 2, 7, 7, 7]


def test_many_rows_are_read_by_a_draw_and_many_features_through_a_projection(monkeypatch):
    labels = np.arange(900) % 3
    vectors = RNG(0).normal(size=(900, 40)).astype(np.float32) + 3 * np.eye(3, 40, dtype=np.float32)[labels]
    whole = left_out_answers(vectors, labels)
    monkeypatch.setattr(mistakes, "MOST_FITTED", 300)
    drawn = left_out_answers(vectors, labels)
    monkeypatch.setattr(mistakes, "MOST_FEATURES", 20)
    fewer = left_out_answers(vectors, labels)
    assert (whole != labels).mean() < 0.1 and (drawn != whole).mean() < 0.03 and (fewer != labels).mean() < 0.25
    assert np.array_equal(fewer, left_out_answers(vectors, labels))


def test_where_nothing_can_be_told_chance_decides():
    labels = np.arange(200) % 2
    assert 0.35 < (left_out_answers(RNG(0).normal(size=(200, 4)).astype(np.float32), labels) != labels).mean() < 0.65


def test_one_class_is_a_sentence():
    with pytest.raises(DataError, match="same label"):
        left_out_answers(np.ones((4, 2), np.float32), np.zeros(4, int))
