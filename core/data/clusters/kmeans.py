"""Spherical k-means: clusters of directions (Dhillon and Modha 2001), as prototype scores want them (Sorscher et al. 2022, 2206.14486)."""

from __future__ import annotations

import numpy as np

from core.data.clusters.groups import STAGE, Clusters, by_size, checked_count, directions, unit
from core.events import Progress, Silent, Watcher
from kernels.grouping import nearest_centroid

_MOST_PASSES = 100


def spherical_kmeans(
    vectors: np.ndarray, count: int | None, seed: int, watcher: Watcher | None = None, passes: int = _MOST_PASSES
) -> Clusters:
    """Group rows by direction: every row joins the centroid of the largest cosine, every centroid is its rows' mean scaled to length 1.

    vectors (rows, features). Seeded k-means++ start on cosine distance; stops when nothing moves, after `passes` passes at the latest. A cluster
    that loses all rows takes the row farthest from its own centroid. Ties go to the lower cluster. Clusters are numbered by size, largest
    first. The same vectors, seed and thread count give the same clusters. Raises DataError where there are fewer rows than clusters.
    """
    watcher = watcher or Silent()
    count = checked_count(len(vectors), count)
    points = unit(vectors)
    centroids = _spread_start(points, count, np.random.default_rng([seed, 0x5EED]), watcher)
    assignment = np.full(len(points), -1, dtype=np.int32)
    for done in range(passes):
        watcher.check()
        watcher.say(Progress(STAGE, done, passes))
        nearest, cosine = nearest_centroid(points, centroids)
        _fill_empty(nearest, cosine, count)
        if np.array_equal(nearest, assignment):
            break
        assignment, centroids = nearest, directions(points, nearest, count, centroids)
    watcher.say(Progress(STAGE, passes, passes))
    numbered, order, sizes = by_size(assignment, count)
    return Clusters(numbered, centroids[order], sizes)


def _spread_start(points: np.ndarray, count: int, random: np.random.Generator, watcher: Watcher) -> np.ndarray:
    """k-means++ (Arthur and Vassilvitskii 2007): each next centroid is a row drawn in proportion to its distance from those before it.

    Squared chord length between unit vectors is 2 - 2 cos, so 1 - cos is the weight that k-means++ asks for.
    """
    chosen = [int(random.integers(len(points)))]
    far = np.full(len(points), np.inf)
    while len(chosen) < count:
        watcher.check()
        far = np.minimum(far, np.maximum(1.0 - (points @ points[chosen[-1]]).astype(np.float64), 0.0))
        far[chosen] = 0.0
        upto = np.cumsum(far)
        if upto[-1] > 0:
            pick = int(np.searchsorted(upto, random.random() * upto[-1], side="right"))
            chosen.append(min(pick, len(points) - 1))
        else:  # every row equals a chosen one: any other row will do
            chosen.append(int(np.setdiff1d(np.arange(len(points)), chosen)[0]))
    return points[chosen].copy()


def _fill_empty(nearest: np.ndarray, cosine: np.ndarray, count: int) -> None:
    """Give each empty cluster the row that its own centroid fits worst, taken from a cluster that keeps others. Changes `nearest`."""
    sizes = np.bincount(nearest, minlength=count)
    if sizes.min() > 0:
        return
    order = iter(np.argsort(cosine, kind="stable"))
    for empty in np.flatnonzero(sizes == 0):
        row = next(row for row in order if sizes[nearest[row]] > 1)
        sizes[nearest[row]] -= 1
        nearest[row], sizes[empty] = empty, 1
