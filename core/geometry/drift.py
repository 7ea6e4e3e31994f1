"""How far one space is from another of the same rows: the best rotation, what it leaves over, and places of both on one map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from core.data.projection import pca
from core.errors import DataError


@dataclass(frozen=True)
class Drift:
    """residual: 0..1, what no rotation and scale of the second space explains of the first, as a share of its squared spread (1 - (sum of singular
    values)^2 for spaces scaled to length 1). turned: the second space rotated and scaled onto the first, with the first's mean, float32 (rows, width)."""

    residual: float
    turned: np.ndarray


def procrustes(one: np.ndarray, two: np.ndarray) -> Drift:
    """Orthogonal Procrustes (Schonemann 1966): the rotation and scale of `two` that come nearest to `one`, both centred; the narrower one is padded with zeros.

    one (rows, a), two (rows, b). With fewer rows than features a rotation can fit anything, so the residual then says little: it is small by chance.
    """
    if len(one) != len(two):
        raise DataError(f"The two spaces hold {len(one)} and {len(two)} rows.", "Compare the same rows.")
    width = max(one.shape[1], two.shape[1])
    a, b = (np.pad(np.asarray(part, np.float64), ((0, 0), (0, width - part.shape[1]))) for part in (one, two))
    middle = a.mean(axis=0)
    a, b = a - middle, b - b.mean(axis=0)
    sizes = np.linalg.norm(a), np.linalg.norm(b)
    if min(sizes) == 0:
        raise DataError(
            "All rows are one point in one of the two spaces, so there is no drift to measure.", "Look at another block."
        )
    left, values, right = np.linalg.svd(b.T @ a / (sizes[0] * sizes[1]))
    total = min(float(values.sum()), 1.0)
    turned = b @ (left @ right) * (total * sizes[0] / sizes[1]) + middle
    return Drift(1 - total**2, turned.astype(np.float32))


def moved(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """How far each row went, as a share of the first space's mean distance from its mean, float32 (rows,). The same width and axes."""
    far = np.linalg.norm(np.asarray(two, np.float64) - one, axis=1)
    spread = np.linalg.norm(np.asarray(one, np.float64) - np.mean(one, axis=0, dtype=np.float64), axis=1).mean()
    return (far / spread if spread > 0 else np.zeros(len(far))).astype(np.float32)


def shared_map(one: np.ndarray, two: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both on one map: the two main axes of both spaces stacked, so that an arrow from the first place to the second is a move and no turn of the map.
    The same width and axes; float32 (rows, 2) each. UMAP is not offered: placing new points on its map drifts by itself."""
    places = pca(np.concatenate([np.asarray(one, np.float32), np.asarray(two, np.float32)]))
    return places[: len(one)], places[len(one) :]
