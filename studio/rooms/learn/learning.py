"""Lessons as the page needs them: which there are, how a step looks, what its check says of the live model. Draws nothing; see panel.py."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import Any

from core import catalogue, folder, lesson, recipe
from core.errors import LessonError, PrunariumError
from core.lesson import Lesson, Looked, Step, checks
from core.lesson.scene import Done, Scene, Verdict, by_layer, done
from core.lesson.schema import BARS, EVERYTHING
from core.recipe import Recipe
from studio import known
from studio.bench import Bench
from studio.rooms.learn.progress import Notebook

_RUNS = 60  # the newest that a check looks at
_FILES = 200  # Markdown files looked at in an opened folder


def shelf(folders: tuple[Path, ...]) -> list[Looked]:
    """Every lesson: ours first, then those in folders that the person opened. Of one name the first counts."""
    files = sorted(lesson.FOLDER.glob("*.md"))
    for place in folders:
        files += [file for file in sorted(place.glob("*.md"))[:_FILES] if lesson.is_lesson(file)]
    first: dict[str, Path] = {}
    for file in files:
        first.setdefault(file.stem, file)
    found = [_looked(file, file.stat().st_mtime_ns, _stamp(file)) for file in first.values()]
    return sorted(found, key=lambda one: one.lesson.head.order if one.lesson else math.inf)


def find(name: str, folders: tuple[Path, ...]) -> Lesson:
    """A lesson by its name. Raises LessonError: there is none, or it cannot be taught as it is."""
    found = {one.name: one for one in shelf(folders)}
    if name not in found:
        raise LessonError(f"There is no lesson called {name[:60]!r}.", "Choose one in the Learn room.")
    if found[name].lesson is None:
        raise found[name].problems[0]
    return found[name].lesson


def _stamp(file: Path) -> int:
    beside = lesson.lesson_figures.beside(file)
    return beside.stat().st_mtime_ns if beside.is_file() else 0


@lru_cache(maxsize=256)
def _looked(file: Path, changed: int, figures: int) -> Looked:
    """A file is read again when it, or the figures beside it, has changed."""
    return lesson.look(file)


def clamp(taught: Lesson, step: int) -> tuple[int, str]:
    """(a step that exists, the sentence where that is another one)."""
    last = len(taught.steps)
    if 1 <= step <= last:
        return step, ""
    near = 1 if step < 1 else last
    return near, f"This lesson has no step {step}; it has {last}. Here is step {near}."


def scene(bench: Bench, taught: Lesson, step: int, notes: Notebook, answer: str = "") -> Scene:
    """What a check of this step is shown: the workspace, the observations and the runs, as they are on disk now."""
    opened, model = bench.workspace.read(), model_of(bench, taught)
    described = known.description(model, bench.workspace.folder) or {"layers": (), "blocks": ()}
    names = [block["name"] for block in described["blocks"]]
    inside = [layer for layer in described["layers"] if layer["block"] is not None]
    blocks = {layer["name"]: names[layer["block"]] for layer in inside}
    cache = bench.workspace.folder
    seen = known.observations(model, bench.runs, True, cache) or known.observations(model, bench.runs, cache=cache)
    shares = opened.budget.shares if opened.model == model else {}
    return Scene(
        model=model,
        sizes={layer["name"]: int(layer["parameters"]) for layer in inside},
        blocks=blocks,
        shares=by_layer(shares, blocks),
        seen=seen.data if seen else None,
        runs=runs(bench, model),
        answer=answer,
        answers=notes.read(taught.name).answers,
        ask=lambda question, /, **what: _asked(bench, taught, question, what),
    )


def _asked(bench: Bench, taught: Lesson, question: str, what: dict[str, Any]) -> Any:
    """A question to the worker about the lesson's model, once a person has opened it: a lesson file opens nothing by itself."""
    if wrong := needs_model(bench, taught):
        raise LessonError(wrong, "Open the lesson's model first.")
    return bench.worker.about(model_of(bench, taught), question, timeout_s=120.0, **what)


def runs(bench: Bench, model: str) -> tuple[Done, ...]:
    """The finished runs of this model that a check can use, newest first."""
    found = [_run(path) for path in folder.runs(bench.runs)[:_RUNS] if (path / folder.REPORT).is_file()]
    return tuple(run for source, run in found if run is not None and source == model)


@lru_cache(maxsize=1024)
def _run(path: Path) -> tuple[str, Done | None]:
    """(its model, the run): a finished run never changes."""
    try:
        asked, report = recipe.read(path / folder.RECIPE), folder.read_json(path / folder.REPORT)
    except (PrunariumError, OSError, ValueError):
        return "", None
    return (asked.model.source, done(path.name, asked, report)) if asked.model else ("", None)


