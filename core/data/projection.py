"""A map of the rows in the plane: PCA at once, UMAP and t-SNE as runs; and for each point how far the map can be trusted there.

Beyond MOST_ROWS a run lays out rows drawn by strata, and puts each of the others where its nearest drawn rows lie. Beyond MOST_TRUSTED, trust is that of
a draw too.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np

from core.data.clusters import unit
from core.data.neighbours import exact_neighbours
from core.events import Progress, Watcher
from core.recipe import Projection

STAGE = "project"
TRUST_NEIGHBOURS = 15
MOST_ROWS = {"umap": 30_000, "tsne": 10_000}
MOST_TRUSTED = 10_000
_TRUST_DRAWN = 4096
_PLACED_BY = 5
_CHUNK_ROWS = 2048
_SUM_ROWS = 32_768


def project(
    vectors: np.ndarray, projection: Projection, seed: int, watcher: Watcher, strata: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The rows' places on the map, float32 (rows, 2), and the trust of each, float32 (rows,) in 0..1 (see `trust`).

    `strata`: class or cluster of each row, in proportion to which rows are drawn where they are too many (see `drawn`).
    """
    watcher.check()
    watcher.say(Progress(STAGE, 0, 2))
    some = drawn(len(vectors), projection, seed, strata)
    if some is not None:
        said = f"{len(some):,} of {len(vectors):,} rows, drawn by strata, are laid out; each other row lies where its {_PLACED_BY} nearest of them lie."
        watcher.say(Progress(STAGE, kind="note", text=said))
    places = _laid_out(vectors if some is None else vectors[some], projection, seed)
    watcher.check()
    if some is not None:
        places = _placed(vectors, some, places, watcher)
    watcher.say(Progress(STAGE, 1, 2))
    trusted = trust(vectors, places, seed)
    watcher.say(Progress(STAGE, 2, 2))
    return places, trusted


def drawn(rows: int, projection: Projection, seed: int, strata: np.ndarray | None = None) -> np.ndarray | None:
    """Which rows the method itself lays out, sorted positions in proportion to the strata; None for all of them."""
    from core.data.images import stratified

    most = projection.most_rows or MOST_ROWS.get(projection.method, rows)
    if rows <= most or projection.method == "pca":
        return None
    return stratified(np.zeros(rows, int) if strata is None else strata, most, seed)


def _laid_out(vectors: np.ndarray, projection: Projection, seed: int) -> np.ndarray:
    if projection.method == "umap":
        return umap(vectors, projection.neighbours, projection.min_dist, seed)
    return tsne(vectors, projection.perplexity, seed) if projection.method == "tsne" else pca(vectors)


def _placed(vectors: np.ndarray, some: np.ndarray, places: np.ndarray, watcher: Watcher) -> np.ndarray:
    """Places for all rows: those drawn keep theirs; each other row gets the mean of those of its nearest drawn rows by cosine, weighted by
    1 / (1 - cos), so that a row equal to a drawn one lies on it."""
    out = np.empty((len(vectors), 2), np.float32)
    out[some] = places
    points, rest = unit(vectors[some]), np.setdiff1d(np.arange(len(vectors)), some)
    count = min(_PLACED_BY, len(some))
    for start in range(0, len(rest), _CHUNK_ROWS):
        watcher.check()
        rows = rest[start : start + _CHUNK_ROWS]
        cosine = unit(vectors[rows]) @ points.T
        best = np.argpartition(-cosine, count - 1, axis=1)[:, :count]
        weight = 1 / np.maximum(1 - np.take_along_axis(cosine, best, axis=1).astype(np.float64), 1e-6)
        out[rows] = (places[best] * (weight / weight.sum(1, keepdims=True))[:, :, None]).sum(1)
    return out


