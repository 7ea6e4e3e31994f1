"""The rows of the highest scores, the lowest, or those between."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from core.errors import DataError
from core.method import Param, selector


@selector("top", label="A band of the scores", needs={"scores"}, place="by score")
def top(
    scores: np.ndarray,
    count: int,
    labels: np.ndarray | None,
    *,
    band: Annotated[str, Param("Band", choices=("highest", "middle", "lowest"))] = "highest",
    class_balance: Annotated[float, Param("Class balance", 0.0, 1.0)] = 0.0,
) -> np.ndarray:
    """Keep the rows with the highest scores, or the middle or the lowest band; equal scores keep the earlier row.

    scores (rows,); labels int (rows,) or None. Returns bool (rows,) with exactly `count` True.

    `band`: where high scores are hard rows (EL2N, perplexity, prototypes that prefer hard), highest = hard, lowest = easy. The middle band is the
    `count` rows around the median: as many rows are left out above it as below (one more above where that is odd).

    `class_balance` b: each class first gets the best b x (count x its share of all rows) rows of its own band, rounded down; the rest goes by
    score alone. 0: by score alone; 1: every class keeps its share. Sorscher et al. (2206.14486) use one half on ImageNet, because every score
    amplifies class imbalance.

    When it lies: a score that prefers one class or one source keeps only that one; look at the class counts of what is kept. Which band is best
    changes with the data and with the share kept (2405.20541 finds the middle or the high band of perplexity best, by data set): try all three.
    """
    if np.isnan(scores).any():
        raise DataError("A band of the scores needs a score for every row.", "Choose a score, such as score: prototypes.")
    kept = np.zeros(len(scores), dtype=bool)
    if class_balance > 0:
        if labels is None:
            raise DataError(
                "class_balance needs labels, and this data has none.", "Say `label:` in data, or set class_balance to 0."
            )
        for label in np.unique(labels):
            mine = np.flatnonzero(labels == label)
            kept[mine[_order(scores[mine], band)[: int(class_balance * count * len(mine) / len(scores) + 1e-9)]]] = True
    order = _order(scores, band)
    rest = order[~kept[order]]
    kept[rest[: count - int(kept.sum())]] = True
    return kept


def _order(scores: np.ndarray, band: str) -> np.ndarray:
    """The places of the scores, those to be kept first in front."""
    sign = 1 if band == "lowest" else -1
    order = np.lexsort((np.arange(len(scores)), sign * np.asarray(scores, dtype=np.float64)))
    if band != "middle":
        return order
    return order[np.argsort(np.abs(2 * np.arange(len(order)) - len(order)), kind="stable")]
