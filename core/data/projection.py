"""A map of the rows in the plane: PCA at once, UMAP as a run; and for each point how far the map can be trusted there."""

from __future__ import annotations

import warnings

import numpy as np

from core.data.neighbours import exact_neighbours
from core.events import Progress, Watcher
from core.recipe import Projection

STAGE = "project"
TRUST_NEIGHBOURS = 15


def project(vectors: np.ndarray, projection: Projection, seed: int, watcher: Watcher) -> tuple[np.ndarray, np.ndarray]:
    """The rows' places on the map, float32 (rows, 2), and the trust of each, float32 (rows,) in 0..1 (see `trust`)."""
    watcher.check()
    watcher.say(Progress(STAGE, 0, 2))
    if projection.method == "pca":
        places = pca(vectors)
    else:
        places = umap(vectors, projection.neighbours, projection.min_dist, seed)
    watcher.check()
    watcher.say(Progress(STAGE, 1, 2))
    trusted = trust(vectors, places)
    watcher.say(Progress(STAGE, 2, 2))
    return places, trusted


def pca(vectors: np.ndarray) -> np.ndarray:
    """The two directions of the largest variance, exactly (eigenvectors of the covariance, summed in float64), float32 (rows, 2).

    Each axis is turned so that its largest weight is positive, so that the map does not flip from one machine to the next. With one
    feature, or one row, the missing axis is 0.
    """
    vectors = np.asarray(vectors, dtype=np.float32)
    centred = vectors - vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    if vectors.shape[1] <= 2 * len(vectors):
        _, axes = np.linalg.eigh(np.matmul(centred.T, centred, dtype=np.float64))
        axes = axes[:, ::-1][:, :2]
    else:  # many more features than rows: the same axes from the smaller matrix of rows
        values, sides = np.linalg.eigh(np.matmul(centred, centred.T, dtype=np.float64))
        axes = centred.T @ sides[:, ::-1][:, :2] / np.sqrt(np.maximum(values[::-1][:2], 1e-12))
    axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])] < 0, -1, 1)
    places = (centred @ axes).astype(np.float32)
    return np.pad(places, ((0, 0), (0, 2 - places.shape[1])))


def umap(vectors: np.ndarray, neighbours: int, min_dist: float, seed: int) -> np.ndarray:
    """UMAP (McInnes, Healy, Melville 2018, 1802.03426) on cosine distance, from exact neighbours, seeded; float32 (rows, 2).

    The first call in a process compiles for some 15 seconds. Distances between far groups and the size of a group mean nothing on this map.
    """
    import umap as umap_learn

    count = min(neighbours, len(vectors) - 1)
    if count < 2 or len(vectors) < 5:
        return pca(vectors)
    index, distance = exact_neighbours(vectors, count + 1, with_self=True)
    model = umap_learn.UMAP(
        n_neighbors=count + 1,
        min_dist=min_dist,
        metric="cosine",
        random_state=seed,
        n_jobs=1,
        init=_spread(pca(vectors)),
        precomputed_knn=(index, distance, None),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # says that new points cannot be placed later: none are
        return np.asarray(model.fit_transform(np.asarray(vectors)), dtype=np.float32)


def trust(vectors: np.ndarray, places: np.ndarray) -> np.ndarray:
    """How much of each point's neighbourhood on the map is real: the share of its 15 nearest on the map that are among its 30 nearest rows.

    vectors (rows, features) by cosine; places (rows, 2) by Euclid. Float32 (rows,) in 0..1. Not the rank-weighted trustworthiness of Venna
    and Kaski, which needs every rank; by chance alone the value would be 30 / rows.
    """
    count = min(TRUST_NEIGHBOURS, len(vectors) - 1)
    if count < 1:
        return np.ones(len(vectors), dtype=np.float32)
    real, _ = exact_neighbours(vectors, min(2 * count, len(vectors) - 1))
    shown = _plane_neighbours(places, count)
    hits = (shown[:, :, None] == real[:, None, :]).any(axis=2)
    return hits.mean(axis=1).astype(np.float32)


def _plane_neighbours(places: np.ndarray, count: int) -> np.ndarray:
    from scipy.spatial import cKDTree

    _, index = cKDTree(places).query(places, k=count + 1)
    rows = np.arange(len(places))[:, None]
    others = np.argsort(index == rows, axis=1, kind="stable")[
        :, :count
    ]  # the row itself last; where doubles hide it, the farthest goes
    return np.take_along_axis(index, others, axis=1)


def _spread(places: np.ndarray) -> np.ndarray:
    """Coordinates of the size that UMAP's optimiser starts from: 10 at the most."""
    largest = np.abs(places).max()
    return (places * (10 / largest if largest > 0 else 1)).astype(np.float32)
