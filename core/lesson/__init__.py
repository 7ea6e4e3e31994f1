"""A lesson: one Markdown file that a person writes and the studio plays. Torch-free.

Between two lines `---` stands what the lesson is (YAML); then each `## Heading` begins a step: words, and one block fenced with ```yaml that says
where to work, what may be set up or run, what is asked, and how it is checked. docs/lessons.md explains it with an example.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import builtins, catalogue
from core.errors import LessonError, PrunariumError, RecipeError
from core.lesson import checks
from core.lesson import figures as lesson_figures
from core.lesson.parts import parted, sections, valid, yaml
from core.lesson.schema import ROOMS, Doing, Head
from core.recipe import Recipe
from core.recipe import parse as parse_recipe

FOLDER = Path(__file__).resolve().parents[2] / "assets" / "lessons"
LONGEST = 200_000  # characters of a lesson file
_HEAD = re.compile(r"\A---[ \t]*\n(.*?)\n---[ \t]*(?:\n|\Z)", re.DOTALL)
_BRACES = re.compile(r"(?<!\{)\{([a-z_]+)\}(?!\})")


@dataclass(frozen=True)
class Step:
    """`words`: Markdown. `check`: the name of its check, or empty; `params`: of the check, defaults filled in. `line`: of its heading in the file."""

    title: str
    words: str
    line: int
    doing: Doing
    check: str = ""
    params: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Lesson:
    name: str
    head: Head
    steps: tuple[Step, ...]
    recipes: Mapping[str, Recipe]


@dataclass(frozen=True)
class Looked:
    """A lesson file as read: the lesson where it can be taught, and all that is wrong with it."""

    name: str
    lesson: Lesson | None
    problems: tuple[LessonError, ...]


def look(file: Path) -> Looked:
    """Read and check a lesson file. Never raises on what is in it."""
    try:
        with file.open(encoding="utf-8") as stream:
            text = stream.read(LONGEST + 1)
    except FileNotFoundError:
        return Looked(
            file.stem, None, (LessonError(f"There is no lesson at {file}.", "Check the path; examples are in assets/lessons."),)
        )
    except (OSError, UnicodeDecodeError):
        return Looked(
            file.stem, None, (LessonError(f"{file} cannot be read as a text file.", "A lesson is a Markdown file in UTF-8."),)
        )
    return checked(text, file)


def read(file: Path) -> Lesson:
    """A lesson that can be taught. Raises the first thing that is wrong with it."""
    found = look(file)
    if found.lesson is None:
        raise found.problems[0]
    return found.lesson


def recipes_in(file: Path) -> Mapping[str, Recipe]:
    """The lesson's runs, read before their figures are there. Raises LessonError."""
    try:
        head, _, _ = _head(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        raise LessonError(f"{file} cannot be read as a text file.", "A lesson is a Markdown file in UTF-8.") from None
    return _recipes(head)


def is_lesson(file: Path) -> bool:
    """Does this Markdown file begin as a lesson does? Any other Markdown is left alone."""
    try:
        with file.open(encoding="utf-8") as stream:
            start = stream.read(400)
    except (OSError, UnicodeDecodeError):
        return False
    return start.startswith("---") and re.search(r"^lesson[ \t]*:", start, re.MULTILINE) is not None


def checked(text: str, file: Path) -> Looked:
    """The text of a lesson file, which need not exist; figures are looked for beside `file`."""
    if len(text) > LONGEST:
        return Looked(
            file.stem, None, (LessonError(f"{file} is longer than {LONGEST:,} characters.", "Make two lessons of it."),)
        )
    try:
        head, body, line = _head(text)
        recipes = _recipes(head)
    except LessonError as error:
        return Looked(file.stem, None, (error,))
    known = lesson_figures.roots(file, head.model)
    steps: list[Step] = []
    problems: list[LessonError] = []
    for title, words, at in sections(body, line):
        try:
            steps.append(_step(title, words, at, recipes, known, len(steps)))
        except PrunariumError as error:
            steps.append(Step(title, words, at, Doing()))
            problems.append(LessonError(f"Line {at}, step {len(steps)} “{title}”: {error.problem}", error.remedy))
    if not steps:
        problems.append(LessonError("The lesson has no step.", "Begin each step with a line such as `## Look at the weights`."))
    lesson = None if problems else Lesson(file.stem, head, tuple(steps), recipes)
    return Looked(file.stem, lesson, tuple(problems))


def _head(text: str) -> tuple[Head, str, int]:
    """(head, the rest, the number of the rest's first line)."""
    hit = _HEAD.match(text)
    if not hit:
        raise LessonError(
            "The file does not begin with a head.",
            "Begin with a line ---, then `lesson: 1`, title, about, minutes, model, paper, and ---.",
        )
    value = yaml(hit[1], 2)
    if not isinstance(value, dict):
        raise LessonError("The lesson's head is no mapping of keys to values.", "See assets/lessons for examples.")
    head = valid(Head, value, "lesson's head")
    if head.model.startswith("builtin:"):
        _built_in(head.model)
    return head, text[hit.end() :], text.count("\n", 0, hit.end()) + 1


def _built_in(model: str) -> None:
    """Raises LessonError where no such model is built in."""
    try:
        found, _ = builtins.find(model)
    except RecipeError as error:
        raise LessonError(f"The lesson is about {model}. {error.problem}", error.remedy) from None
    if found.kind != "model":
        raise LessonError(f"The lesson is about {model}, which is no model.", "Name a model, such as builtin:tiny-llama.")


def _recipes(head: Head) -> dict[str, Recipe]:
    """The lesson's runs, each a whole recipe for the lesson's model."""
    out = {}
    for name, given in head.recipes.items():
        for key in given.keys() & {"model", "recipe", "name", "save"}:
            raise LessonError(
                f"The lesson's recipe {name!r} says {key}.", "Leave it out: a lesson's runs are of its model, named after it."
            )
        try:
            whole = parse_recipe({"recipe": 1, "name": name, "model": {"source": head.model}, **given})
            out[name] = catalogue.resolve(whole)
        except RecipeError as error:
            raise LessonError(f"The lesson's recipe {name!r}: {error.problem}", error.remedy) from None
    return out


def _step(title: str, text: str, line: int, recipes: Mapping[str, Recipe], known: Mapping[str, Any], before: int) -> Step:
    words, block = parted(text, line)
    doing = valid(Doing, block, "step") if block else Doing()
    if doing.room is not None and doing.room not in ROOMS:
        raise LessonError(f"There is no room {doing.room!r}.", f"There are: {', '.join(ROOMS)}.")
    if doing.recipe is not None and doing.recipe not in recipes:
        raise LessonError(
            f"The step runs {doing.recipe!r}, which is no recipe of this lesson.", f"There are: {', '.join(recipes) or 'none'}."
        )
    check, params = _check(doing)
    if params and params.get("guess", 0) > before:
        raise LessonError(f"The guess of step {params['guess']} comes after this one.", "Name an earlier step.")
    told = {key: lesson_figures.filled(getattr(doing, key), known) for key in ("hint", "right", "not_yet")}
    _placeholders(told, check)
    filled = lesson_figures.filled(words, known)
    return Step(title, filled, line, doing.model_copy(update=told), check, params)


def _check(doing: Doing) -> tuple[str, dict[str, Any] | None]:
    """The step's check and its parameters; it must ask exactly where its check needs an answer."""
    if doing.check is None:
        if doing.ask:
            raise LessonError("The step asks and has no check.", "Add check, or leave ask out.")
        return "", None
    [(name, given)] = doing.check.items()
    params = checks.settings(name, given or {})
    if checks.asks(name) != (doing.ask is not None):
        need = "needs an answer" if checks.asks(name) else "looks at what was done and needs no answer"
        raise LessonError(f"The check {name} {need}.", "Add ask." if checks.asks(name) else "Leave ask out.")
    return name, params


def _placeholders(told: Mapping[str, str], check: str) -> None:
    """Words in braces must be figures that the check tells."""
    known = checks.tells(check) if check else ()
    for key, text in told.items():
        for name in _BRACES.findall(text):
            if key == "hint" or name not in known:
                raise LessonError(
                    f"{key} says {{{name}}}, which is not told.", f"The check tells: {', '.join(known) or 'nothing'}."
                )


def with_figures(text: str, told: Mapping[str, str]) -> str:
    """A lesson's sentence with what the check told."""
    return _BRACES.sub(lambda hit: told.get(hit[1], hit[0]), text)
