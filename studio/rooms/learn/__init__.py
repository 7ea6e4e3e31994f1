"""Learn: short lessons that are done in the other rooms, on a model that is really there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from core.lesson import Looked
from studio.bench import Bench
from studio.parts.plotview import table_twin
from studio.rooms.learn import learning
from studio.rooms.learn.progress import Notebook, Progress

_INTRO = """## Learn
Short lessons that you do rather than read: each leads you through the rooms, asks, and checks what you did on the model itself."""
_OWN = """A lesson is one Markdown file. Put your own into a folder that is opened with `--open DIR`, and it stands here too;
`python3 launch.py lesson check FILE` says what is wrong with one. How to write them: docs/lessons.md."""
_CODE = Path(__file__).with_name("lesson_cards.js").read_text(encoding="utf-8")
_QUIET: dict[str, Any] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}
_TOLD: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def build(bench: Bench) -> None:
    gr.Markdown(_INTRO)
    notes = Notebook(bench.workspace.folder)
    cards = gr.HTML(
        value=None,
        html_template='<div class="lessons" role="region" aria-label="Lessons"></div>',
        js_on_load=_CODE,
        apply_default_css=False,
        elem_id="lessons",
        elem_classes="drawn",
    )
    table = table_twin("the lessons", ["Lesson", "Minutes", "Model", "Steps", "Tasks done", "Paper"])
    gr.Markdown(_OWN, elem_classes="quiet-note")

    def draw() -> Any:
        found = learning.shelf(bench.folders)
        read = {one.name: notes.read(one.name) for one in found}
        return [card(one, read[one.name]) for one in found], [row(one, read[one.name]) for one in found]

    bench.page.load(draw, None, [cards, table], **_QUIET)
    bench.tabs.select(draw, None, [cards, table], **_QUIET)


def card(one: Looked, at: Progress) -> dict[str, Any]:
    """A lesson as its card shows it; one that cannot be taught says what is wrong."""
    if one.lesson is None:
        more = f" And {len(one.problems) - 1} more." if len(one.problems) > 1 else ""
        return {"name": one.name, "title": one.name, "broken": f"{one.problems[0]}{more}"}
    head, tasks, done = one.lesson.head, _tasks(one), _done(one, at)
    return {
        "name": one.name,
        "title": head.title,
        "about": head.about,
        "small": f"{head.minutes} minutes · {len(one.lesson.steps)} steps · {head.model}",
        "far": done / tasks if tasks else 0.0,
        "said": f"{done} of {tasks} tasks done" if at.at else "Not begun",
        "step": min(max(at.at, 1), len(one.lesson.steps)),
        "begun": bool(at.at),
        "finished": bool(tasks) and done == tasks,
    }


def row(one: Looked, at: Progress) -> list[str]:
    """The same as a row of the table twin."""
    if one.lesson is None:
        return [one.name, "", "", "", str(one.problems[0]), ""]
    head = one.lesson.head
    paper = f"{head.paper.authors.split(',')[0]} {head.paper.year}"
    return [head.title, str(head.minutes), head.model, str(len(one.lesson.steps)), f"{_done(one, at)} of {_tasks(one)}", paper]


def _tasks(one: Looked) -> int:
    return sum(1 for step in one.lesson.steps if step.check) if one.lesson else 0


def _done(one: Looked, at: Progress) -> int:
    return sum(1 for n, step in enumerate(one.lesson.steps, 1) if step.check and n in at.said) if one.lesson else 0
