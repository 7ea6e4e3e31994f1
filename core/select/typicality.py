"""How much a row is among its like."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import numpy as np

from core.method import Paper, Param, data_score

_NEAREST = 1e-3  # in chord length: float32 cosines cannot tell closer rows from equal ones


@data_score(
    "typicality",
    label="Typicality",
    paper=Paper(
        "Hacohen, Dekel, Weinshall",
        2022,
        "Active Learning on a Budget: Opposite Strategies Suit High and Low Budgets",
        "2202.02794",
    ),
    needs={"vectors", "neighbours"},
    place="geometry",
)
def typicality(
    neighbours: Callable[..., tuple[np.ndarray, np.ndarray]],
    *,
    count: Annotated[int, Param("Neighbours", 1, 200)] = 20,
) -> np.ndarray:
    """Keep the most typical rows, with many close neighbours: with a small share to keep, these teach the most.

    Returns float32 (rows,): 1 / mean distance to the `count` nearest other rows, where distance is the chord sqrt(2 (1 - cos)) between
    unit vectors, at least 0.001.

    Intuition: with few rows a learner needs the middle of each crowd before its edges.

    When it lies: alone it takes many rows of the one thickest crowd; use it with a selector that spreads over clusters.

    Ours: exact copies of a row count as one row and share its score, so that duplicates make nothing infinitely typical; the paper covers
    clusters one by one, which is the selector's part.
    """
    cosine_distance = neighbours(count, distinct=True)[1]
    chord = np.sqrt(2 * cosine_distance).mean(axis=1)
    return (1 / np.maximum(chord, _NEAREST)).astype(np.float32)
