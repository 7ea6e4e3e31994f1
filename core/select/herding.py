"""The rows whose mean stays closest to the mean of all."""

from __future__ import annotations

import numpy as np

from core.data.clusters import unit
from core.method import Paper, selector


@selector(
    "herding",
    label="Herding",
    paper=Paper("Welling", 2009, "Herding dynamical weights to learn"),
    needs={"vectors"},
    place="geometry",
)
def herding(vectors: np.ndarray, count: int) -> np.ndarray:
    """Keep rows that together have the same mean as all rows: a small sample whose average is not left to chance.

    vectors (rows, features), each scaled to length 1. Returns bool (rows,) with exactly `count` True.

    One row after the other: the t-th is argmin |mean - (sum of those kept + row) / t|, which is argmin |row|^2 - 2 row . (t mean - sum); ties keep the
    earlier row. Time is rows x features x count, memory one number a row.

    When it lies: two clusters on opposite sides have their mean between them, and rows from the middle serve as well as rows from both; only
    the mean is kept, not the spread. At large shares it is no better than random.

    Ours: over all rows together, where DeepCore goes class by class; and the smallest distance is taken (a published code takes the largest).
    """
    points = unit(vectors)
    mean = points.mean(axis=0, dtype=np.float64)
    length = np.einsum("rf,rf->r", points, points)
    kept, total = np.zeros(len(points), dtype=bool), np.zeros(points.shape[1])
    for step in range(1, count + 1):
        distance = length - 2 * (points @ (step * mean - total).astype(np.float32))
        distance[kept] = np.inf
        row = int(distance.argmin())
        kept[row] = True
        total += points[row]
    return kept
