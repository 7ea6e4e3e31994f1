"""Rows that say again what another row said."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from core.data.clusters import unit
from core.events import Progress, Watcher
from core.method import Paper, Param, data_score

_BLOCK, _AT_ONCE = 1024, 16384  # rows judged at a time, and rows they are held against at a time


@data_score(
    "near_duplicates",
    label="Near duplicates",
    paper=Paper(
        "Abbas, Tirumala, Simig, Ganguli, Morcos",
        2023,
        "SemDeDup: Data-efficient learning at web-scale through semantic deduplication",
        "2303.09540",
    ),
    needs={"vectors", "clusters"},
    place="duplicates",
    decides=True,
)
def near_duplicates(
    vectors: np.ndarray,
    clusters: np.ndarray,
    centroids: np.ndarray,
    watcher: Watcher,
    *,
    rule: Annotated[str, Param("Rule", choices=("leader", "published"))] = "leader",
    threshold: Annotated[float, Param("Duplicate above cosine", 0.5, 1.0)] = 0.95,
) -> np.ndarray:
    """Keep one row of each group of near equals: a row goes where its cosine with one that stays is above the threshold.

    vectors (rows, features), clusters int (rows,), centroids (clusters, features). Returns float32 (rows,): threshold - c, where c is the
    highest cosine with the rows before it that count. Below 0 = duplicate. Where the recipe says no share to keep, exactly the duplicates
    go; where it does, the most alike go first.

    `leader`: rows in the order of the data; those count that stay, wherever they lie. `published`: inside each cluster, the row farthest
    from the centroid first; all rows before it count.

    Intuition: a second copy costs training time and teaches nothing; two copies on both sides of a split make a test lie.

    When it lies: the embedding decides what is equal. Under TF-IDF two texts of the same words in another order are; under pixels a shift
    is not. A row of zeros has no direction and is nobody's duplicate.

    Ours: `leader` is the default, because `published` also drops a row for resembling one that has itself been dropped: of a chain of
    rows, each alike only to the next, it keeps one. `leader` looks across clusters, exactly, in blocks.
    """
    points = unit(vectors)
    if rule == "leader":
        highest = _against_leaders(points, threshold, watcher)
    else:
        highest = _against_earlier(points, clusters, centroids, watcher)
    return (np.float32(threshold) - highest).astype(np.float32)


def _against_leaders(points: np.ndarray, threshold: float, watcher: Watcher) -> np.ndarray:
    """The highest cosine of each row with the rows before it that stay; -1 for the first."""
    highest = np.full(len(points), -1.0, dtype=np.float32)
    leaders = np.empty_like(points)
    found = 0
    for start in range(0, len(points), _BLOCK):
        watcher.check()
        watcher.say(Progress("score", start, len(points)))
        block = points[start : start + _BLOCK]
        best = highest[start : start + len(block)]
        for first in range(0, found, _AT_ONCE):
            np.maximum(best, (block @ leaders[first : min(first + _AT_ONCE, found)].T).max(axis=1), out=best)
        inside = block @ block.T
        for at in range(len(block)):
            if best[at] <= threshold:
                leaders[found] = block[at]
                found += 1
                np.maximum(best[at + 1 :], inside[at, at + 1 :], out=best[at + 1 :])
    watcher.say(Progress("score", len(points), len(points)))
    return highest


def _against_earlier(points: np.ndarray, clusters: np.ndarray, centroids: np.ndarray, watcher: Watcher) -> np.ndarray:
    """The highest cosine of each row with the rows of its cluster that are farther from the centroid (of equals: earlier); -1 for the farthest."""
    highest = np.full(len(points), -1.0, dtype=np.float32)
    to_centre = np.einsum("rf,rf->r", points, centroids[clusters])
    order = np.lexsort((np.arange(len(points)), to_centre, clusters))
    for mine in np.split(order, np.flatnonzero(np.diff(clusters[order])) + 1):
        watcher.check()
        for start in range(0, len(mine), _BLOCK):
            block = mine[start : start + _BLOCK]
            for first in range(0, start + len(block), _AT_ONCE):
                others = mine[first : min(first + _AT_ONCE, start + len(block))]
                cosine = points[block] @ points[others].T
                later = np.arange(first, first + len(others))[None, :] >= np.arange(start, start + len(block))[:, None]
                highest[block] = np.maximum(highest[block], np.where(later, -1.0, cosine).max(axis=1))
    return highest
