"""The most typical row of each cluster."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from core.data.clusters import spherical_kmeans, unit
from core.method import Paper, Param, selector
from kernels.nearest import nearest_rows

_NEIGHBOURS = 20
_SMALL = 5  # rows; the paper passes over smaller clusters


@selector(
    "typiclust",
    label="TypiClust",
    paper=Paper(
        "Hacohen, Dekel, Weinshall",
        2022,
        "Active learning on a budget: opposite strategies suit high and low budgets",
        "2202.02794",
    ),
    needs={"vectors"},
    place="geometry",
)
def typiclust(
    vectors: np.ndarray,
    count: int,
    generator: np.random.Generator,
    *,
    most_clusters: Annotated[int, Param("Clusters at the most", 1, 5000)] = 500,
) -> np.ndarray:
    """Keep the most typical row of each of many clusters: with few rows, what is common and clear teaches more than what is hard.

    vectors (rows, features). Returns bool (rows,) with exactly `count` True, seeded by the recipe.

    Spherical k-means into min(count, most_clusters) clusters of its own; typicality of a row = 1 / its mean distance (chord of unit vectors) to its 20
    nearest rows in the cluster. Turn by turn every cluster gives its most typical row not yet kept, the largest cluster first. Clusters of fewer
    than 5 rows wait until all others are empty.

    When it lies: at large shares it keeps the clear rows and leaves out the borders, where random is better. Typical of the wrong thing is
    still typical: a cluster of empty or broken rows gives its best.

    Ours: exact copies count as one row, else their distance of 0 would make them infinitely typical; the copies are a cluster's last rows. Typicality is
    measured once, not again after each choice.
    """
    points = unit(vectors)
    found = spherical_kmeans(points, min(count, most_clusters), int(generator.integers(2**31)))
    turn = np.empty(len(points), dtype=np.int64)
    for number in range(len(found)):
        rows = np.flatnonzero(found.assignment == number)
        turn[rows[_typical_first(points[rows])]] = np.arange(len(rows))
    order = np.lexsort((found.assignment, turn, found.sizes[found.assignment] < _SMALL))
    kept = np.zeros(len(points), dtype=bool)
    kept[order[:count]] = True
    return kept


def _typical_first(points: np.ndarray) -> np.ndarray:
    """The places of a cluster's rows, the most typical first, copies of earlier rows last; ties: the earlier row."""
    _, first = np.unique(points, axis=0, return_index=True)
    first = np.sort(first)
    spread = np.full(len(points), np.inf)
    if len(first) > 1:
        _, cosine = nearest_rows(points[first], min(_NEIGHBOURS, len(first) - 1))
        spread[first] = np.sqrt(np.maximum(2.0 - 2.0 * cosine, 0.0)).mean(axis=1)
    else:
        spread[first] = 0.0
    return np.lexsort((np.arange(len(points)), spread))
