"""What a lesson may ask for, one small file a check. Torch-free: unlike other methods these run in the screen's process, so none comes from a stranger."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache
from typing import Any

from core import catalogue
from core.errors import LessonError, RecipeError
from core.lesson.scene import Scene, Verdict, plainly
from core.method import METHODS, Method


@cache
def load() -> dict[str, Method]:
    """Every check by its name."""
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        importlib.import_module(module.name)
    return {name: method for (kind, name), method in METHODS.items() if kind == "lesson_check"}


def find(name: str) -> Method:
    """The check of that name. Raises LessonError with the nearest one."""
    try:
        catalogue.find(tuple(method.card for method in load().values()), "lesson_check", name)
    except RecipeError as error:
        raise LessonError(error.problem, error.remedy) from None
    return load()[name]


def settings(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """A check's parameters with its defaults, held to their bounds. Raises LessonError."""
    try:
        return catalogue.fill(find(name).card, given)
    except RecipeError as error:
        raise LessonError(error.problem, error.remedy) from None


def asks(name: str) -> bool:
    """Does the check judge what is typed or chosen, rather than what is done?"""
    return "answer" in inspect.signature(find(name).function).parameters


def tells(name: str) -> tuple[str, ...]:
    """The figures that its verdict has for the lesson's words."""
    return find(name).extra["tells"]


def judge(name: str, params: dict[str, Any], scene: Scene) -> Verdict:
    """What the check says of the scene. What stands in the way of an answer is a verdict too, never an error."""
    return plainly(lambda: find(name)(scene.have(), params))
