"""How many directions a cloud of vectors fills, and whether it points one way: intrinsic dimension, participation ratio, effective rank, anisotropy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from core.errors import DataError
from core.geometry.neighbours import by_distance

_LEFT_OUT = 0.1  # of TwoNN's ratios, the largest: Facco et al. leave them out of the fit
LOUDEST = 3


def first_of_each(vectors: np.ndarray) -> np.ndarray:
    """Positions of the rows that equal no earlier row, in order. Nearest-neighbour estimates break on exact duplicates: their distances are 0."""
    _, first = np.unique(np.ascontiguousarray(vectors), axis=0, return_index=True)
    return np.sort(first)


def two_nn(vectors: np.ndarray) -> float:
    """Intrinsic dimension from each row's two nearest neighbours (Facco et al. 2017, 1803.06992).

    mu = r2 / r1 of each row follows a Pareto law whose exponent is the dimension: the slope through the origin of -log(1 - F(mu)) on log mu, the largest
    tenth left out. It says how many ways one can move *locally*. Exact duplicates are left out first. It falls short in high dimension with few rows:
    read it beside what Gaussian vectors of the same number and width give.
    """
    _, near = by_distance(_distinct(vectors, 2), 2)
    ratio = np.sort(np.log(near[:, 1] / near[:, 0]))
    used = int(len(ratio) * (1 - _LEFT_OUT))
    x, y = ratio[:used], -np.log1p(-np.arange(used) / len(ratio))
    square = float(x @ x)
    return float(x @ y) / square if square > 0 else float("nan")


def mle_dimension(vectors: np.ndarray, count: int = 10) -> float:
    """Intrinsic dimension by maximum likelihood (Levina and Bickel 2004), the inverses averaged over rows (MacKay and Ghahramani 2005).

    1 / dimension = mean over rows and j < k of log(T_k / T_j), T_j the distance to the j-th nearest row. Averaging the dimensions themselves is biased
    upwards. Exact duplicates are left out first; the same shortfall in high dimension as `two_nn`.
    """
    _, near = by_distance(_distinct(vectors, count), count)
    inverse = float(np.log(near[:, -1:] / near[:, :-1]).mean())
    return 1 / inverse if inverse > 0 else float("nan")


def _distinct(vectors: np.ndarray, count: int) -> np.ndarray:
    """Without exact duplicates; at least `count` neighbours must be left."""
    vectors = np.asarray(vectors)
    if count < 2:
        raise DataError("An intrinsic dimension needs two neighbours or more.", "Raise geometry.neighbours.")
    return vectors[first_of_each(vectors)]


def participation_ratio(vectors: np.ndarray) -> float:
    """(sum of variances)^2 / sum of squared variances along the principal axes, without the bias of a small sample.

    d for a round cloud in d dimensions, 1 for a line. The plain ratio cannot exceed the number of rows and falls short long before that: its
    two parts, tr(S)^2 and tr(S S), are replaced by their unbiased estimates (Himeno and Yamada 2014; U-statistics, whatever the distribution):
    a = tr(S)^2 and b = tr(S S) of the sample covariance S with n - 1, q = sum |x_i - mean|^4 / (n - 1);
    tr(C C) ~ f [(n-1)(n-2) b + a - n q], tr(C)^2 ~ f [2 b + (n^2 - 3n + 1) a - n q], f = (n-1) / (n (n-2) (n-3)).
    """
    n, d = np.shape(vectors)
    if n < 4:
        raise DataError(f"A participation ratio of {n} rows would be chance.", "Give it 4 rows or more.")
    centred, scale = _centred(vectors)
    if scale == 0:
        return float("nan")
    small = centred.T @ centred if d <= n else centred @ centred.T
    a, b = float(np.trace(small)) ** 2 / (n - 1) ** 2, float((small**2).sum()) / (n - 1) ** 2
    q = float(((centred**2).sum(axis=1) ** 2).sum()) / (n - 1)
    square = (n - 1) * (n - 2) * b + a - n * q
    return (2 * b + (n * n - 3 * n + 1) * a - n * q) / square if square > 0 else float("nan")


def effective_rank(vectors: np.ndarray) -> float:
    """exp of the entropy of s / sum(s), s the singular values of the centred vectors (Roy and Vetterli 2007): of singular values, not of variances.

    At most the smaller of rows - 1 and features; a small sample makes it too small, and nothing removes that: read it beside the Gaussian level.
    """
    centred, scale = _centred(vectors)
    if scale == 0:
        return float("nan")
    small = centred.T @ centred if centred.shape[1] <= len(centred) else centred @ centred.T
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(small), 0))
    share = values / values.sum()
    share = share[share > 1e-12]
    return float(np.exp(-(share * np.log(share)).sum()))


def _centred(vectors: np.ndarray) -> tuple[np.ndarray, float]:
    """Rows minus their mean, float64, scaled so that the largest entry is 1; and that scale."""
    centred = np.asarray(vectors, dtype=np.float64)
    centred = centred - centred.mean(axis=0)
    scale = float(np.abs(centred).max()) if centred.size else 0.0
    return (centred / scale, scale) if scale > 0 else (centred, 0.0)


@dataclass(frozen=True)
class Anisotropy:
    """Mean cosine over all pairs of different rows. raw: of the vectors as they are; centred: after their mean is taken away. loudest: the share of all
    squared length that the LOUDEST features hold: where it is near 1, a cosine hears little else."""

    raw: float
    centred: float
    loudest: float


def anisotropy(vectors: np.ndarray) -> Anisotropy:
    """In rows x features steps: the mean over pairs is (|sum of unit vectors|^2 - n) / (n (n - 1))."""
    vectors = np.asarray(vectors, dtype=np.float64)
    energy = np.sort((vectors**2).sum(axis=0))[::-1]
    loudest = float(energy[:LOUDEST].sum() / energy.sum()) if energy.sum() > 0 else float("nan")
    return Anisotropy(_mean_cosine(vectors), _mean_cosine(vectors - vectors.mean(axis=0)), loudest)


def _mean_cosine(vectors: np.ndarray) -> float:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(length > 0, length, 1)
    n = len(unit)
    if n < 2:
        raise DataError("One row has no angle to another.", "Give it two rows or more.")
    total = unit.sum(axis=0)
    return float((total @ total - (unit**2).sum()) / (n * (n - 1)))
