"""Coverage-centric selection: rows from all levels of difficulty."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from core.errors import DataError
from core.method import Paper, Param, selector


@selector(
    "ccs",
    label="Coverage-centric (CCS)",
    paper=Paper("Zheng, Liu, Lai, Prakash", 2022, "Coverage-centric coreset selection for high pruning rates", "2210.15809"),
    needs={"scores"},
    place="by score",
)
def ccs(
    scores: np.ndarray,
    count: int,
    generator: np.random.Generator,
    *,
    beta: Annotated[float, Param("Hardest dropped (-1: by the share kept)", -1.0, 0.99)] = -1.0,
    bins: Annotated[int, Param("Bins", 1, 1000)] = 50,
    hardest: Annotated[str, Param("Hard rows score", choices=("highest", "lowest"))] = "highest",
) -> np.ndarray:
    """Keep rows of every level of difficulty, without the very hardest: with few rows, covering all levels beats keeping the hard ones.

    scores (rows,). Returns bool (rows,) with exactly `count` True, drawn from the recipe's seed.

    1. The share `beta` of the rows with the hardest scores is dropped: many of them are mislabelled. 2. What is left falls into `bins` bins of equal
    WIDTH between its lowest and highest score (not of equal size). 3. The count is shared out, smallest bin first: each bin gets an equal part
    of what is left to give, or all its rows where they are fewer; inside a bin rows are drawn by chance.

    beta = -1 takes pruned - 0.6, between 0 and 0.3: 0.3 at 90 % pruned, 0.2 at 80 %, none up to 60 %. Never so many that fewer than `count` stay.

    Intuition: rare levels of difficulty are kept whole and the common ones thinned, so the kept rows still reach everywhere.

    When it lies: one extreme score stretches the bins until nearly all rows lie in one, and the choice is then random. With a score that does
    not measure difficulty the bins mean nothing.

    Ours: the paper tunes beta for each data set and share; this default is a rule of thumb in its place.
    """
    rows = len(scores)
    if not np.isfinite(scores).all():
        raise DataError("Coverage-centric selection needs a score for every row.", "Choose a score, such as score: prototypes.")
    hard = np.asarray(scores, np.float64) * (1 if hardest == "highest" else -1)
    share = beta if beta >= 0 else min(max(1 - count / rows - 0.6, 0.0), 0.3)
    dropped = min(int(share * rows + 1e-9), rows - count)
    rest = np.lexsort((np.arange(rows), -hard))[dropped:]
    low, high = hard[rest].min(), hard[rest].max()
    place = np.minimum(((hard[rest] - low) / max(high - low, 1e-300) * bins).astype(np.int64), bins - 1)
    kept = np.zeros(rows, dtype=bool)
    sizes = np.bincount(place, minlength=bins)
    filled = [number for number in np.argsort(sizes, kind="stable") if sizes[number]]
    left = count
    for done, number in enumerate(filled):
        part = min(int(sizes[number]), left // (len(filled) - done))
        kept[generator.permutation(rest[place == number])[:part]] = True
        left -= part
    return kept