def judged(bench: Bench, taught: Lesson, step: int, notes: Notebook, answer: str = "") -> Verdict | None:
    """What the step's check says now; None for a step without one."""
    at = taught.steps[step - 1]
    return checks.judge(at.check, dict(at.params or {}), scene(bench, taught, step, notes, answer)) if at.check else None


def said(at: Step, verdict: Verdict) -> str:
    """A verdict in the lesson's own words, with what the check sees."""
    if verdict.right:
        return lesson.with_figures(at.doing.right or "Right.", verdict.told)
    return " ".join(part for part in (verdict.why, lesson.with_figures(at.doing.not_yet, verdict.told)) if part)


def model_of(bench: Bench, taught: Lesson) -> str:
    """The lesson's model as the workspace names it: a path that the lesson writes short is written whole. One that may not be read stays as it is, and is
    then not the model that is open."""
    try:
        return bench.admit(taught.head.model)
    except PrunariumError:
        return taught.head.model


def needs_model(bench: Bench, taught: Lesson) -> str:
    """The sentence where another model is open than the lesson is about; else nothing."""
    now = bench.workspace.read().model
    return "" if now == model_of(bench, taught) else f"This lesson is about {taught.head.model}, and {now} is open."


def is_known(bench: Bench, taught: Lesson) -> bool:
    """Has the lesson's model been opened before, so that it can be shown at once?"""
    return known.description(model_of(bench, taught), bench.workspace.folder) is not None


def budget_of(bench: Bench, taught: Lesson, step: int) -> dict[str, float]:
    """The bars that a step sets. Raises LessonError for a block that the model lacks."""
    wanted = taught.steps[step - 1].doing.budget or {}
    described = known.description(model_of(bench, taught), bench.workspace.folder) or {"blocks": ()}
    names = [block["name"] for block in described["blocks"]]
    for name in wanted:
        if name not in (EVERYTHING, *names):
            raise LessonError(f"This model has no {name}.", "Open the model that the lesson is about.")
    return {name: share for name in names if (share := wanted.get(name, wanted.get(EVERYTHING, 0.0)))}


def recipe_of(bench: Bench, taught: Lesson, step: int) -> Recipe:
    """The run that a step offers; the shares `bars` are those of the budget as it stands. Raises PrunariumError, with nothing started."""
    whole = _admitted(bench, taught.recipes[taught.steps[step - 1].doing.recipe or ""])
    steps = []
    for part in whole.steps:
        if part.prune and BARS in part.prune.allocation.shares:
            shares = {name: share for name, share in bench.workspace.read().budget.shares.items() if share > 0}
            if not shares or needs_model(bench, taught):
                raise LessonError("All bars stand at 0 %, so there is nothing to prune.", "Move some in the Budget room first.")
            given = part.prune.allocation.model_copy(update={"shares": shares})
            part = part.model_copy(update={"prune": part.prune.model_copy(update={"allocation": given})})
        steps.append(part)
    return whole.model_copy(update={"steps": tuple(steps)})


def _admitted(bench: Bench, whole: Recipe) -> Recipe:
    """A lesson may come from anyone: what it reads must lie in an opened folder, and is written whole, since the run stands in another one.
    Raises ResourceError."""

    def walk(value: Any) -> Any:
        if isinstance(value, list):
            return [walk(inner) for inner in value]
        if not isinstance(value, dict):
            return value
        sources = {
            key: bench.admit(inner)
            for key, inner in value.items()
            if key == "source" and isinstance(inner, str) and inner != "auto"
        }
        return {key: walk(inner) for key, inner in value.items()} | sources

    placed = walk(recipe.to_dict(whole))
    for prune in (step["prune"] for step in placed.get("steps", ()) if "prune" in step):
        for param in catalogue.pruner(catalogue.load(), prune["method"]).params:
            if param.grammar == "model":
                params = prune.get("params") or {}
                prune["params"] = params | {param.name: bench.admit(str(params.get(param.name, "")))}
    return recipe.parse(placed)


def renamed(whole: Recipe, taught: Lesson) -> Recipe:
    """The run's name says where it comes from."""
    return whole.model_copy(update={"name": f"{taught.name}-{whole.name}"[:80]})


def marked(notes: Notebook, taught: Lesson, step: int, verdict: Verdict) -> str:
    """Note a step that is done, and return what is said."""
    text = said(taught.steps[step - 1], verdict)
    if verdict.right:
        notes.done(taught.name, step, text)
    return text
