"""A share for each cluster, by hand."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from core.data.shares import LONGEST, read_shares
from core.errors import DataError, RecipeError
from core.method import Param, selector
from kernels.quotas import nearest_quotas

_EXAMPLE = '"0: 0.5, 3: 0.1"'


@selector("cluster_quotas", label="Cluster quotas by hand", needs={"clusters"}, place="by hand")
def cluster_quotas(
    clusters: np.ndarray,
    scores: np.ndarray,
    count: int,
    generator: np.random.Generator,
    *,
    quotas: Annotated[str, Param("Share kept of each cluster", longest=LONGEST)] = "",
) -> np.ndarray:
    """Keep the share of each cluster that you say; the clusters that you leave out share the rest evenly.

    clusters int (rows,); scores (rows,), or NaN where none was chosen. Returns bool (rows,) with exactly `count` True.

    `quotas`: number of a cluster and the share of its rows to keep, 0 to 1, such as "0: 0.5, 3: 0.1"; halves of a row round up. Clusters that it does
    not name keep one common share, whole rows by largest remainder, so that the total is the share that the recipe keeps. Nothing said: every
    cluster at the same share. Inside a cluster the highest scores are kept, or rows drawn by chance where there is no score.

    When it lies: the numbers of clusters are those of this recipe's seed and embedding; with others they mean other rows.
    """
    sizes = np.bincount(clusters)
    named = _named(quotas, len(sizes))
    fixed = np.zeros(len(sizes), dtype=bool)
    fixed[list(named)] = True
    given = np.zeros(len(sizes), dtype=np.int64)
    for cluster, share in named.items():
        given[cluster] = int(np.floor(sizes[cluster] * share + 0.5))
    rest, free = count - int(given.sum()), int(sizes[~fixed].sum())
    if not 0 <= rest <= free:
        raise DataError(
            f"The quotas keep {given.sum()} rows and the other clusters can add {free}, so {count} rows cannot be kept.",
            f"Set keep between {given.sum() / len(clusters):.4g} and {(given.sum() + free) / len(clusters):.4g}, or change the quotas.",
        )
    if free:
        given[~fixed] = nearest_quotas(sizes[~fixed] * (rest / free), np.zeros((~fixed).sum(), int), sizes[~fixed], rest)
    first = np.asarray(scores, np.float64) if np.isfinite(scores).all() else generator.random(len(clusters))
    order = np.lexsort((np.arange(len(clusters)), -first, clusters))
    kept = np.zeros(len(clusters), dtype=bool)
    for start, quota in zip(np.cumsum(sizes) - sizes, given, strict=True):
        kept[order[start : start + quota]] = True
    return kept


def _named(quotas: str, number: int) -> dict[int, float]:
    """{cluster: share}. Raises RecipeError where a cluster is not there or a share is above 1."""
    found: dict[int, float] = {}
    for name, share in read_shares(quotas, "quotas", _EXAMPLE).items():
        if not (name.isascii() and name.isdigit() and int(name) < number):
            raise RecipeError(f"quotas: there is no cluster {name!r}.", f"The clusters are numbered 0 to {number - 1}.")
        if share > 1:
            raise RecipeError(f"quotas: cluster {name} cannot keep {share:g} of its rows.", "Say a share from 0 to 1.")
        found[int(name)] = share
    return found
