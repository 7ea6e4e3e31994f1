"""A lesson file taken apart: its steps by their headings, a step into words and block, YAML into sections. Part of `core.lesson`. Torch-free."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, ValidationError

from core.errors import LessonError
from core.recipe_words import said
from core.yaml_text import plain


def sections(body: str, first: int) -> list[tuple[str, str, int]]:
    """(title, text below it, line) of each `## ` heading outside of fenced blocks."""
    out: list[tuple[str, list[str], int]] = []
    fenced = False
    for number, line in enumerate(body.split("\n"), first):
        fenced ^= line.startswith("```")
        if not fenced and line.startswith("## "):
            out.append((line[3:].strip(), [], number))
        elif out:
            out[-1][1].append(line)
    return [(title, "\n".join(lines), number) for title, lines, number in out]


def parted(text: str, line: int) -> tuple[str, dict[str, Any]]:
    """A step's words, and what its yaml block says."""
    parts = re.split(r"^```(?:yaml)?[ \t]*$\n?", text, flags=re.MULTILINE)
    if len(parts) == 1:
        return text.strip(), {}
    if len(parts) != 3:
        raise LessonError("A step has one block fenced with ```yaml and ```.", "Close the block, and make one of several.")
    at = line + 1 + parts[0].count("\n")
    value = yaml(parts[1], at + 1)
    if not isinstance(value, dict):
        raise LessonError("The step's block is no mapping of keys to values.", "See assets/lessons for examples.")
    return f"{parts[0].strip()}\n\n{parts[2].strip()}".strip(), value


def yaml(text: str, line: int) -> Any:
    """A lesson's YAML, whose first line is the file's `line`-th."""
    return plain(text, "That", LessonError, line - 1)


def valid(kind: type[BaseModel], value: Any, called: str) -> Any:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        told = said(error, kind, called, "assets/lessons")
        raise LessonError(told.problem, told.remedy) from None
