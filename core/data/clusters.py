"""Spherical k-means: clusters of directions (Dhillon and Modha 2001), as prototype scores want them (Sorscher et al. 2022, 2206.14486)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from core.errors import DataError
from core.events import Progress, Silent, Watcher

STAGE = "cluster"
_MOST_PASSES = 100
_CHUNK_ROWS = 16384  # bounds the similarity matrix to 16,384 rows at a time


@dataclass(frozen=True)
class Clusters:
    """`assignment`: cluster of each row, int32 (rows,). `centroids`: unit vectors, float32 (clusters, features). `sizes`: rows in each."""

    assignment: np.ndarray
    centroids: np.ndarray
    sizes: np.ndarray

    def __len__(self) -> int:
        return len(self.centroids)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Each row divided by its length, float32. A row of zeros stays zero: it points nowhere and is near nothing."""
    vectors = np.asarray(vectors, dtype=np.float32)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)


def default_count(rows: int) -> int:
    """The square root of half the rows, between 2 and 100, and never more than there are rows."""
    return min(max(2, min(100, round((rows / 2) ** 0.5))), rows)


def spherical_kmeans(vectors: np.ndarray, count: int | None, seed: int, watcher: Watcher | None = None) -> Clusters:
    """Group rows by direction: every row joins the centroid of the largest cosine, every centroid is its rows' mean scaled to length 1.

    vectors (rows, features). Seeded k-means++ start on cosine distance; stops when nothing moves, after 100 passes at the latest. A cluster
    that loses all rows takes the row farthest from its own centroid. Ties go to the lower cluster. Clusters are numbered by size, largest
    first. The same vectors, seed and thread count give the same clusters. Raises DataError where there are fewer rows than clusters.
    """
    watcher = watcher or Silent()
    count = default_count(len(vectors)) if count is None else count
    if count > len(vectors):
        raise DataError(f"{count} clusters were asked of {len(vectors)} rows.", "Lower clusters.count, or leave it out.")
    points = unit(vectors)
    centroids = _spread_start(points, count, np.random.default_rng([seed, 0x5EED]), watcher)
    assignment = np.full(len(points), -1, dtype=np.int32)
    for done in range(_MOST_PASSES):
        watcher.check()
        watcher.say(Progress(STAGE, done, _MOST_PASSES))
        nearest, cosine = _nearest(points, centroids)
        _fill_empty(nearest, cosine, count)
        if np.array_equal(nearest, assignment):
            break
        assignment, centroids = nearest, _means(points, nearest, centroids)
    watcher.say(Progress(STAGE, _MOST_PASSES, _MOST_PASSES))
    return _by_size(assignment, centroids)


def _spread_start(points: np.ndarray, count: int, random: np.random.Generator, watcher: Watcher) -> np.ndarray:
    """k-means++ (Arthur and Vassilvitskii 2007): each next centroid is a row drawn in proportion to its distance from those before it.

    Squared chord length between unit vectors is 2 - 2 cos, so 1 - cos is the weight that k-means++ asks for.
    """
    chosen = [int(random.integers(len(points)))]
    far = np.full(len(points), np.inf)
    while len(chosen) < count:
        watcher.check()
        far = np.minimum(far, np.maximum(1.0 - points @ points[chosen[-1]].astype(np.float64), 0.0))
        far[chosen] = 0.0
        total = far.sum()
        if total > 0:
            pick = int(np.searchsorted(np.cumsum(far), random.random() * total, side="right"))
            chosen.append(min(pick, len(points) - 1))
        else:  # every row equals a chosen one: any other row will do
            chosen.append(int(np.setdiff1d(np.arange(len(points)), chosen)[0]))
    return points[chosen].copy()


def _nearest(points: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The centroid of the largest cosine for each row, and that cosine."""
    nearest, cosine = np.empty(len(points), np.int32), np.empty(len(points), np.float32)
    for start in range(0, len(points), _CHUNK_ROWS):
        similarity = points[start : start + _CHUNK_ROWS] @ centroids.T
        best = similarity.argmax(axis=1)
        nearest[start : start + _CHUNK_ROWS] = best
        cosine[start : start + _CHUNK_ROWS] = similarity[np.arange(len(best)), best]
    return nearest, cosine


def _fill_empty(nearest: np.ndarray, cosine: np.ndarray, count: int) -> None:
    """Give each empty cluster the row that its own centroid fits worst, taken from a cluster that keeps others. Changes `nearest`."""
    sizes = np.bincount(nearest, minlength=count)
    order = iter(np.argsort(cosine, kind="stable"))
    for empty in np.flatnonzero(sizes == 0):
        row = next(row for row in order if sizes[nearest[row]] > 1)
        sizes[nearest[row]] -= 1
        nearest[row], sizes[empty] = empty, 1


def _means(points: np.ndarray, assignment: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Unit mean direction of each cluster; where the rows cancel out, the centroid stays where it was."""
    order = np.argsort(assignment, kind="stable")
    starts = np.searchsorted(assignment[order], np.arange(len(before)))
    sums = np.add.reduceat(points[order], starts, axis=0, dtype=np.float64)
    length = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.where(length > 1e-12, sums / np.maximum(length, 1e-12), before).astype(np.float32)


def _by_size(assignment: np.ndarray, centroids: np.ndarray) -> Clusters:
    sizes = np.bincount(assignment, minlength=len(centroids))
    order = np.argsort(-sizes, kind="stable")
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return Clusters(rank[assignment], centroids[order], sizes[order])