def pca(vectors: np.ndarray) -> np.ndarray:
    """The two directions of the largest variance, exactly (eigenvectors of the covariance, summed in float64), float32 (rows, 2).

    Sums run over 32,768 rows at a time, so that vectors on disk are never all in memory. Each axis is turned so that its largest weight is positive,
    so that the map does not flip from one machine to the next. With one feature, or one row, the missing axis is 0.
    """
    rows, features = vectors.shape
    mean = (sum(part.sum(axis=0, dtype=np.float64) for part in _parts(vectors)) / rows).astype(np.float32)
    if features <= 2 * rows:
        spread = np.zeros((features, features))
        for part in _parts(vectors):
            centred = part - mean
            spread += _product(centred.T)
        _, axes = np.linalg.eigh(spread)
        axes = axes[:, ::-1][:, :2]
    else:  # many more features than rows: the same axes from the smaller matrix of rows
        centred = np.asarray(vectors, dtype=np.float32) - mean
        values, sides = np.linalg.eigh(_product(centred))
        axes = centred.T @ sides[:, ::-1][:, :2] / np.sqrt(np.maximum(values[::-1][:2], 1e-12))
    axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])] < 0, -1, 1)
    places = np.concatenate([((part - mean) @ axes).astype(np.float32) for part in _parts(vectors)])
    return np.pad(places, ((0, 0), (0, 2 - places.shape[1])))


def _parts(vectors: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(vectors), _SUM_ROWS):
        yield np.asarray(vectors[start : start + _SUM_ROWS], dtype=np.float32)


def _product(left: np.ndarray) -> np.ndarray:
    """left @ left.T in float64. Cast first: matmul told to sum in float64 leaves BLAS aside and takes twenty times as long."""
    wide = left.astype(np.float64)
    return wide @ wide.T


def tsne(vectors: np.ndarray, perplexity: float, seed: int) -> np.ndarray:
    """t-SNE (van der Maaten and Hinton 2008) by Barnes and Hut's sums, on cosine distance, from PCA's places, seeded; float32 (rows, 2).

    Vectors of more than 50 features are first squeezed to their 50 main directions, as its authors do. Perplexity is lowered to a third of the rows.
    Sizes of groups and distances between them mean nothing on this map.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if len(vectors) < 5:
        return pca(vectors)
    points = unit(vectors)
    if points.shape[1] > 50 and len(points) > 50:
        points = PCA(50, random_state=seed % 2**32).fit_transform(points)
    start = pca(vectors)
    start = start / (start[:, 0].std() or 1.0) * 1e-4
    model = TSNE(perplexity=min(perplexity, (len(points) - 1) / 3), init=start, learning_rate="auto", random_state=seed % 2**32)
    return np.asarray(model.fit_transform(points), dtype=np.float32)


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


def trust(vectors: np.ndarray, places: np.ndarray, seed: int = 0) -> np.ndarray:
    """How much of each point's neighbourhood on the map is real: the share of its 15 nearest on the map that are among its 30 nearest rows.

    vectors (rows, features) by cosine; places (rows, 2) by Euclid. Float32 (rows,) in 0..1. Not the rank-weighted trustworthiness of Venna
    and Kaski, which needs every rank; by chance alone the value would be 30 / rows.

    Of more than 10,000 rows, 4,096 drawn by chance are judged among themselves, so on wider neighbourhoods, and each other row has the mean of the
    three judged rows nearest to it on the map.
    """
    if len(vectors) > MOST_TRUSTED:
        some = np.sort(np.random.default_rng(seed).permutation(len(vectors))[:_TRUST_DRAWN])
        judged = trust(vectors[some], places[some])
        return judged[_plane_nearest(places[some], places, 3)].mean(axis=1).astype(np.float32)
    count = min(TRUST_NEIGHBOURS, len(vectors) - 1)
    if count < 1:
        return np.ones(len(vectors), dtype=np.float32)
    real, _ = exact_neighbours(vectors, min(2 * count, len(vectors) - 1))
    shown = _plane_neighbours(places, count)
    hits = (shown[:, :, None] == real[:, None, :]).any(axis=2)
    return hits.mean(axis=1).astype(np.float32)


def _plane_nearest(known: np.ndarray, places: np.ndarray, count: int) -> np.ndarray:
    from scipy.spatial import cKDTree

    return cKDTree(known).query(places, k=count)[1]


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
