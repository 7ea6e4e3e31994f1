"""The two loops of k-means beside its matrix product. Arrays in, arrays out."""

from __future__ import annotations

import numba
import numpy as np

_PRODUCTS = 2**21  # of rows and centroids, made at a time: 8 MiB


def nearest_centroid(points: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row the centroid of the largest dot product, the earlier of equal ones, int32 (rows,), and that product, float32 (rows,).

    points (rows, features), centroids (clusters, features), both float32. In chunks of rows, so that some 2 million products are in memory at a time.
    """
    nearest, value = np.empty(len(points), np.int32), np.empty(len(points), np.float32)
    across = np.ascontiguousarray(centroids.T)
    chunk = max(_PRODUCTS // len(centroids), 64)
    for start in range(0, len(points), chunk):
        here = slice(start, start + chunk)
        _largest(points[here] @ across, nearest[here], value[here])
    return nearest, value


def sums_by_group(points: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """The sum of the rows of each group, float64 (groups, features), added in the order of the rows."""
    sums = np.zeros((groups, points.shape[1]))
    _add(points, group, sums)
    return sums


@numba.njit(parallel=True, cache=True, nogil=True)
def _largest(products: np.ndarray, nearest: np.ndarray, value: np.ndarray) -> None:
    for row in numba.prange(products.shape[0]):
        line = products[row]
        best = np.float32(-np.inf)
        for at in range(line.shape[0]):  # first the value, which is vectorised, then where it is
            best = max(best, line[at])
        place = 0
        while line[place] != best:
            place += 1
        nearest[row], value[row] = place, best


@numba.njit(cache=True, nogil=True)
def _add(points: np.ndarray, group: np.ndarray, sums: np.ndarray) -> None:
    for row in range(points.shape[0]):
        total, line = sums[group[row]], points[row]
        for at in range(line.shape[0]):
            total[at] += line[at]
