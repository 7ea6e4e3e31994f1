"""What the Formula lab shows besides its pictures: what a typed formula means, which model it is tried on, and the newest search. Reads files, asks nobody."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import folder
from core.errors import PrunariumError, RecipeError
from core.evolve import CALIBRATION, MOST_PARAMETERS, WINDOWS
from core.folder import Status
from core.formula import NAMES, parse
from core.formula_trees import places, simplified
from core.recipe import Recipe
from core.views import slug
from studio import jobs, known, runs_table
from studio.bench import Bench
from studio.workspace import DEMO

KNOWN = {
    "Magnitude within rows": "abs(W)",
    "Wanda": "abs(W) * X",
    "Pruner-Zero": "square(W) * minmax(G)",
    "Taylor": "abs(W) * G",
    "Ranks of both": "rank(abs(W)) * rank(X * abs(W) + G)",
}
HELD_OUT = {"source": "builtin:wikitext2/test", "samples": 32, "tokens": 128}


@dataclass(frozen=True)
class Search:
    """A genetic search: `found` as in formulas.json, null where its first generation is still on its way; `curve`: (formulas measured, best perplexity)."""

    status: Status
    recipe: Recipe
    found: dict[str, Any] | None
    curve: list[tuple[int, float]]

    @property
    def best(self) -> list[dict[str, Any]]:
        return list((self.found or {}).get("best") or ())


def read_as(expression: str) -> dict[str, Any]:
    """What a typed formula means, or why it means nothing, as a sentence for the page: {text, wrong}."""
    try:
        tree = parse(expression or "")
    except RecipeError as error:
        return {"text": str(error), "wrong": True}
    names = [f"{name} ({NAMES[name]})" for name in NAMES if name in tree.names()]
    short = simplified(tree)
    reads = f"Reads {' and '.join([', '.join(names[:-1]), names[-1]] if len(names) > 1 else names)}."
    if not short.names():
        return {"text": f"{reads} But it comes to {short.text} for every weight, so it cannot say which go.", "wrong": True}
    zero = next((part.text for _, part in places(short) if part.value == "/" and part.parts[1].value == 0.0), None)
    if zero:
        return {"text": f"{reads} But it divides by zero, for it comes to {zero}.", "wrong": True}
    return {"text": reads if short.text == tree.text else f"{reads} As understood: {short.text}", "wrong": False}


def model_for(bench: Bench, source: str | None) -> str:
    """The open model where it is a small language model, else the built-in one: a formula is tried in seconds, and carries over."""
    described = known.description(source, bench.workspace.folder) if source else None
    small = described and described.get("kind") == "decoder" and int(described.get("parameters") or 0) <= MOST_PARAMETERS
    return source if source and small and described and described.get("tokenizer") else DEMO


def where(model: str, open_model: str | None) -> str:
    """On which model and text the lab's figures are taken, in a sentence."""
    short = model.removeprefix("builtin:")
    why = (
        ""
        if model == open_model
        else f" Formulas are tried on {short}, for the open model is too large or predicts no text; what is found carries over."
    )
    return (
        f"Measured on {short}: {WINDOWS['samples']} windows of {WINDOWS['tokens']} tokens of WikiText-2's validation text; X and G from "
        f"{CALIBRATION['samples']} training sequences of the dense model.{why}"
    )


def search_recipe(
    model: str, percent: float, population: int, generations: int, start: str | None, resume: str | None = None
) -> dict[str, Any]:
    """The run that evolves formulas, judged exactly as the lab judges a typed one, its best proved on test text."""
    evolve: dict[str, Any] = {
        "sparsity": round(percent / 100, 4),
        "population": int(population),
        "generations": int(generations),
        **WINDOWS,
    }
    evolve |= {"start": [start]} if start else {}
    evolve |= {"resume": resume} if resume else {}
    name = f"evolve-{slug(model.removeprefix('builtin:').rstrip('/').rpartition('/')[2]).strip('-.')[:50] or 'model'}"
    return {
        "recipe": 1,
        "name": name,
        "model": {"source": model},
        "calibration": CALIBRATION,
        "evolve": evolve,
        "measure": {"perplexity": HELD_OUT},
    }


def newest(bench: Bench, model: str, followed: str | None = None) -> Search | None:
    """The search that is followed, else the newest on that model, running or ended; None where there was none."""
    just_asked = [bench.runs / followed] if followed else []  # its folder may hold nothing yet
    for path in (*just_asked, *folder.runs(bench.runs)):
        recipe = _recipe(path) if path.name.startswith("evolve") or (path / folder.FORMULAS).exists() else None
        at = jobs.status(path) if recipe and recipe.evolve and recipe.model and recipe.model.source == model else None
        if at and recipe:
            return Search(at, recipe, jobs.read_json(path / folder.FORMULAS), _curve(at))
    return None


_read: dict[Path, Recipe] = {}  # what a run was asked for never changes, and a search is looked at every second


def _recipe(path: Path) -> Recipe | None:
    if path not in _read:
        recipe = runs_table.recipe_of(Status(path, "running"))
        if recipe is None:
            return None
        _read[path] = recipe
    return _read[path]


def again(bench: Bench, name: str) -> Recipe:
    """The recipe that takes up a search where it was left. Raises PrunariumError where there is none."""
    path = bench.path_of(name)
    at = jobs.status(path)
    recipe = _recipe(path)
    if recipe is None or recipe.evolve is None or not (path / folder.FORMULAS).exists():
        raise PrunariumError("That run holds no search to go on with.", "Start a new one with Evolve.")
    more = 0 if at and at.state != "done" else recipe.evolve.generations
    whole = min(recipe.evolve.generations + more, 200)
    return recipe.model_copy(update={"evolve": recipe.evolve.model_copy(update={"resume": str(path), "generations": whole})})


def _curve(at: Status) -> list[tuple[int, float]]:
    out: list[tuple[int, float]] = []
    for event in folder.read_events(at.path)[0]:
        best = (event.get("values") or {}).get("best_perplexity")
        if event.get("stage") == "evolve" and isinstance(best, (int, float)):
            out.append((len(out) + 1, float(best)))
    return out
