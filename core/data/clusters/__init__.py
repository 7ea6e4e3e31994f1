"""Rows in groups: spherical k-means, HDBSCAN or agglomerative, as the recipe says."""

from __future__ import annotations

import numpy as np

from core import recipe
from core.data.clusters.density import hdbscan
from core.data.clusters.groups import STAGE, Clusters, Tree, default_count, unit
from core.data.clusters.kmeans import spherical_kmeans
from core.data.clusters.merging import agglomerative, visible
from core.data.clusters.naming import distinctive_words, medoids
from core.events import Silent, Watcher

__all__ = [
    "STAGE", "Clusters", "Tree", "cluster", "default_count", "distinctive_words", "hdbscan", "medoids", "spherical_kmeans", "unit", "visible",
]  # fmt: skip


def cluster(vectors: np.ndarray, asked: recipe.Clusters, seed: int, watcher: Watcher | None = None) -> Clusters:
    """Group rows (rows, features) as a recipe's `clusters` says. Every row has a cluster; what HDBSCAN calls noise is the last one."""
    watcher = watcher or Silent()
    if asked.method == "hdbscan":
        return hdbscan(vectors, asked.min_size, seed, watcher)
    if asked.method == "agglomerative":
        return agglomerative(vectors, asked.count, asked.linkage, seed, watcher)
    return spherical_kmeans(vectors, asked.count, seed, watcher)
