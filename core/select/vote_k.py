"""The rows that most others count among their nearest, and that nothing kept covers yet."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from core.data.clusters import unit
from core.method import Paper, Param, selector
from kernels.coverage import vote
from kernels.nearest import nearest_rows

_ENTRIES = 2**26  # neighbours of all rows together at the most: some 1.5 GB with what is made of them


@selector(
    "vote_k",
    label="Vote-k",
    paper=Paper(
        "Su, Kasai, Wu, Shi, Wang, Xin, Zhang, Ostendorf, Zettlemoyer, Smith, Yu",
        2022,
        "Selective annotation makes language models better few-shot learners",
        "2209.01975",
    ),
    needs={"vectors"},
    place="geometry",
)
def vote_k(vectors: np.ndarray, count: int, *, neighbours: Annotated[int, Param("Neighbours", 1, 5000)] = 150) -> np.ndarray:
    """Keep rows that many others are near to, and avoid those near what is kept: representative and spread out.

    vectors (rows, features). Returns bool (rows,) with exactly `count` True.

    Every row votes for its 150 nearest rows by cosine. One row after the other: the one with the largest sum over its voters that are not kept of
    10^-(how many of that voter's nearest are kept already); ties keep the earlier row.

    When it lies: hubs, rows that are near to everything in high dimensions, collect votes without standing for anything. Once every voter is
    covered many times the votes are nearly 0, and the order of the rows decides.

    Ours: neighbours are exact; above some 450,000 rows fewer than 150, so that memory stays bounded. Votes below 10^-12 count as nothing. The
    paper's second step, by a model's confidence, is left out.
    """
    rows = len(vectors)
    kept = np.zeros(rows, dtype=bool)
    if count == rows or rows == 1:
        return ~kept
    size = min(neighbours, rows - 1, max(_ENTRIES // rows, 1))
    index, _ = nearest_rows(unit(vectors), size)
    kept[vote(index, count)] = True
    return kept
