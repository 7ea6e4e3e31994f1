"""Good rows from every cluster, with more rounds for the clusters that gave good ones."""

from __future__ import annotations

from typing import Annotated

import numpy as np

from core.errors import DataError
from core.method import Paper, Param, selector
from kernels.quotas import nearest_quotas


@selector(
    "kmq",
    label="k-means quality (kMQ)",
    paper=Paper(
        "Yu, Chen, Ahmadian, Fadaee",
        2024,
        "Diversify and conquer: diversity-centric data selection with iterative refinement",
        "2409.11378",
    ),
    needs={"scores", "clusters"},
    place="by score",
)
def kmq(
    scores: np.ndarray,
    clusters: np.ndarray,
    count: int,
    generator: np.random.Generator,
    *,
    rounds: Annotated[int, Param("Rounds", 1, 50)] = 3,
    temperature: Annotated[float, Param("Temperature", 0.01, 100.0)] = 1.0,
) -> np.ndarray:
    """Keep rows of high score drawn from every cluster, and draw more from clusters whose rows were good: diverse first, then better.

    scores (rows,): the quality, higher is better; clusters int (rows,). Returns bool (rows,) with exactly `count` True, drawn from the recipe's seed.

    The count is spent in equal rounds. In a round each cluster's budget is in proportion to its weight (at first its number of rows), as far as
    it has rows left; inside a cluster rows are drawn without replacement with probability softmax(quality / temperature), quality in standard
    deviations, the maximum subtracted first. Then each weight is multiplied by the mean quality (scaled to 0..1) of what its cluster gave.

    When it lies: a quality score that one cluster fools (boilerplate of high likelihood) gets more of that cluster each round.

    Ours: the paper trains a model between rounds and weighs clusters by its answers; here the quality of the rows drawn stands for that. One
    round is its k-means quality sampling.
    """
    if not np.isfinite(scores).all():
        raise DataError("k-means quality needs a score for every row.", "Choose a score, such as score: prototypes.")
    quality = np.asarray(scores, np.float64) - np.min(scores)
    scaled = quality / max(quality.max(), 1e-300)
    spread = quality.std()
    power = (quality - quality.max()) / (spread if spread > 0 else 1.0) / temperature
    keys = power + generator.gumbel(size=len(scores))  # the largest keys are a draw without replacement by softmax(power)
    sizes = np.bincount(clusters)
    order = np.lexsort((np.arange(len(keys)), -keys, clusters))  # cluster by cluster, first drawn first
    starts, given = np.cumsum(sizes) - sizes, np.zeros(len(sizes), np.int64)
    weight = sizes / sizes.sum()
    for number in range(rounds):
        part = count * (number + 1) // rounds - count * number // rounds
        budget = nearest_quotas(weight * part, np.zeros_like(sizes), sizes - given, part)
        good = [
            scaled[order[start + had : start + had + more]].mean() if more else np.nan
            for start, had, more in zip(starts, given, budget, strict=True)
        ]
        given += budget
        weight = _weighed(weight, np.array(good))
    kept = np.zeros(len(scores), dtype=bool)
    for start, had in zip(starts, given, strict=True):
        kept[order[start : start + had]] = True
    return kept


def _weighed(weight: np.ndarray, good: np.ndarray) -> np.ndarray:
    """The weights times the quality of what each cluster gave, summing to 1; a cluster that gave nothing is taken to be as good as the mean."""
    if np.isnan(good).all() or np.nanmax(good) <= 0:
        return weight
    weight = weight * np.where(np.isnan(good), np.nanmean(good), good)
    return weight / weight.sum()
