"""How classes lie: neural collapse 1 to 4, alignment and uniformity, and how clean the clusters are. Chance is what shuffled labels give."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from core.data.clusters import spherical_kmeans, unit
from core.errors import DataError

MOST_PAIRED = 2000  # rows of which every pair is looked at


@dataclass(frozen=True)
class Collapse:
    """Neural collapse (Papyan, Han, Donoho 2020, 2008.08186); each but `ncc` and `nc4` is 0 where the collapse is complete.

    nc1: spread within classes against that between. nc2_norm: how unequal the class means' lengths are (standard deviation / mean). nc2_angle: mean
    |cosine between two class means + 1 / (C - 1)|. nc3: distance of the classifier's weights from the class means, both scaled to length 1; None without
    weights. nc4: share of rows where the model's answer is the nearest class mean; None without answers. ncc: share of rows nearest to their own class's
    mean, means from one half and rows from the other, so that it is not flattered.
    """

    nc1: float
    nc2_norm: float
    nc2_angle: float
    ncc: float
    nc3: float | None = None
    nc4: float | None = None


def neural_collapse(
    vectors: np.ndarray, labels: np.ndarray, seed: int, weights: np.ndarray | None = None, answers: np.ndarray | None = None
) -> Collapse:
    """vectors (n, d); labels (n,) class numbers; weights (all classes, d) of the layer that tells the classes; answers (n,) of the model.

    nc1 = tr(Sw pinv(Sb)) / C, Sw the mean covariance within classes and Sb that of the C class means. pinv(Sb) is taken from the singular vectors of the
    C x d matrix of means, so d may exceed n. Classes of fewer than two rows take no part. Raises DataError where fewer than two classes are left.
    """
    names, own = _classes(labels)
    vectors = np.asarray(vectors, dtype=np.float64)[own >= 0]
    answers = None if answers is None else np.asarray(answers)[own >= 0]
    own = own[own >= 0]
    means = _means(vectors, own, len(names))
    centred = means - means.mean(axis=0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    used = sizes > sizes[0] * 1e-6 if sizes[0] > 0 else np.zeros(len(sizes), dtype=bool)
    if not used.any():
        raise DataError("All classes have the same mean, so there is nothing to collapse to.", "Look at another block.")
    within = (((vectors - means[own]) @ axes[used].T) ** 2).mean(axis=0)
    length = np.linalg.norm(centred, axis=1)
    cosine = unit(centred).astype(np.float64) @ unit(centred).T
    off = cosine[~np.eye(len(names), dtype=bool)]
    nearest = None if answers is None else names[_nearest(vectors, means)]
    return Collapse(
        nc1=float((within / sizes[used] ** 2).sum()),  # Sb's eigenvalues are sizes^2 / C
        nc2_norm=float(length.std() / length.mean()),
        nc2_angle=float(np.abs(off + 1 / (len(names) - 1)).mean()),
        ncc=_fair_nearest(vectors, own, len(names), seed),
        nc3=None if weights is None else _self_duality(np.asarray(weights, dtype=np.float64)[names], centred),
        nc4=None if nearest is None or answers is None else float((nearest == answers).mean()),
    )


def _classes(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the class numbers with two rows or more, each row's place among them or -1)."""
    found, count = np.unique(labels, return_counts=True)
    names = found[count >= 2]
    if len(names) < 2:
        raise DataError(
            "Neural collapse compares classes, and these rows are of one class only."
            if len(found) < 2
            else f"Neural collapse needs two classes with two rows or more; of the {len(found)} classes here {len(names)} has them.",
            "Take rows of at least two classes.",
        )
    place = np.clip(np.searchsorted(names, labels), 0, len(names) - 1)
    return names, np.where(names[place] == labels, place, -1)


def _means(vectors: np.ndarray, own: np.ndarray, count: int) -> np.ndarray:
    out = np.zeros((count, vectors.shape[1]))
    np.add.at(out, own, vectors)
    return out / np.bincount(own, minlength=count)[:, None]


