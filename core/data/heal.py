"""Heal a pruned model with the right data: rows chosen by damage beside random ones and random ones with a teacher, at equal tokens, as one job.

Every healing starts from the same pruned weights; its line is in the run's healing.jsonl as soon as it is done. A run of the same recipe with `resume:` takes
those lines over and does what is missing. Torch.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from math import exp
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core import folder, proof
from core.data.clusters import cluster
from core.data.damaged import Damaged, damage_of
from core.data.dataset import Dataset
from core.data.embedding import embed
from core.data.evidence import Beside
from core.data.healing_rows import Texts, batches_of, random_rows, rows_within, texts_of
from core.data.loading import load
from core.data.proof_arms import Unheard, chosen_name
from core.data.prove import hold_out
from core.data.selection import decide, generator, score_rows
from core.data.taken_up import taken_up
from core.errors import DataError, ModelError
from core.events import Progress, Watcher
from core.method import get
from core.model.inputs import text
from core.model.inputs.texts import Texts as Readings
from core.model.loading import LoadedModel
from core.model.loading import load as load_model
from core.model.measuring.likelihood import check_causal, mean_loss
from core.model.pruning.step import prune
from core.model.training import Taught
from core.recipe import Embedding, Heal, Recipe

STAGE = "heal"
WHOLE, CHANCE, DISTILLED = "all", "random", "random + distillation"
_WINDOWS_AT_ONCE = 8


@dataclass(frozen=True)
class Patient:
    """The pruned model as it is before each healing: its weights, and the masks {module path: bool kept} that healing must hold."""

    loaded: LoadedModel
    masks: dict[str, Tensor]
    weights: dict[str, Tensor]

    def restore(self) -> None:
        self.loaded.model.load_state_dict(self.weights)


def run_heal(recipe: Recipe, path: Path, watcher: Watcher, dense: LoadedModel) -> dict[str, Any]:
    """Do what `recipe.heal` asks, write healing.jsonl, return the report's field. `dense` is left as it was. Raises DataError, ModelError before anything
    long where model and rows do not fit; RecipeError where `resume` names another recipe's run."""
    assert recipe.heal is not None and recipe.data is not None and recipe.select is not None
    ask, whole = recipe.heal, load(recipe.data)
    _check(dense, whole)
    random = generator(recipe.seed, "rows that heal").permutation(len(whole))
    dataset = whole if len(whole) <= ask.rows else whole.part(np.sort(random[: ask.rows]))
    kept = {(line["share"], line["selector"], line["seed"]): line for line in taken_up(recipe, dataset, path, folder.HEALING)}
    texts = texts_of(dataset, dense.tokenizer, ask.tokens)
    patient = _patient(recipe, dense, watcher)
    started = time.perf_counter()
    damaged = damage_of(dense, patient.loaded, dataset, ask.tokens, watcher)
    seconds = time.perf_counter() - started
    if recipe.embedding.source == "pixels":  # nobody said how: pixels are the default, and these rows have none
        recipe = recipe.model_copy(update={"embedding": Embedding(source="tfidf")})
    vectors = embed(dataset, recipe.embedding, dense, watcher, recipe.seed)
    job = _Job(recipe, ask, dataset, texts, np.asarray(vectors), damaged, seconds, dense, patient, watcher)
    lines, levels = _carried_out(job, kept, path)
    return {"lines": lines, "levels": levels, **_told(job, lines)}


@dataclass(frozen=True)
class _Job:
    """What all healings share. damage_seconds: what reading the rows with both models took."""

    recipe: Recipe
    ask: Heal
    dataset: Dataset
    texts: Texts
    vectors: np.ndarray
    damaged: Damaged
    damage_seconds: float
    dense: LoadedModel
    patient: Patient
    watcher: Watcher


def _check(dense: LoadedModel, dataset: Dataset) -> None:
    if dense.tokenizer is None:
        raise ModelError("Healing trains on texts, and this model has no tokenizer.", "Use a language model.")
    check_causal(dense.model, "cannot be healed with texts")
    if dataset.texts is None:
        raise DataError(f"A language model is healed with texts, and {dataset.name} has none.", "Open texts.")


