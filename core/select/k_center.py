"""The rows that leave no row far from what is kept."""

from __future__ import annotations

import numpy as np

from core.data.clusters import unit
from core.method import Paper, selector
from kernels.farthest import farthest_first


@selector(
    "k_center",
    label="k-center (greedy)",
    paper=Paper("Sener, Savarese", 2017, "Active learning for convolutional neural networks: a core-set approach", "1708.00489"),
    needs={"vectors"},
    place="geometry",
)
def k_center(vectors: np.ndarray, count: int) -> np.ndarray:
    """Keep rows far from each other, so that no row is far from all that is kept: the edges and rare kinds of the data stay.

    vectors (rows, features). Returns bool (rows,) with exactly `count` True.

    Farthest first: start at the medoid (the row with the largest mean cosine to all), then always add the row whose nearest kept row is
    farthest, by 1 - cos; ties keep the earlier row. The largest distance left is at most twice the best possible (in chord length).

    When it lies: outliers, broken and mislabelled rows are far from everything, so they come first; at small shares the kept rows are mostly such.
    Dense regions get as few rows as empty ones.

    Ours: lazy and exact (a row is compared with kept rows only when it could be next), so time falls far below rows x count; memory is the vectors
    and the kept ones again. Start at the medoid, where the published code starts at labelled rows or by chance.
    """
    points = unit(vectors)
    kept = np.zeros(len(points), dtype=bool)
    kept[farthest_first(points, int((points @ points.mean(axis=0)).argmax()), count)] = True
    return kept
