"""All measures of the rows in one block, and the level that each would have by chance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from core.errors import DataError
from core.geometry import classes, neighbours, spread

Figures = dict[str, float | None]
OF_SHAPE = ("two_nn", "mle", "participation", "effective_rank", "raw", "centred", "loudest", "hubness", "uniformity")
OF_CLASSES = ("nc1", "nc2_norm", "nc2_angle", "nc3", "nc4", "ncc", "alignment", "silhouette", "davies_bouldin", "ami")


def of_shape(vectors: np.ndarray, count: int, seed: int) -> Figures:
    """What needs no labels. A measure that these vectors do not have (all rows equal, too few different ones) is None."""
    turned: dict[str, Callable[[], float]] = {
        "two_nn": lambda: spread.two_nn(vectors),
        "mle": lambda: spread.mle_dimension(vectors, count),
        "participation": lambda: spread.participation_ratio(vectors),
        "effective_rank": lambda: spread.effective_rank(vectors),
        "hubness": lambda: neighbours.hubness(neighbours.by_distance(vectors, count)[0]),
        "uniformity": lambda: classes.uniformity(vectors, seed),
    }
    found: Figures = {name: _or_none(measure) for name, measure in turned.items()}
    points = spread.anisotropy(vectors)
    return found | {"raw": points.raw, "centred": points.centred, "loudest": _finite(points.loudest)}


def of_classes(
    vectors: np.ndarray, labels: np.ndarray, seed: int, weights: np.ndarray | None = None, answers: np.ndarray | None = None
) -> Figures:
    """What needs labels: OF_CLASSES. weights, answers: only where the vectors are what the model's last layer reads (for nc3, nc4)."""
    found: Figures = dict.fromkeys(OF_CLASSES)
    try:
        collapse = classes.neural_collapse(vectors, labels, seed, weights, answers)
        found |= {name: _finite(value) for name, value in vars(collapse).items()}
        tidy = classes.clean(vectors, labels, seed)
        found |= {name: _finite(value) for name, value in vars(tidy).items()}
        found["alignment"] = classes.alignment(vectors, labels)
    except DataError:
        return found  # all rows are one point in this block: there are no classes in it
    return found


def shape_by_chance(rows: int, width: int, count: int, seed: int) -> Figures:
    """What Gaussian vectors of the same number and width give: features that have nothing to do with each other. For dimensions and ranks this is the most
    that so few rows can show."""
    return of_shape(np.random.default_rng([seed, rows, width]).standard_normal((rows, width)), count, seed)


def classes_by_chance(vectors: np.ndarray, labels: np.ndarray, seed: int, weights: np.ndarray | None = None) -> Figures:
    """What shuffled labels give. Means of shuffled classes lie nearly at equal angles in a wide space, so nc2 without this level proves nothing."""
    return of_classes(vectors, np.random.default_rng([seed, 0x5AFE]).permutation(labels), seed, weights)


def _finite(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


def _or_none(measure: Callable[[], float]) -> float | None:
    try:
        return _finite(measure())
    except DataError:
        return None
