"""More rows of what was damaged more."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np

from core.method import Paper, Param, selector
from kernels.quotas import nearest_quotas


@selector(
    "damage_quotas",
    label="Quotas by damage",
    paper=Paper(
        "He, Yin, Zhen, Zhang, Yuan, Ma", 2025, "PASER: Post-Training Data Selection for Efficient Pruned Large Language Model Recovery", "2502.12594"
    ),
    needs={"damaged", "clusters"},
    place="language model",
)  # fmt: skip
def damage_quotas(
    damaged: Any,
    clusters: np.ndarray,
    scores: np.ndarray,
    count: int,
    *,
    size: Annotated[float, Param("Weight of a cluster's size", 0.0, 2.0)] = 0.0,
) -> np.ndarray:
    """Keep more rows of the clusters that pruning damaged more, and in each the highest scores.

    damaged: divergence and tokens of each row (core.data.damaged); clusters int (rows,); scores (rows,), or NaN where none was chosen (then the divergence).
    Returns bool (rows,) with exactly `count` True.

    Damage of a cluster = mean divergence over all its tokens. Its quota is nearest to count x damage x rows^size / the sum of that over clusters, within what
    the cluster has; whole numbers by largest remainder. size = 0 is the paper: a small cluster gets as much as a large one that is damaged alike.

    Intuition: what the model was good at is not lost evenly; each ability gets recovery data by how much of it is gone.

    When it lies: with many small clusters the quotas of size 0 take all of the small ones, whatever they are worth; with one cluster it is the score alone.

    Ours: the clusters are the recipe's (the paper finds them by a diffusion kernel and spectral clustering, which needs a matrix of rows x rows), and
    what does not fit into a cluster goes evenly to the others.
    """
    sizes = np.bincount(clusters)
    weight = np.bincount(clusters, damaged.tokens, len(sizes))
    lost = np.bincount(clusters, damaged.divergence * damaged.tokens, len(sizes)) / np.maximum(weight, 1.0)
    wish = lost * np.where(sizes > 0, sizes, 1.0) ** size * (sizes > 0)
    share = wish / wish.sum() if wish.sum() > 0 else sizes / sizes.sum()
    quotas = nearest_quotas(share * count, np.zeros_like(sizes), sizes, count)
    first = np.asarray(scores, np.float64) if np.isfinite(scores).all() else damaged.divergence
    order = np.lexsort((np.arange(len(clusters)), -first, clusters))
    kept = np.zeros(len(clusters), dtype=bool)
    for start, quota in zip(np.cumsum(sizes) - sizes, quotas, strict=True):
        kept[order[start : start + quota]] = True
    return kept