def _patient(recipe: Recipe, dense: LoadedModel, watcher: Watcher) -> Patient:
    """The recipe's model a second time, pruned as its step says."""
    from core.model.steps import calibration_inputs

    assert recipe.model is not None
    part, at, seed = recipe.steps[0].prune, recipe.calibration, recipe.seed
    assert part is not None
    if dense.location.kind == "module":
        raise ModelError("Healing opens the model a second time, and this one has no file.", "Save it to a folder first.")
    loaded = load_model(recipe.model.source, recipe.model.dtype, recipe.model.device)
    readings = Readings(
        lambda: calibration_inputs(loaded, part.general, seed + 1) if part.general else torch.empty(0),
        lambda: text.stream(at.source, loaded.tokenizer, 1, at.tokens, seed + 2, at.column),
    )
    done = prune(loaded, part, cache(lambda: calibration_inputs(loaded, at, seed)), seed, watcher, readings, put_back=False)
    if done.loaded.tokenizer is None or len(done.loaded.tokenizer) != len(dense.tokenizer):  # type: ignore[arg-type]
        raise ModelError("The pruned model reads other tokens than the dense one.", "Prune something else than the vocabulary.")
    masks = {name: mask.unpack().to(done.loaded.device) for name, mask in done.masks.items()}
    return Patient(done.loaded, masks, {name: value.clone() for name, value in done.loaded.model.state_dict().items()})


