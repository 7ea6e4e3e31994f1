"""What a clustering is, whatever made it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from core.errors import DataError
from kernels.grouping import sums_by_group

STAGE = "cluster"


@dataclass(frozen=True)
class Tree:
    """The merges of an agglomerative clustering. `leaf`: leaf of each row, int32 (rows,); a leaf is a row, or a micro-cluster of rows.

    `merges`: float64 (leaves - 1, 4), one a merge, lowest first: the two nodes that merge (leaves are 0 .. leaves - 1, the i-th merge makes node
    leaves + i), the height, and the rows in it.
    """

    leaf: np.ndarray
    merges: np.ndarray


@dataclass(frozen=True)
class Clusters:
    """`assignment`: cluster of each row, int32 (rows,). `centroids`: unit vectors, float32 (clusters, features). `sizes`: rows in each.

    `unclustered`: the number of the cluster that holds the rows which HDBSCAN calls noise, the last one; None where every row has a cluster in
    earnest. `tree`: how clusters merge, where the method says.
    """

    assignment: np.ndarray
    centroids: np.ndarray
    sizes: np.ndarray
    unclustered: int | None = None
    tree: Tree | None = None

    def __len__(self) -> int:
        return len(self.centroids)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Each row divided by its length, float32. A row of zeros stays zero: it points nowhere and is near nothing.

    Raises DataError, with the places of the rows, where a vector is not finite (or so large that its length is not).
    """
    vectors = np.asarray(vectors, dtype=np.float32)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    broken = np.flatnonzero(~np.isfinite(length[:, 0]))
    if len(broken):
        rows = ", ".join(str(row) for row in broken[:5])
        raise DataError(
            f"{len(broken)} rows have no finite vector (the first, counted from 0: {rows}).",
            "Correct or remove those rows, or embed otherwise.",
        )
    return vectors / np.where(length > 0, length, 1)


def default_count(rows: int) -> int:
    """The square root of half the rows, between 2 and 100, and never more than there are rows."""
    return min(max(2, min(100, round((rows / 2) ** 0.5))), rows)


def checked_count(rows: int, count: int | None) -> int:
    """The number of clusters asked for, or the default. Raises DataError where there are fewer rows."""
    count = default_count(rows) if count is None else count
    if count > rows:
        raise DataError(f"{count} clusters were asked of {rows} rows.", "Lower clusters.count, or leave it out.")
    return count


def directions(points: np.ndarray, assignment: np.ndarray, count: int, otherwise: np.ndarray | None = None) -> np.ndarray:
    """Mean of each cluster's rows scaled to length 1, float32 (clusters, features); `otherwise` (zeros) where the rows cancel out."""
    sums = sums_by_group(points, assignment, count)
    length = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.where(length > 1e-12, sums / np.maximum(length, 1e-12), 0.0 if otherwise is None else otherwise).astype(np.float32)


def by_size(assignment: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(assignment numbered by size, largest first; the old number of each new one; sizes). Equal sizes keep their order."""
    sizes = np.bincount(assignment, minlength=count)
    order = np.argsort(-sizes, kind="stable")
    rank = np.empty(count, np.int32)
    rank[order] = np.arange(count, dtype=np.int32)
    return rank[assignment], order, sizes[order]
