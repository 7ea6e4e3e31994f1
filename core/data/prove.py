"""Prove a selection by training on it, beside chance, RS2 and chance with a teacher, at several shares: one job that is taken up where it stopped.

Each fit's line is in the run's proof.jsonl as soon as it is done. A run of the same recipe with `resume:` takes those lines over and does the
fits that are missing; only a teacher that is still needed is trained again, to the same weights.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from core import folder, proof
from core.data.dataset import Dataset, need_labels
from core.data.learners import Fitted, Task, Teacher, train
from core.data.proof_arms import DISTILLED, WHOLE, Arm, Unheard, arms, chosen_name, schedule, selectors
from core.data.selection import generator, kept_count
from core.data.taken_up import taken_up
from core.errors import DataError
from core.events import Progress, Silent, Watcher
from core.recipe import Recipe
from core.recipe_prove import EPOCHS, shares_of

STAGE = "prove"
TEST_SHARE = 0.2
_LEAST_ROWS = 5  # of a class, so that one can be held out
_LANGUAGE = "tiny-llama"


def check(dataset: Dataset, recipe: Recipe) -> None:
    """Refuse what cannot be proven, before anything is embedded. Raises DataError."""
    assert recipe.prove is not None
    learner = recipe.prove.learner
    if learner == "cnn" and dataset.images is None:
        raise DataError(
            f"The cnn learns from images, and {dataset.name} has none.", "Choose linear or mlp, which learn from the vectors."
        )
    if learner == _LANGUAGE and dataset.texts is None:
        raise DataError(f"tiny-llama learns from texts, and {dataset.name} has none.", "Choose linear, mlp, or cnn for images.")
    labels = None if learner == _LANGUAGE else need_labels(dataset, "the proof")
    if "opposite" in recipe.prove.baselines and recipe.select and recipe.select.score is None:
        raise DataError(
            "opposite keeps the other end of a score, and this selection has none.", "Name a score, or leave opposite out."
        )
    pool, _ = hold_out(labels, recipe.seed, len(dataset))
    smallest = shares_of(recipe.prove, recipe.select.keep if recipe.select else None)[0]
    count, classes = kept_count(len(pool), smallest), len(np.unique(labels)) if labels is not None else 1
    if count < classes:
        raise DataError(
            f"A share of {smallest:g} is {count} of the {len(pool)} rows that may be chosen, and there are {classes} classes to learn.",
            f"Leave out shares below {classes / len(pool):.2g}, or give it more rows.",
        )


def prove(
    dataset: Dataset, vectors: np.ndarray, recipe: Recipe, watcher: Watcher, path: Path | None = None, loaded: Any = None
) -> list[dict[str, Any]]:
    """One line a fit: share (of the rows that may be chosen), selector (the recipe's, or one of proof_arms), seed, accuracy 0..1 on the held-out
    rows (of a language model None, and perplexity a token), rows (trained on at a time), test_rows, epochs, row_visits, selection_seconds (clusters, score
    and choice, as if for this share alone), training_seconds, teacher_seconds, history [(epochs, seconds, figure)].

    `path`: the run's folder, where the lines are kept. `loaded`: the opened LoadedModel, for scores that ask for one.
    Raises DataError (see `check`), RecipeError where `resume` names another recipe's run.
    """
    assert recipe.select is not None and recipe.prove is not None
    check(dataset, recipe)
    before = taken_up(recipe, dataset, path, folder.PROOF)
    kept = {(line["share"], line["selector"], line["seed"]): line for line in before}
    seeds = range(recipe.seed, recipe.seed + recipe.prove.seeds)
    total = len(seeds) * (1 + len(shares_of(recipe.prove, recipe.select.keep)) * len(selectors(recipe)))
    inputs = _inputs(dataset, vectors, recipe)
    if recipe.resume:
        watcher.say(Progress(STAGE, kind="note", text=f"Taken up from {Path(recipe.resume).name}: {len(kept)} of {total} fits."))
    watcher.check()
    watcher.say(Progress(STAGE, 0, total))
    lines: list[dict[str, Any]] = []
    for seed in seeds:
        taught: list[Fitted] = []
        pool, test = hold_out(None if recipe.prove.learner == _LANGUAGE else dataset.labels, seed, len(dataset))
        base = Task(inputs, _labels(dataset, recipe), max(len(dataset.label_names), 1), [pool], test, seed, Unheard(watcher))
        for arm in arms(dataset, vectors, recipe, seed, pool, watcher, loaded):
            line = kept.get((arm.share, arm.selector, seed))
            if line is None:
                watcher.check()
                line = folder.finite(_fit(recipe, base, arm, pool, taught, lines))
                if path:
                    folder.append_line(path / folder.PROOF, line)
            lines.append(line)
            figure = proof.measure([line])
            watcher.say(Progress(STAGE, len(lines), total, values={figure: line[figure]} if line[figure] is not None else {}))
    return lines


def _fit(
    recipe: Recipe, base: Task, arm: Arm, pool: np.ndarray, taught: list[Fitted], lines: list[dict[str, Any]]
) -> dict[str, Any]:
    """Train one arm and say its line. `taught` holds the seed's learner of all rows once it is there."""
    prove = recipe.prove
    assert prove is not None
    rows, selecting = arm.choose()
    task = replace(base, schedule=schedule(prove, arm.selector, rows, pool, base.seed), batch=prove.batch, device=prove.device)
    teacher_seconds = 0.0
    if arm.selector == DISTILLED:
        if not taught:  # taken up: its line is there, its weights are not
            whole = schedule(prove, WHOLE, pool, pool, base.seed)
            taught.append(train(prove.learner, replace(task, schedule=whole)))
        task = replace(task, teacher=Teacher(taught[0].logits, prove.alpha, prove.temperature))
        teacher_seconds = next(one["training_seconds"] for one in lines if one["selector"] == WHOLE and one["seed"] == base.seed)
    fitted = train(prove.learner, task)
    if arm.selector == WHOLE:
        taught.append(fitted)
    figure = fitted.history[-1][2]
    language = prove.learner == _LANGUAGE
    return {
        "share": arm.share,
        "selector": arm.selector,
        "seed": base.seed,
        "accuracy": None if language else figure,
        **({"perplexity": figure} if language else {}),
        "rows": len(rows),
        "test_rows": len(base.test),
        "epochs": len(task.schedule) if prove.learner in EPOCHS else None,
        "row_visits": sum(map(len, task.schedule)) if prove.learner in EPOCHS else None,
        "selection_seconds": round(selecting, 4),
        "training_seconds": round(fitted.history[-1][1], 4),
        "teacher_seconds": round(teacher_seconds, 4),
        "history": [[round(epochs, 4), round(seconds, 4), value] for epochs, seconds, value in fitted.history],
    }


def _inputs(dataset: Dataset, vectors: np.ndarray, recipe: Recipe) -> Any:
    assert recipe.prove is not None
    if recipe.prove.learner == "cnn":
        return dataset.images
    if recipe.prove.learner != _LANGUAGE:
        return vectors
    from core.data.learners.tiny_llama import tokens

    assert dataset.texts is not None
    return tokens(dataset.texts)


def _labels(dataset: Dataset, recipe: Recipe) -> np.ndarray:
    assert recipe.prove is not None
    return np.empty(0, np.int64) if recipe.prove.learner == _LANGUAGE or dataset.labels is None else dataset.labels


def hold_out(labels: np.ndarray | None, seed: int, rows: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(pool, test): positions that may be chosen, and a fifth of each class (rounded down) that is only ever tested on. Seeded.

    Without labels (a language model), a fifth of all `rows`. Raises DataError where fewer than two classes have five rows, or there is only one class.
    """
    random = generator(seed, "hold out")
    if labels is None:
        if rows < 2 * _LEAST_ROWS:
            raise DataError(
                f"{rows} rows are too few to hold some out of: the proof needs {2 * _LEAST_ROWS}.", "Give it more rows."
            )
        order = random.permutation(rows)
        return np.sort(order[int(rows * TEST_SHARE) :]), np.sort(order[: int(rows * TEST_SHARE)])
    classes, sizes = np.unique(labels, return_counts=True)
    if len(classes) < 2:
        raise DataError(
            "The proof needs at least two classes, and these labels have one.", "Choose another label column with `label:`."
        )
    large = int((sizes >= _LEAST_ROWS).sum())
    if large < 2:
        who = "No class has" if large == 0 else "Only one class has"
        raise DataError(
            f"{who} the {_LEAST_ROWS} rows that the proof needs to hold some out.", "Give it more rows, or leave prove out."
        )
    test = [random.permutation(np.flatnonzero(labels == label)) for label in classes]
    test = np.sort(np.concatenate([mine[: int(len(mine) * TEST_SHARE)] for mine in test]))
    return np.setdiff1d(np.arange(len(labels)), test), test


def probe(train_rows: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray) -> float:
    """Accuracy (0..1) of the linear probe (core.data.learners.linear) trained on the one part and tested on the other."""
    both, labels = np.concatenate([train_rows, test]), np.concatenate([train_labels, test_labels]).astype(np.int64)
    positions = np.arange(len(both))
    task = Task(both, labels, int(labels.max()) + 1, [positions[: len(train_rows)]], positions[len(train_rows) :], 0, Silent())
    return train("linear", task).history[-1][2]


def facts(recipe: Recipe, dataset: Dataset, lines: list[dict[str, Any]]) -> dict[str, Any]:
    """What report.json says about the proof beside its lines: the protocol, means and intervals, what the shares say of more data."""
    if not recipe.prove or not recipe.select:
        return {}
    prefer = {**recipe.select.params}.get("prefer")
    return {"protocol": protocol(recipe, dataset), "proof": proof.told(lines, chosen_name(recipe), prefer)}


def protocol(recipe: Recipe, dataset: Dataset) -> str:
    """How the figures were taken, in sentences."""
    prove = recipe.prove
    assert prove is not None
    epochs = prove.epochs or EPOCHS.get(prove.learner)
    how = {
        "linear": "Linear probe (softmax regression, C = 1, L-BFGS, at most 1,000 passes, features standardised on the training rows); it has no "
        "epochs, so RS2 is left out.",
        "mlp": "Perceptron (128 hidden units) on the vectors, standardised on the training rows.",
        "cnn": "Convolutional network (16 and 32 channels) on the images.",
        _LANGUAGE: "Llama of two blocks, 64 wide, from scratch; texts are cut after 128 of the built-in tiny-llama's tokens; the figure is perplexity a token.",
    }[prove.learner]  # fmt: skip
    if epochs:
        same = "as many passes over its rows" if prove.match == "passes" else "as many steps as all rows"
        how += f" AdamW, batches of {prove.batch}; every share gets {same} ({epochs} epochs of all rows); the rate's course is compressed to fit."
    fifth = "of all rows" if prove.learner == _LANGUAGE else "of every class"
    how += (
        f" For each seed 20 % {fifth} is held out first; clusters, scores and selection see only the other 80 %, and the shares are shares of"
        " those. All are tested on the same held-out rows. Seconds of a selection are of clusters, score and choice; embedding is not counted."
    )
    if DISTILLED in selectors(recipe):
        weights = f"({1 - prove.alpha:g}) CE + {prove.alpha:g} x {prove.temperature:g}^2 KL"
        how += f" Distillation: {weights} at temperature {prove.temperature:g} to the learner of all rows."
    small = [] if prove.learner == _LANGUAGE else _small_classes(dataset)
    return how + (f" Never tested on, for want of rows: {', '.join(small)}." if small else "")


def _small_classes(dataset: Dataset) -> list[str]:
    sizes = np.bincount(need_labels(dataset, "the proof"), minlength=len(dataset.label_names))
    return [str(name) for name, size in zip(dataset.label_names, sizes, strict=False) if size < _LEAST_ROWS]