def _carried_out(job: _Job, kept: dict[Any, dict[str, Any]], path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(a line a healing, a level a seed: what the dense and the pruned model say of the held-out rows)."""
    ask, seeds = job.ask, range(job.recipe.seed, job.recipe.seed + job.ask.seeds)
    arms = [(1.0, WHOLE), *((share, who) for share in sorted(set(ask.shares)) for who in selectors(job.recipe))]
    total, lines, levels = len(seeds) * len(arms), [], []
    if job.recipe.resume:
        taken = f"Taken up from {Path(job.recipe.resume).name}: {len(kept)} of {total} healings."
        job.watcher.say(Progress(STAGE, kind="note", text=taken))
    job.watcher.say(Progress(STAGE, 0, total))
    for seed in seeds:
        pool, test = hold_out(None, seed, len(job.dataset))
        windows = job.texts.windows(test, ask.tokens)
        if job.texts.count(pool, ask.tokens) < ask.batch or not len(windows):
            raise DataError(
                f"These rows have too few tokens for batches of {ask.batch} x {ask.tokens}.", "Lower heal.tokens or heal.batch."
            )
        job.patient.restore()
        levels.append(
            {"seed": seed, "dense": _perplexity(job, job.dense, windows), "pruned": _perplexity(job, job.patient.loaded, windows)}
        )
        choose = cache(lambda seed=seed, pool=pool: _prepared(job, seed, pool))
        for share, who in arms:
            line = kept.get((share, who, seed))
            if line is None:
                job.watcher.check()
                line = folder.finite(_healed(job, share, who, seed, pool, windows, choose))
                folder.append_line(path / folder.HEALING, line)
            lines.append(line)
            job.watcher.say(
                Progress(STAGE, len(lines), total, values={"perplexity": line["perplexity"]} if line["perplexity"] else {})
            )
    return lines, levels


def selectors(recipe: Recipe) -> list[str]:
    """Who heals at each share, in order."""
    assert recipe.heal is not None
    name = chosen_name(recipe)
    rest = [DISTILLED] if "distillation" in recipe.heal.baselines else []
    return [*([] if name == CHANCE else [name]), CHANCE, *rest]


def _prepared(job: _Job, seed: int, pool: np.ndarray) -> Any:
    """(the pool's rows, their vectors, clusters, scores, evidence, seconds)."""
    select, clusters = job.recipe.select, job.recipe.clusters
    assert select is not None
    started = time.perf_counter()
    beside = Beside(job.recipe.data, job.recipe.embedding, job.dense, Unheard(job.watcher), job.damaged)
    part, inside = job.dataset.part(pool), job.vectors[pool]
    count = None if clusters.count is None else min(clusters.count, len(pool))
    groups = cluster(inside, clusters.model_copy(update={"count": count}), seed, beside.watcher)
    scores = score_rows(part, inside, groups, select, seed, beside)
    return part, inside, groups, scores, beside, time.perf_counter() - started


def _rows(job: _Job, share: float, who: str, seed: int, pool: np.ndarray, budget: int, choose: Any) -> tuple[np.ndarray, float]:
    """(positions to heal with, seconds that it took to choose them)."""
    if who == WHOLE:
        return pool, 0.0
    if who in (CHANCE, DISTILLED):
        return random_rows(job.texts, pool, budget, seed), 0.0
    part, inside, groups, scores, beside, seconds = choose()
    started = time.perf_counter()

    def kept(count: int) -> np.ndarray:
        found = decide(part, inside, groups, job.recipe.select, seed, count / len(pool), scores, beside)
        return pool[found.kept]

    rows = rows_within(kept, job.texts, len(pool), budget)
    return rows, seconds + job.damage_seconds + time.perf_counter() - started


def _healed(job: _Job, share: float, who: str, seed: int, pool: np.ndarray, test: Tensor, choose: Any) -> dict[str, Any]:
    """Heal once and say its line."""
    from core.model.steps import assert_zeros

    ask, loaded = job.ask, job.patient.loaded
    windows = max(ask.batch, int(job.texts.count(pool, ask.tokens) * share))
    rows, selecting = _rows(job, share, who, seed, pool, windows * ask.tokens, choose)
    method = get("recovery", ask.method)
    batches = batches_of(job.texts, rows, windows, ask, seed)
    steps = len(batches)
    job.patient.restore()
    given = (batch.to(loaded.device) for batch in batches)
    if who == DISTILLED:
        given = (Taught(ids, job.dense.model, ask.alpha, ask.temperature) for ids in given)
    have = {"model": loaded.model, "batches": given, "masks": job.patient.masks, "steps": steps, "watcher": Unheard(job.watcher),
            "learning_rate": ask.learning_rate or method.card.learning_rate}  # fmt: skip
    started = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        method(have, ask.params)
    assert_zeros(loaded, job.patient.masks)
    training = time.perf_counter() - started
    return {
        "share": share, "selector": who, "seed": seed, "accuracy": None, "perplexity": _perplexity(job, loaded, test), "rows": len(rows),
        "tokens": windows * ask.tokens, "steps": steps, "test_windows": len(test), "selection_seconds": round(selecting, 3),
        "training_seconds": round(training, 3), "teacher_seconds": 0.0,
    }  # fmt: skip


def _perplexity(job: _Job, loaded: LoadedModel, windows: Tensor) -> float:
    return exp(min(mean_loss(loaded.model, windows.split(_WINDOWS_AT_ONCE), job.watcher), 700.0))


def _told(job: _Job, lines: list[dict[str, Any]]) -> dict[str, Any]:
    ask, part = job.ask, job.recipe.steps[0].prune
    assert part is not None
    passes = f"{ask.epochs} passes" if ask.epochs > 1 else "one pass"
    how = (
        f"{part.method} ({part.structure}{f', {100 * part.sparsity:.0f} %' if part.sparsity else ''}), healed by {ask.method}, {passes} over the tokens of "
        f"each share in batches of {ask.batch} x {ask.tokens}; rows are joined with the end token and cut into sequences, so every choice gets exactly "
        "as many tokens. For each seed 20 % of the rows is held out first; shares are of the tokens of the rest. Perplexity is that of the held-out rows, "
        "joined alike."
    )
    if DISTILLED in selectors(job.recipe):
        how += f" Distillation: {1 - ask.alpha:g} CE + {ask.alpha:g} x {f'{ask.temperature:g}^2 ' if ask.temperature != 1 else ''}KL to the dense model."
    return {"chosen": chosen_name(job.recipe), "rows": len(job.dataset), "summary": proof.summary(lines), "protocol": how}
