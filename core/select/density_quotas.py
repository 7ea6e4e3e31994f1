"""Quotas by how wide and how isolated a cluster is."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from core.data.clusters import unit
from core.method import Paper, Param, selector
from kernels.quotas import nearest_quotas

_NEAREST = 20  # centroids that a cluster's isolation is measured against


@selector(
    "density_quotas",
    label="Density-based quotas",
    paper=Paper(
        "Abbas, Rusak, Tirumala, Brendel, Chaudhuri, Morcos",
        2024,
        "Effective pruning of web-scale datasets based on complexity of concept clusters",
        "2401.04578",
    ),
    needs={"vectors", "clusters"},
    place="geometry",
)
def density_quotas(
    vectors: np.ndarray,
    clusters: np.ndarray,
    centroids: np.ndarray,
    count: int,
    *,
    temperature: Annotated[float, Param("Temperature", 0.001, 100.0)] = 0.1,
    inside: Annotated[str, Param("Keep first in a cluster", choices=("hard", "easy"))] = "hard",
) -> np.ndarray:
    """Keep more of clusters that are wide and far from others, fewer of dense ones: simple concepts need few examples.

    vectors (rows, features), clusters int (rows,), centroids (clusters, features) of length 1. Returns bool (rows,) with exactly `count` True.

    d_intra = mean over a cluster's rows of 1 - cos to its centroid; d_inter = mean of 1 - cos to its 20 nearest other centroids; p =
    softmax(d_inter d_intra / temperature). The quotas x are the exact solution of min |x - p count|^2 with sum x = count and 1 <= x_j <= rows of
    cluster j (0 <= x_j where there are more clusters than rows to keep), in whole numbers by largest remainder. Inside a cluster the rows
    farthest from the centroid are kept (hard), or the nearest (easy).

    When it lies: duplicates make a cluster dense and outliers make it wide, so deduplicate first. With few clusters the quotas are coarse.

    Ours: the program is solved exactly by bisection instead of a general solver, and a quota of 0 keeps nothing.
    """
    sizes = np.bincount(clusters, minlength=len(centroids))
    distance = 1.0 - np.einsum("rf,rf->r", unit(vectors), centroids[clusters], dtype=np.float64)
    intra = np.bincount(clusters, distance, len(centroids)) / np.maximum(sizes, 1)
    power = _isolation(centroids) * intra / temperature
    weight = np.where(sizes > 0, np.exp(power - power.max()), 0.0)
    low = np.minimum(sizes, 1) if count >= (sizes > 0).sum() else np.zeros_like(sizes)
    quotas = nearest_quotas(weight / weight.sum() * count, low, sizes, count)
    kept = np.zeros(len(vectors), dtype=bool)
    order = np.lexsort((np.arange(len(clusters)), -distance if inside == "hard" else distance, clusters))
    starts = np.cumsum(sizes) - sizes
    for start, quota in zip(starts, quotas, strict=True):
        kept[order[start : start + quota]] = True
    return kept


def _isolation(centroids: np.ndarray) -> np.ndarray:
    """Mean of 1 - cos to the nearest other centroids, float64 (clusters,); 0 where there are no others."""
    if len(centroids) == 1:
        return np.zeros(1)
    apart = 1.0 - (centroids @ centroids.T).astype(np.float64)
    np.fill_diagonal(apart, np.inf)
    return np.sort(apart, axis=1)[:, : min(_NEAREST, len(centroids) - 1)].mean(axis=1)
