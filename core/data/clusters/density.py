"""HDBSCAN: clusters of any shape, and rows that belong to none."""

from __future__ import annotations

import numpy as np

from core.data.clusters.groups import STAGE, Clusters, by_size, directions, unit
from core.errors import DataError
from core.events import Progress, Watcher
from kernels.grouping import nearest_centroid

_MOST_ROWS = 20_000  # clustered in earnest; above, a sample of as many
_MOST_FEATURES = 50


def hdbscan(vectors: np.ndarray, min_size: int | None, seed: int, watcher: Watcher) -> Clusters:
    """Dense regions of rows (Campello, Moulavi, Sander 2013), by the distance between unit vectors. The rest are one last cluster, `unclustered`.

    `min_size`: rows that a cluster has at least; left out, half a per cent of the rows, at least 5. More than 50 features are first turned into their 50
    main directions (in many dimensions all rows are about equally far, and nothing is dense). Above 20,000 rows a seeded sample of as many is
    clustered, with min_size in proportion, and every other row joins the cluster of the sampled row nearest to it. Raises DataError where
    there are fewer rows than min_size.
    """
    from sklearn.cluster import HDBSCAN

    rows = len(vectors)
    min_size = max(5, rows // 200) if min_size is None else min_size
    if min_size > rows or rows < 2:
        raise DataError(f"{rows} rows cannot hold a cluster of {max(min_size, 2)}.", "Lower clusters.min_size, or use kmeans.")
    points = unit(vectors)
    watcher.check()
    watcher.say(Progress(STAGE, 0, 1))
    low = main_directions(points)
    part = np.arange(rows)
    if rows > _MOST_ROWS:
        part = np.sort(np.random.default_rng([seed, 0xDB5C]).permutation(rows)[:_MOST_ROWS])
        min_size = max(2, round(min_size * len(part) / rows))
    found = HDBSCAN(min_cluster_size=min_size, metric="euclidean", algorithm="kd_tree", copy=True).fit_predict(low[part])
    if rows > _MOST_ROWS:
        watcher.check()
        found = found[nearest_centroid(low, low[part])[0]]
    watcher.say(Progress(STAGE, 1, 1))
    return _numbered(points, found.astype(np.int32))


def main_directions(points: np.ndarray) -> np.ndarray:
    """At most 50 features, again of length 1: the directions of the largest second moment, exactly."""
    if points.shape[1] <= _MOST_FEATURES:
        return points
    _, axes = np.linalg.eigh(np.matmul(points.T, points, dtype=np.float64))
    return unit(points @ axes[:, ::-1][:, :_MOST_FEATURES].astype(np.float32))


def _numbered(points: np.ndarray, found: np.ndarray) -> Clusters:
    """By size, largest first; the noise (-1) last, whatever its size."""
    count, noise = int(found.max()) + 1, found < 0
    assignment = np.full(len(found), count, np.int32)
    if count:
        assignment[~noise] = by_size(found[~noise], count)[0]
    total = count + int(noise.any())
    return Clusters(
        assignment,
        directions(points, assignment, total),
        np.bincount(assignment, minlength=total),
        unclustered=count if noise.any() else None,
    )
