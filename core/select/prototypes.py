"""Distance from the cluster's prototype."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from core.method import Paper, Param, data_score


@data_score(
    "prototypes",
    label="Prototypes",
    paper=Paper(
        "Sorscher, Geirhos, Shekhar, Ganguli, Morcos",
        2022,
        "Beyond neural scaling laws: beating power law scaling via data pruning",
        "2206.14486",
    ),
    needs={"vectors", "clusters"},
    place="geometry",
)
def prototypes(
    vectors: np.ndarray,
    clusters: np.ndarray,
    centroids: np.ndarray,
    *,
    prefer: Annotated[str, Param("Keep first", choices=("hard", "easy"))] = "hard",
) -> np.ndarray:
    """Keep rows far from their cluster's centre (hard) or close to it (easy): the centre is what the cluster says again and again.

    vectors (rows, features), clusters int (rows,), centroids (clusters, features) of length 1. Returns float32 (rows,): 1 - cos(row, own
    centroid), between 0 and 2, where hard rows are preferred; its negative where easy ones are.

    Intuition: with much data the easy rows are repeats, and the hard ones teach more; with little data the easy ones teach first. It needs
    no labels and no training.

    When it lies: mislabelled and broken rows are far from every centre, so `hard` keeps them first; with few rows, or a small share kept,
    `hard` is often worse than random. Always look at the random curve beside it.

    Ours: a row of zeros (a text without a known word) has cosine 0. The paper's class balance is a parameter of the selector `top`.
    """
    length = np.linalg.norm(vectors, axis=1)
    cosine = np.einsum("rf,rf->r", vectors, centroids[clusters], dtype=np.float64) / np.where(length > 0, length, 1)
    distance = (1.0 - cosine).astype(np.float32)
    return distance if prefer == "hard" else -distance
