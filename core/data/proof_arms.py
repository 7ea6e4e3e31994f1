"""Who is trained in a proof: the choice, its other end, chance, RS2, chance with a teacher, and all rows; which rows each sees, and when."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from core.data.clusters import cluster
from core.data.dataset import Dataset
from core.data.evidence import Beside
from core.data.selection import decide, generator, kept_count, score_rows
from core.events import Progress, Watcher
from core.recipe import Prove, Recipe
from core.recipe_prove import BASELINES, EPOCHS, shares_of

WHOLE, CHANCE, RS2, DISTILLED, OPPOSITE = "all", "random", "rs2", "random + distillation", "opposite"
Chosen = tuple[np.ndarray, float]  # positions to train on, and the seconds it took to choose them


@dataclass(frozen=True)
class Arm:
    """One fit: `choose` is called only where the fit is still missing. rows: how many it trains on at a time."""

    share: float
    selector: str
    rows: int
    choose: Callable[[], Chosen]


@dataclass(frozen=True)
class Unheard:
    """A watcher that passes a stop on and says nothing: what is done inside a fit is no stage of its own."""

    watcher: Watcher

    def say(self, progress: Progress) -> None:
        del progress

    def check(self) -> None:
        self.watcher.check()


def selectors(recipe: Recipe) -> list[str]:
    """Who is trained at each share, in order: the recipe's choice, then the baselines that apply."""
    assert recipe.select is not None and recipe.prove is not None
    asked = recipe.prove.baselines or BASELINES
    name = chosen_name(recipe)
    names = [] if name == CHANCE else [name]
    if "opposite" in asked and recipe.select.score not in (None, CHANCE):
        names.append(OPPOSITE)
    names.append(CHANCE)
    if "rs2" in asked and recipe.prove.learner in EPOCHS:
        names.append(RS2)
    return names + ([DISTILLED] if "distillation" in asked else [])


def chosen_name(recipe: Recipe) -> str:
    assert recipe.select is not None
    score, selector = recipe.select.score, recipe.select.selector or "top"
    return selector if score is None or (score == "random" and selector != "top") else score


def arms(
    dataset: Dataset, vectors: np.ndarray, recipe: Recipe, seed: int, pool: np.ndarray, watcher: Watcher, loaded: Any = None
) -> Iterator[Arm]:
    """All fits of one seed: all rows first (they may teach), then each share. Clusters, scores and choice see the pool alone."""
    assert recipe.select is not None and recipe.prove is not None
    order = generator(seed, "random of the same size").permutation(len(pool))
    beside = Beside(recipe.data, recipe.embedding, loaded, Unheard(watcher))
    prepared = cache(lambda: _prepared(dataset, vectors, recipe, seed, pool, beside))

    def clever(share: float, other_end: bool) -> Chosen:
        part, inside, clusters, scores, seconds = prepared()
        select, started = recipe.select, time.perf_counter()
        if other_end:
            select, scores = select.model_copy(update={"selector": "top"}), -scores
        kept = decide(part, inside, clusters, select, seed, share, scores, beside).kept
        return pool[kept], seconds + time.perf_counter() - started

    yield Arm(1.0, WHOLE, len(pool), lambda: (pool, 0.0))
    for share in shares_of(recipe.prove, recipe.select.keep):
        count = kept_count(len(pool), share)
        for name in selectors(recipe):
            if name in (CHANCE, RS2, DISTILLED):
                yield Arm(share, name, count, lambda count=count: (np.sort(pool[order[:count]]), 0.0))
            else:
                yield Arm(share, name, count, lambda share=share, name=name: clever(share, name == OPPOSITE))


def _prepared(
    dataset: Dataset, vectors: np.ndarray, recipe: Recipe, seed: int, pool: np.ndarray, beside: Beside
) -> tuple[Dataset, np.ndarray, Any, np.ndarray, float]:
    """(rows of the pool, their vectors, clusters, scores, seconds that clusters and scores took)."""
    assert recipe.select is not None
    part, inside = dataset.part(pool), np.asarray(vectors[pool])
    started = time.perf_counter()
    count = None if recipe.clusters.count is None else min(recipe.clusters.count, len(pool))
    clusters = cluster(inside, recipe.clusters.model_copy(update={"count": count}), seed, beside.watcher)
    scores = score_rows(part, inside, clusters, recipe.select, seed, beside)
    return part, inside, clusters, scores, time.perf_counter() - started


def schedule(prove: Prove, selector: str, rows: np.ndarray, pool: np.ndarray, seed: int) -> list[np.ndarray]:
    """The rows of each epoch. `match: passes`: as many epochs for every share; `steps`: as many row visits as all rows get.

    RS2 takes the next rows of a random order of the pool each epoch, and a new order where one is used up, so that all rows come before any comes twice.
    """
    if prove.learner not in EPOCHS:
        return [rows]
    epochs = prove.epochs or EPOCHS[prove.learner]
    if prove.match == "steps":
        epochs = max(1, round(epochs * len(pool) / len(rows)))
    if selector != RS2:
        return [rows] * epochs
    random = generator(seed, "RS2")
    orders = -(-epochs * len(rows) // len(pool))
    stream = np.concatenate([random.permutation(pool) for _ in range(orders)])
    return [stream[epoch * len(rows) : (epoch + 1) * len(rows)] for epoch in range(epochs)]
