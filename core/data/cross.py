"""Two axes at once: how much of the rows and how much of the weights can go together. One job over cells and seeds, taken up where it stopped.

A cell's line is in the run's crossing.jsonl as soon as it is done; a run of the same recipe with `resume:` does the cells that are missing.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from core import crossing, folder
from core.data.clusters import cluster
from core.data.dataset import Dataset, need_labels
from core.data.evidence import Beside
from core.data.learners import Fitted, Task, train
from core.data.proof_arms import Unheard, chosen_name
from core.data.prove import hold_out
from core.data.selection import decide, generator, kept_count, score_rows
from core.data.taken_up import taken_up
from core.errors import DataError
from core.events import Progress, Watcher
from core.recipe import Cross, Recipe

STAGE = "cross"


def check(dataset: Dataset, recipe: Recipe) -> None:
    """Refuse what cannot be trained, before anything is embedded. Raises DataError."""
    assert recipe.cross is not None
    if recipe.cross.learner == "cnn" and dataset.images is None:
        raise DataError(
            f"The cnn learns from images, and {dataset.name} has none.", "Choose the mlp, which learns from the vectors."
        )
    labels = need_labels(dataset, "pruning on two axes")
    pool, _ = hold_out(labels, recipe.seed, len(dataset))
    classes, least = len(np.unique(labels)), min(recipe.cross.rows)
    if kept_count(len(pool), least) < classes:
        raise DataError(
            f"A share of {least:g} of the {len(pool)} rows that may be chosen is fewer than the {classes} classes to learn.",
            f"Leave out shares of rows below {classes / len(pool):.2g}.",
        )


def cross(
    dataset: Dataset, vectors: np.ndarray, recipe: Recipe, watcher: Watcher, path: Path | None = None, loaded: Any = None
) -> dict[str, Any]:
    """{"lines": one a cell and seed (rows and weights: shares kept; seed, accuracy 0..1 on held-out rows, kept_rows, kept_weights, seconds), "cells": means and
    intervals (core.crossing.cells), "protocol"}. Raises DataError (see `check`), RecipeError where `resume` names another recipe's run."""
    assert recipe.cross is not None and recipe.select is not None
    check(dataset, recipe)
    ask = recipe.cross
    kept = {(one["rows"], one["weights"], one["seed"]): one for one in taken_up(recipe, dataset, path, folder.CROSSING)}
    inputs = dataset.images if ask.learner == "cnn" else np.asarray(vectors)
    with one_thread():
        lines = _lines(recipe, dataset, vectors, inputs, kept, path, watcher, loaded)
    return {"lines": lines, "cells": crossing.cells(lines), "protocol": protocol(recipe)}


def _lines(recipe: Recipe, dataset: Dataset, vectors: np.ndarray, inputs: Any, kept: dict[Any, Any], path: Path | None, watcher: Watcher,
           loaded: Any) -> list[dict[str, Any]]:  # fmt: skip
    ask = recipe.cross
    assert ask is not None
    seeds = range(recipe.seed, recipe.seed + ask.seeds)
    rows, weights = sorted(set(ask.rows), reverse=True), sorted(set(ask.weights), reverse=True)
    total, lines = len(seeds) * len(rows) * len(weights), []
    if recipe.resume:
        watcher.say(Progress(STAGE, kind="note", text=f"Taken up from {Path(recipe.resume).name}: {len(kept)} of {total} cells."))
    watcher.say(Progress(STAGE, 0, total))
    for seed in seeds:
        choose = cache(lambda seed=seed: _order(dataset, vectors, recipe, seed, watcher, loaded))
        for share in rows:
            first = cache(
                lambda share=share, seed=seed, choose=choose: _dense(dataset, inputs, ask, share, seed, choose, watcher)
            )
            for part in weights:
                line = kept.get((share, part, seed))
                if line is None:
                    watcher.check()
                    line = folder.finite(_cell(ask, share, part, seed, *first()))
                    if path:
                        folder.append_line(path / folder.CROSSING, line)
                lines.append(line)
                watcher.say(Progress(STAGE, len(lines), total, values={"accuracy": line["accuracy"]}))
    return lines


