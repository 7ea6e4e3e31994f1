"""How far a person is with each lesson, in the workspace folder: one small file, read and written whole. Of two tabs neither loses what the other did."""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from core import folder

FILE = "lessons.json"
_LONGEST = 200  # characters of an answer that are kept


@dataclass(frozen=True)
class Progress:
    """`at`: the step last looked at, from 1. `said`: {step done: what was said of it}. `answers`: {step: the answer last given}."""

    at: int = 0
    said: dict[int, str] = field(default_factory=dict)
    answers: dict[int, str] = field(default_factory=dict)


class Notebook:
    """The file in `place` (the workspace folder). Safe to use from several threads."""

    def __init__(self, place: Path):
        self._file, self._lock = place / FILE, threading.Lock()

    def read(self, lesson: str) -> Progress:
        """Nothing done where the file is missing or cannot be read."""
        return _progress(self._all().get(lesson))

    def visit(self, lesson: str, step: int) -> Progress:
        return self._change(lesson, lambda was: replace(was, at=step))

    def answer(self, lesson: str, step: int, text: str) -> Progress:
        return self._change(lesson, lambda was: replace(was, answers={**was.answers, step: text[:_LONGEST]}))

    def done(self, lesson: str, step: int, said: str) -> Progress:
        return self._change(lesson, lambda was: replace(was, said={**was.said, step: said}))

    def forget(self, lesson: str) -> Progress:
        """Begin anew."""
        return self._change(lesson, lambda _: Progress())

    def _all(self) -> dict[str, Any]:
        try:
            found = folder.read_json(self._file)
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _change(self, lesson: str, how: Any) -> Progress:
        with self._lock:
            everything = self._all()
            was = _progress(everything.get(lesson))
            now = how(was)
            if now != was:
                folder.write_json(self._file, {**everything, lesson: asdict(now)})
            return now


def _progress(value: Any) -> Progress:
    try:
        return Progress(int(value["at"]), _texts(value["said"]), _texts(value["answers"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        return Progress()


def _texts(value: dict[str, Any]) -> dict[int, str]:
    return {int(step): str(text) for step, text in value.items()}
