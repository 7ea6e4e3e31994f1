"""Chance: the baseline that every other choice of rows has to beat."""

from __future__ import annotations

import numpy as np

from core.method import data_score, selector


@data_score("random", label="Random", place="baseline")
def random_score(rows: int, generator: np.random.Generator) -> np.ndarray:
    """Keep any rows: a share drawn by chance keeps every cluster and class at its own weight.

    Returns float32 (rows,), uniform in 0..1, drawn from the recipe's seed.

    When it lies: never, which is why it is drawn beside every other method. Rare classes may vanish at small shares.
    """
    return generator.random(rows, dtype=np.float32)


@selector("random", label="Random", place="baseline")
def random_rows(rows: int, count: int, generator: np.random.Generator) -> np.ndarray:
    """Keep `count` rows drawn by chance without regard to any score: the honest baseline.

    Returns bool (rows,) with exactly `count` True, drawn from the recipe's seed.
    """
    kept = np.zeros(rows, dtype=bool)
    kept[generator.permutation(rows)[:count]] = True
    return kept
