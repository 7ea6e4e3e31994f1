"""The list of runs as a table: pure reading of run folders, for the Runs and Compare rooms."""

from __future__ import annotations

import time
from typing import Any

from core import folder, sweep
from core.errors import PrunariumError
from core.folder import Status
from core.recipe import Recipe, n_of_m, read
from studio import jobs, target
from studio.parts import cards

HEADERS = ["Run", "State", "What", "Dense", "Pruned", "Recovered", "Seconds", "When"]


def row(at: Status) -> list[str]:
    """One run as a row: HEADERS says the columns."""
    report = jobs.report(at.path) or {}
    seconds = "" if at.ended_s is None else f"{at.ended_s - at.started_s:.1f}"
    when = time.strftime("%d %b %H:%M", time.localtime(at.started_s))
    return [
        at.name,
        at.state,
        what(recipe_of(at)) or sweep_words(at),
        *(_quality(report.get(moment), cards.other_tokens(report)) for moment in cards.MOMENTS),
        seconds,
        when,
    ]


def _quality(metrics: dict[str, Any] | None, other: bool) -> str:
    if not metrics:
        return ""
    key = cards.main_figure(metrics, other)
    return (
        ""
        if key == "nonzero"
        else {"perplexity": "ppl ", "bits_per_byte": "bits a byte ", "accuracy": "acc "}.get(key, "")
        + cards.written(key, metrics.get(key))
    )


def recipe_of(at: Status) -> Recipe | None:
    """The resolved recipe of a run, else the one that was asked for; None where neither can be read."""
    for file in (at.path / folder.RECIPE, at.path.parent / jobs.ASKED / f"{at.name}.yaml"):
        try:
            return read(file)
        except PrunariumError:
            continue
    return None


def sweep_words(at: Status) -> str:
    """sweep: 3 of 6 cells done; empty where this is no sweep."""
    cells = sweep.cells_in(at.path) if (at.path / sweep.FILE).exists() else []
    return f"sweep: {sum(cell.state == 'done' for cell in cells)} of {len(cells)} cells done" if cells else ""


def what(recipe: Recipe | None) -> str:
    """The few words that tell runs apart."""
    if recipe is None:
        return ""
    words = [_step(step) for step in recipe.steps]
    if recipe.observe:
        words.append("observe" + (" + curves" if recipe.observe.curves else ""))
    if recipe.evolve:
        words.append(f"evolve formulas {100 * recipe.evolve.sparsity:.0f} %")
    if recipe.select:
        name = recipe.select.method or recipe.select.score or recipe.select.selector
        words.append(f"{name} keep {100 * recipe.select.keep:.0f} %" if recipe.select.keep is not None else str(name))
    if recipe.projection:
        words.append(recipe.projection.method)
    return " → ".join(words)


def _step(step: Any) -> str:
    if step.prune:
        at = step.prune
        by_hand = at.allocation.method == "by_hand"
        amount = at.structure if n_of_m(at.structure) else "by hand" if by_hand else f"{100 * (at.sparsity or 0):.0f} %"
        if at.budget:
            amount = target.short(at.budget.cost, at.budget.remove, at.budget.at_most)
        return f"{at.method} {amount}" + ("" if at.structure == "unstructured" or n_of_m(at.structure) else f" {at.structure}")
    return f"{step.recover.method} {step.recover.steps}" if step.recover else step.reconstruct.method


def rows(statuses: list[Status]) -> list[list[str]]:
    return [row(at) for at in statuses]