@contextmanager
def one_thread() -> Iterator[None]:
    """Products of 32 rows only lose by being shared, beside a busy neighbour tenfold."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _order(dataset: Dataset, vectors: np.ndarray, recipe: Recipe, seed: int, watcher: Watcher, loaded: Any) -> Any:
    """(pool, held-out rows, share -> the positions that the recipe's choice keeps). Clusters, scores and choice see the pool alone."""
    select = recipe.select
    assert select is not None
    pool, test = hold_out(need_labels(dataset, STAGE), seed, len(dataset))
    beside = Beside(recipe.data, recipe.embedding, loaded, Unheard(watcher))
    part, inside = dataset.part(pool), np.asarray(vectors[pool])
    count = None if recipe.clusters.count is None else min(recipe.clusters.count, len(pool))
    clusters = cluster(inside, recipe.clusters.model_copy(update={"count": count}), seed, beside.watcher)
    scores = score_rows(part, inside, clusters, select, seed, beside)

    def chosen(share: float) -> np.ndarray:
        return pool if share == 1.0 else pool[decide(part, inside, clusters, select, seed, share, scores, beside).kept]

    return pool, test, chosen


def _dense(
    dataset: Dataset, inputs: Any, ask: Cross, share: float, seed: int, choose: Any, watcher: Watcher
) -> tuple[Task, Fitted]:
    """The learner of these rows with all its weights, and what it was asked."""
    pool, test, chosen = choose()
    rows = chosen(share)
    labels = need_labels(dataset, STAGE)
    epochs = ask.epochs if ask.match == "passes" else max(1, round(ask.epochs * len(pool) / len(rows)))
    task = Task(
        inputs, labels, max(len(dataset.label_names), 1), [rows] * epochs, test, seed, Unheard(watcher), ask.batch, ask.device
    )
    return task, train(ask.learner, task)


def _cell(ask: Cross, share: float, part: float, seed: int, task: Task, dense: Fitted) -> dict[str, Any]:
    """Keep this part of the dense learner's weights, train what is left on the same rows, and say how good it is."""
    started = time.perf_counter()
    layers = prunable(dense.model)
    total = sum(layer.weight.numel() for layer in layers)
    fitted, left = dense, total
    if part < 1.0:
        model = pruned(dense.model, part, ask.method, seed)
        left = sum(int(layer.weight_mask.sum()) for layer in prunable(model))
        retrain = len(task.schedule) * ask.retrain // ask.epochs or min(ask.retrain, 1)
        if retrain:
            fitted = train(ask.learner, replace(task, schedule=task.schedule[:1] * retrain, start=model))
        figure = fitted.history[-1][2] if retrain else _accuracy(model, task)
    else:
        figure = dense.history[-1][2]
    return {
        "rows": share, "weights": part, "seed": seed, "accuracy": figure, "kept_rows": len(task.schedule[0]), "kept_weights": left, "all_weights": total,
        "test_rows": len(task.test), "seconds": round(time.perf_counter() - started, 3),
    }  # fmt: skip


def prunable(model: Any) -> list[Any]:
    """Its linear and convolutional layers but the last, which has few weights and says the classes."""
    from torch import nn

    return [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))][:-1]


def pruned(model: Any, part: float, method: str, seed: int) -> Any:
    """A copy of the model with `part` of each layer's weights; the rest are zero, and stay so however it is trained."""
    import torch
    from torch.nn.utils import prune

    from core.model.masks import decide as keep_of

    left = copy.deepcopy(model)
    random = generator(seed, "weights that stay")
    for layer in prunable(left):
        weight = layer.weight.detach().flatten(1)
        scores = weight.abs() if method == "magnitude" else torch.from_numpy(random.random(tuple(weight.shape))).float()
        prune.custom_from_mask(
            layer, "weight", keep_of(scores, "unstructured", 1.0 - part, "layer", "the learner").view_as(layer.weight).float()
        )
    return left


def _accuracy(model: Any, task: Task) -> float:
    """Of a model as it is, on the held-out rows."""
    import torch

    model.eval()
    rows = torch.from_numpy(np.asarray(task.inputs[task.test], dtype=np.float32)).to(next(model.parameters()).device)
    with torch.no_grad():
        return float(np.mean(model(rows).argmax(dim=1).cpu().numpy() == task.labels[task.test]))


def protocol(recipe: Recipe) -> str:
    """How the figures were taken, in sentences."""
    ask = recipe.cross
    assert ask is not None
    how = {
        "mlp": "Perceptron (128 hidden units) on the vectors",
        "cnn": "Convolutional network (16 and 32 channels) on the images",
    }[ask.learner]
    same = "as many passes over its rows" if ask.match == "passes" else "as many steps as all rows"
    after = f"then trained {ask.retrain} epochs more on the same rows" if ask.retrain else "not trained after"
    return (
        f"{how}, {ask.epochs} epochs; every share of rows gets {same}. Rows by {chosen_name(recipe)}. Of each layer but the last the weights are kept by "
        f"{ask.method}, {after}. For each seed 20 % of every class is held out first; shares of rows are of the rest. Intervals are 95 %, t over seeds."
    )