def _nearest(vectors: np.ndarray, means: np.ndarray) -> np.ndarray:
    middle = means.mean(axis=0)
    points, centres = vectors - middle, means - middle
    return ((centres**2).sum(axis=1)[None] - 2 * points @ centres.T).argmin(axis=1)


def _fair_nearest(vectors: np.ndarray, own: np.ndarray, count: int, seed: int) -> float:
    """Each class is split in two; the rows of either half go to the nearest mean of the other half's classes."""
    random = np.random.default_rng([seed, 0xACC])
    half = np.empty(len(own), dtype=np.int64)
    for name in range(count):
        rows = random.permutation(np.flatnonzero(own == name))
        half[rows] = np.arange(len(rows)) % 2
    right = 0
    for side in (0, 1):
        means = _means(vectors[half != side], own[half != side], count)
        right += int((_nearest(vectors[half == side], means) == own[half == side]).sum())
    return right / len(own)


def _self_duality(weights: np.ndarray, centred: np.ndarray) -> float:
    weights = weights - weights.mean(axis=0)
    return float(np.linalg.norm(weights / np.linalg.norm(weights) - centred / np.linalg.norm(centred)))


def alignment(vectors: np.ndarray, labels: np.ndarray) -> float:
    """Mean squared distance between unit vectors of two different rows of one class (Wang and Isola 2020, 2005.10242); 0 best. In rows x features steps:
    within a class of m rows with unit vectors' sum s, it is 2 - 2 (|s|^2 - m) / (m (m - 1)); every pair counts once."""
    points = unit(vectors).astype(np.float64)
    total = pairs = 0.0
    for name in np.unique(labels):
        mine = points[labels == name]
        m, s = len(mine), mine.sum(axis=0)
        if m > 1:
            square = float((mine**2).sum())
            total += m * square - float(s @ s)  # the sum over unordered pairs of |a - b|^2
            pairs += m * (m - 1) / 2
    if pairs == 0:
        raise DataError("No class has two rows, so nothing can be aligned.", "Take more rows.")
    return total / pairs


def uniformity(vectors: np.ndarray, seed: int) -> float:
    """log of the mean over pairs of exp(-2 |a - b|^2), unit vectors (Wang and Isola 2020): the lower, the more evenly they fill the sphere; 0 where all point
    one way. Of at most MOST_PAIRED rows, drawn with the seed."""
    import torch

    points = unit(vectors)
    if len(points) > MOST_PAIRED:
        points = points[np.random.default_rng([seed, 0xF0]).choice(len(points), MOST_PAIRED, replace=False)]
    if len(points) < 2:
        raise DataError("One row fills no sphere.", "Give it two rows or more.")
    pairs = torch.nn.functional.pdist(torch.from_numpy(points)).double()
    return float(pairs.square().mul(-2).exp().mean().log())


@dataclass(frozen=True)
class Clean:
    """silhouette: -1..1, of the classes, 0 where they mix. davies_bouldin: spread of classes over their distance, lower better. ami: agreement of as many
    k-means clusters as there are classes with the classes, 0 by chance, 1 equal."""

    silhouette: float
    davies_bouldin: float
    ami: float


def clean(vectors: np.ndarray, labels: np.ndarray, seed: int) -> Clean:
    """In the space itself, never on a map of it. Unit vectors (so Euclid orders as cosine does); the silhouette of at most MOST_PAIRED rows."""
    from sklearn.metrics import adjusted_mutual_info_score, davies_bouldin_score, silhouette_score

    names = np.unique(labels)
    if not 2 <= len(names) < len(labels):
        raise DataError(
            "Clusters are compared with classes, and these rows have none to compare.", "Take rows of two classes or more."
        )
    points = unit(vectors)
    rows = np.arange(len(points))
    if len(rows) > MOST_PAIRED:
        rows = np.random.default_rng([seed, 0xC1]).choice(len(rows), MOST_PAIRED, replace=False)
    found = spherical_kmeans(points, len(names), seed).assignment
    few = len(np.unique(labels[rows]))
    return Clean(
        float(silhouette_score(points[rows], labels[rows])) if 2 <= few < len(rows) else float("nan"),
        float(davies_bouldin_score(points, labels)),
        float(adjusted_mutual_info_score(labels, found)),
    )
