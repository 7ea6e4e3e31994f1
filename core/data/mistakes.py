"""Which rows a linear reader of the embedding gets wrong when it never saw them: every row is left out once, by one decomposition."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from core.errors import DataError

MOST_FEATURES, MOST_FITTED = 2048, 50_000
_CHUNK_ROWS = 16_384
_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)


@dataclass(frozen=True)
class Scaling:
    """Rows as the reader sees them: less `mean`, times `scale`, which is one over the standard deviation and 0 for a constant feature."""

    mean: np.ndarray
    scale: np.ndarray

    def parts(self, points: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """(which rows, the rows scaled) a chunk, float64."""
        for at in range(0, len(points), _CHUNK_ROWS):
            rows = slice(at, min(at + _CHUNK_ROWS, len(points)))
            yield rows, (points[rows] - self.mean) * self.scale


def left_out_answers(vectors: np.ndarray, labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """The class that ridge regression on one-hot labels gives each row when it was fitted to all the others; int32 (rows,).

    vectors (rows, features), labels int (rows,). Features to mean 0 and standard deviation 1. With h the row's leverage (the diagonal of
    X (X'X + p n I)^-1 X' + 1/n) and e its residual in the fit of all rows, the residual of the row left out is e / (1 - h) exactly, so no row is refitted.
    The penalty p is the one of 0.001 to 10 with the smallest sum of those squares. The classes' shares, an answer's level, are those of all rows: else every
    row would be read as any class but its own where the features say nothing.

    Of more than 50,000 rows that many, drawn at random and seeded, are fitted to, and the others just read. More than 2,048 features are first projected to
    that many, at random and seeded. Never rows x rows in memory. Raises DataError where there is one class only.
    """
    names, own = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        raise DataError("All rows have the same label, so none can be read wrongly.", "Choose another column with `label:`.")
    generator = np.random.default_rng(seed)
    if vectors.shape[1] > MOST_FEATURES:
        mixing = generator.normal(size=(vectors.shape[1], MOST_FEATURES)).astype(np.float32)
        vectors = np.concatenate([vectors[at : at + _CHUNK_ROWS] @ mixing for at in range(0, len(vectors), _CHUNK_ROWS)])
    if len(vectors) <= MOST_FITTED:
        return names[_fitted(vectors, own, len(names))[0]].astype(np.int32)
    some = np.sort(generator.permutation(len(vectors))[:MOST_FITTED])
    answers = np.empty(len(vectors), np.int64)
    mine, scaling, weights, share = _fitted(vectors[some], own[some], len(names))
    for rows, part in scaling.parts(vectors):
        answers[rows] = (part @ weights + share).argmax(1)
    answers[some] = mine
    return names[answers].astype(np.int32)


def _fitted(points: np.ndarray, own: np.ndarray, classes: int) -> tuple[np.ndarray, Scaling, np.ndarray, np.ndarray]:
    """Each row's answer when left out; and the fit of all rows: scaling, weights (features, classes), the answer of a mean row."""
    scaling, one_hot = _scaling(points), np.eye(classes)
    squares, towards = np.zeros((points.shape[1],) * 2), np.zeros((points.shape[1], classes))
    for rows, part in scaling.parts(points):
        squares += part.T @ part
        towards += part.T @ one_hot[own[rows]]
    values, axes = np.linalg.eigh(squares)
    shrunk = 1 / (np.maximum(values, 0)[:, None] + np.array(_PENALTIES) * len(points))  # (features, penalties)
    weights = [(axes.T @ towards) * one[:, None] for one in shrunk.T]
    share = np.bincount(own, minlength=classes) / len(own)
    lost, answers = np.zeros(len(_PENALTIES)), np.empty((len(_PENALTIES), len(own)), np.int64)
    for rows, part in scaling.parts(points):
        turned, wanted = part @ axes, one_hot[own[rows]]
        leverage = turned**2 @ shrunk + 1 / len(own)
        for number, weight in enumerate(weights):
            residual = (wanted - share - turned @ weight) / np.maximum(1 - leverage[:, number, None], 1e-9)
            lost[number] += (residual**2).sum()
            answers[number, rows] = (wanted - residual + (wanted - share) / (len(own) - 1)).argmax(1)
    best = int(lost.argmin())
    return answers[best], scaling, axes @ weights[best], share


def _scaling(points: np.ndarray) -> Scaling:
    chunks = [slice(at, at + _CHUNK_ROWS) for at in range(0, len(points), _CHUNK_ROWS)]
    mean = sum(points[rows].sum(0, dtype=np.float64) for rows in chunks) / len(points)
    square = sum(((points[rows] - mean) ** 2).sum(0) for rows in chunks) / len(points)
    moves = square > 1e-12 * np.maximum(mean**2, 1e-12)
    return Scaling(mean, np.where(moves, 1 / np.sqrt(np.where(moves, square, 1)), 0))
