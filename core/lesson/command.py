"""`launch.py lesson check FILE` says what is wrong with a lesson; `lesson measure FILE` runs its recipes and keeps the figures beside it.

Exit codes: 0 the lesson can be taught; 1 it cannot, each reason in a sentence.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from core import folder, lesson
from core.errors import LessonError, PrunariumError
from core.lesson import figures as lesson_figures
from core.lesson.schema import BARS
from core.recipe import Recipe

_KEPT = ("dense", "pruned", "recovered", "sparsity")  # of a report; enough for every sentence


def check(file: Path) -> int:
    """Say what the lesson is, or everything that is wrong with it."""
    found = lesson.look(file)
    for problem in found.problems:
        print(problem, file=sys.stderr)
    if found.lesson is None:
        return 1
    taught = found.lesson
    tasks = sum(1 for step in taught.steps if step.check)
    runs = f", {len(taught.recipes)} runs" if taught.recipes else ""
    print(
        f"{file}: “{taught.head.title}”, {len(taught.steps)} steps, {tasks} tasks{runs}, about {taught.head.minutes} minutes. It can be taught."
    )
    return 0


def measure(file: Path) -> int:
    """Run the lesson's recipes here, one after the other, and write their figures beside it."""
    recipes = lesson.recipes_in(file)
    if not recipes:
        raise LessonError(f"{file} has no recipes to measure.", "Figures of observations (seen/...) need no run.")
    figures = {}
    for name, recipe in recipes.items():
        if by_hand(recipe):
            continue
        print(f"{name} ...", flush=True)
        figures[name] = measured(recipe)
    folder.write_json(lesson_figures.beside(file), figures)
    print(f"{lesson_figures.beside(file)} has the figures of {len(figures)} runs.")
    return check(file)


def measured(recipe: Recipe) -> dict[str, Any]:
    """What a run of the recipe reports, as far as lessons name it."""
    from core.run import run  # torch: only a lesson that is measured needs it

    with tempfile.TemporaryDirectory(prefix="prunarium-lesson-") as private:
        out = Path(private) / "run"
        run(recipe, out)
        report = folder.read_json(out / folder.REPORT)
    return {key: _without_samples(report.get(key)) for key in _KEPT}


def by_hand(recipe: Recipe) -> bool:
    """Is what it removes left to the person's own bars?"""
    return any(step.prune and BARS in step.prune.allocation.shares for step in recipe.steps)


def _without_samples(value: Any) -> Any:
    return {key: part for key, part in value.items() if isinstance(part, (int, float))} if isinstance(value, dict) else value


def main(arguments: list[str]) -> int:
    work = {"check": check, "measure": measure}
    if len(arguments) != 2 or arguments[0] not in work:
        print("usage: python -m core.lesson.command check|measure FILE", file=sys.stderr)
        return 2
    try:
        return work[arguments[0]](Path(arguments[1]))
    except PrunariumError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
