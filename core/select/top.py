"""The rows of the highest scores."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from core.errors import DataError
from core.method import Param, selector


@selector("top", label="Highest scores", needs={"scores"}, place="by score")
def top(
    scores: np.ndarray,
    count: int,
    labels: np.ndarray | None,
    *,
    class_balance: Annotated[float, Param("Class balance", 0.0, 1.0)] = 0.0,
) -> np.ndarray:
    """Keep the rows with the highest scores; equal scores keep the earlier row.

    scores (rows,); labels int (rows,) or None. Returns bool (rows,) with exactly `count` True.

    `class_balance` b: each class first gets its own best b x (count x its share of all rows) rows, rounded down; the rest goes by score
    alone. 0: by score alone; 1: every class keeps its share. Sorscher et al. (2206.14486) use one half on ImageNet, because every score
    amplifies class imbalance.

    When it lies: a score that prefers one class or one source keeps only that one; look at the class counts of what is kept.
    """
    order = np.lexsort((np.arange(len(scores)), -np.asarray(scores, dtype=np.float64)))
    kept = np.zeros(len(scores), dtype=bool)
    if class_balance > 0:
        if labels is None:
            raise DataError(
                "class_balance needs labels, and this data has none.", "Say `label:` in data, or set class_balance to 0."
            )
        for label in np.unique(labels):
            mine = order[labels[order] == label]
            kept[mine[: int(class_balance * count * len(mine) / len(scores) + 1e-9)]] = True
    rest = order[~kept[order]]
    kept[rest[: count - int(kept.sum())]] = True
    return kept
