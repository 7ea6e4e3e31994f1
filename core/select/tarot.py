"""Rows that bring the selection near a target."""

from __future__ import annotations

import os
from typing import Annotated

import numpy as np

from core.data.clusters import unit
from core.data.target import Target
from core.errors import DataError
from core.events import Progress, Watcher
from core.method import Paper, Param, data_score

RIDGE = 1e-5
SPREAD = 0.05  # Sinkhorn's entropy weight, beside distances between 0 and 2
_MOST_TARGETS = 1000
_CHUNK_ROWS = 8192


@data_score(
    "tarot",
    label="Transport to a target (TAROT)",
    paper=Paper("Feng, Nie, Liu, Alahi", 2024, "TAROT: Targeted Data Selection via Optimal Transport", "2412.00420"),
    needs={"vectors"},
    place="target",
    decides=True,
)
def tarot(
    target_rows: Target,
    generator: np.random.Generator,
    watcher: Watcher,
    *,
    target: Annotated[str, Param("Target data", longest=500, grammar="data")] = "",
    most_rounds: Annotated[int, Param("Most rounds", 1, 100)] = 20,
) -> np.ndarray:
    """Keep the rows that each row of a target set would take as its nearest, round by round, while the whole comes closer to the target.

    Rows and target as vectors of one space, whitened by the rows' own covariance (Cholesky, + 1e-5 on its diagonal) and scaled to length
    1; distance is Euclid's. In round r every target row takes its r-th nearest row. The choice grows while the Sinkhorn distance between
    what is taken and the target falls; R is the round where it was least. Returns float32 (rows,): R + 1/2 - r - d/8 for a row first
    taken in round r, d its distance to the nearest target row; r = most_rounds + 1 for rows never taken. Where the recipe says no share to
    keep, the rows of the first R rounds stay.

    Intuition: whitening keeps one loud direction from deciding; taking turns keeps one crowded corner of the target from taking all.

    When it lies: near in the embedding is all it knows. It often
    stops after one round, and then keeps fewer rows than the target has.

    Ours: on embeddings instead of gradients; of a target with more than 1,000 rows, 1,000 drawn by chance stand for it; entropy 0.05.
    """
    rows, aimed = target_rows.embedded()
    if len(aimed) > _MOST_TARGETS:
        aimed = aimed[np.sort(generator.permutation(len(aimed))[:_MOST_TARGETS])]
    rows, aimed = whitened(rows, aimed)
    depth = min(most_rounds, len(rows))
    taken, cosine = _nearest(rows, aimed, depth)
    if cosine.max() <= 0:
        raise DataError(f"No row points the way of any row of the target {target_rows.dataset.name}.", "Name another target.")
    first = np.full(len(rows), most_rounds + 1)
    for turn in range(depth - 1, -1, -1):
        first[taken[:, turn]] = turn + 1
    best = _best_round(rows, aimed, first, depth, watcher)
    closest = np.concatenate([(rows[at : at + _CHUNK_ROWS] @ aimed.T).max(axis=1) for at in range(0, len(rows), _CHUNK_ROWS)])
    return (best + 0.5 - first - np.sqrt(np.maximum(2 - 2 * closest, 0)) / 8).astype(np.float32)


def whitened(rows: np.ndarray, aimed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both sets after the map that gives the rows the covariance 1, scaled to length 1."""
    from scipy.linalg import solve_triangular

    mean = rows.mean(axis=0, dtype=np.float64)
    centred = rows - mean
    lower = np.linalg.cholesky(centred.T @ centred / max(len(rows) - 1, 1) + RIDGE * np.eye(rows.shape[1]))
    both = (solve_triangular(lower, one.T, lower=True).T for one in (centred, aimed - mean))
    white_rows, white_aimed = both
    return unit(white_rows), unit(white_aimed)


def _nearest(rows: np.ndarray, aimed: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """For each target row its `depth` nearest rows, nearest first (of equals the earlier), and their cosines."""
    found = np.empty((len(aimed), 0), dtype=np.int64)
    cosine = np.empty((len(aimed), 0), dtype=np.float32)
    for start in range(0, len(rows), _CHUNK_ROWS):
        part = aimed @ rows[start : start + _CHUNK_ROWS].T
        found = np.concatenate([found, np.broadcast_to(np.arange(start, start + part.shape[1]), part.shape)], axis=1)
        cosine = np.concatenate([cosine, part], axis=1)
        order = np.argsort(-cosine, axis=1, kind="stable")[:, :depth]
        found, cosine = np.take_along_axis(found, order, axis=1), np.take_along_axis(cosine, order, axis=1)
    return found, cosine


def _best_round(rows: np.ndarray, aimed: np.ndarray, first: np.ndarray, depth: int, watcher: Watcher) -> int:
    """The last round before the Sinkhorn distance to the target stops falling."""
    least = np.inf
    for turn in range(1, depth + 1):
        watcher.check()
        watcher.say(Progress("score", turn - 1, depth))
        now = sinkhorn_distance(rows[first <= turn], aimed)
        if now >= least:
            return turn - 1
        least = now
    return depth


def sinkhorn_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Mean Euclidean distance that mass moves under the entropic plan between two sets of unit vectors, all rows alike heavy."""
    os.environ.setdefault("POT_BACKEND_DISABLE_PYTORCH", "1")  # numpy is all it gets; looking for torch takes it seconds
    import ot

    cost = np.sqrt(np.maximum(2 - 2 * (one.astype(np.float64) @ other.T), 0))
    return float(ot.sinkhorn2([], [], cost, SPREAD, numItermax=500, stopThr=1e-6, warn=False))
