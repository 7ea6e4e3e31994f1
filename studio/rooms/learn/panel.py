"""The lesson beside every room: words, what to do, what the check says, and the way on. Also what a link such as `?lesson=NAME&step=3` restores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from core import catalogue
from core.errors import PrunariumError
from core.lesson import Lesson, Step
from core.lesson.scene import Verdict
from core.lesson.schema import BARS
from studio.bench import Bench
from studio.rooms.learn import learning
from studio.rooms.learn.progress import Notebook, Progress
from studio.rooms.learn.text import blocks
from studio.rooms.prune.saying import sentence

_CODE = Path(__file__).with_name("panel.js").read_text(encoding="utf-8")
_LONGEST = 200  # characters of an answer that are read
_TOLD: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}  # queued: only then do signals reach other rooms
_QUIET = {**_TOLD, "queue": False}
SHUT: dict[str, Any] = {"open": False}


def component() -> gr.HTML:
    """The panel, shut. `wire` gives it life."""
    return gr.HTML(
        value=SHUT,
        html_template='<aside class="lesson" aria-label="Lesson" hidden></aside>',
        js_on_load=_CODE,
        apply_default_css=False,
        elem_id="lesson",
        elem_classes="lesson-frame",
    )


def wire(bench: Bench, panel: gr.HTML, at: gr.State, rooms: dict[str, str]) -> None:
    """`at`: [lesson, step] of this tab, or None. `rooms`: {id: label}."""
    notes = Notebook(bench.workspace.folder)
    play = _Play(bench, notes, rooms)
    panel.went(play.went, None, [panel, at, bench.tabs], **_TOLD)
    panel.left(play.left, None, [panel, at], **_TOLD)
    panel.answered(play.answered, None, panel, **_TOLD)
    panel.acted(play.acted, None, [panel, bench.tabs, bench.model, bench.budget, bench.run], **_TOLD)
    bench.page.load(play.linked, None, [panel, at, bench.tabs], **_TOLD)
    signals = [bench.model.change, bench.budget.change, bench.ended.change]
    gr.on(signals, play.again, at, panel, **_QUIET, trigger_mode="always_last")
    panel.looked(play.again, at, panel, **_QUIET, trigger_mode="always_last")


class _Play:
    """The handlers of the panel. Every one that can fail says why in the panel, where the person is looking."""

    def __init__(self, bench: Bench, notes: Notebook, rooms: dict[str, str]) -> None:
        self.bench, self.notes, self.rooms = bench, notes, rooms

    def linked(self, request: gr.Request) -> Any:
        """What the address asks for: a lesson and a step, or nothing."""
        asked = dict(request.query_params)
        if "lesson" not in asked:
            return gr.skip()
        return self._open(asked["lesson"], asked.get("step", "1"), go=asked.get("room") not in self.rooms)

    def went(self, event: gr.EventData) -> Any:
        """To a step: by Back, Next, a dot, or a card of the Learn room."""
        told = event._data or {}
        return self._open(str(told.get("lesson", "")), told.get("step", 1), anew=bool(told.get("anew")))

    def _open(self, name: str, step: Any, *, go: bool = True, anew: bool = False) -> Any:
        try:
            taught = learning.find(name, self.bench.folders)
        except PrunariumError as error:
            return {"open": True, "broken": str(error), "wrong": "There is no such lesson here"}, None, gr.skip()
        number, moved = learning.clamp(taught, _whole(step))
        if anew:
            self.notes.forget(name)
        self.notes.visit(name, number)
        room = taught.steps[number - 1].doing.room
        return (
            self._drawn(taught, number, told=moved),
            [name, number],
            gr.Tabs(selected=room) if go and room in self.rooms else gr.skip(),
        )

    def left(self) -> Any:
        return SHUT, None

    def again(self, at: list[Any] | None) -> Any:
        """The bars moved, a run ended, another model is open: is it done now?"""
        if not at:
            return gr.skip()
        try:
            return {**self._drawn(learning.find(at[0], self.bench.folders), int(at[1]), told=None), "again": True}
        except (PrunariumError, IndexError):
            return gr.skip()  # the file was changed under the lesson: the next step says what is wrong

    def answered(self, event: gr.EventData) -> Any:
        """Something was typed or chosen."""
        told, text = event._data or {}, str((event._data or {}).get("text", ""))[:_LONGEST]
        try:
            taught, number = self._place(told)
            self.notes.answer(taught.name, number, text)
            verdict = learning.judged(self.bench, taught, number, self.notes, text)
        except PrunariumError as error:
            return _with(told, str(error))
        return self._drawn(taught, number, verdict=verdict)

    def acted(self, event: gr.EventData) -> Any:
        """What a step sets up: the bars, a run, the lesson's model, or the room. Outputs: panel, tabs, model, budget, run."""
        told = event._data or {}
        try:
            taught, number = self._place(told)
            return self._act(str(told.get("what")), taught, number)
        except PrunariumError as error:
            return _with(told, str(error)), *[gr.skip()] * 4

    def _act(self, what: str, taught: Lesson, number: int) -> Any:
        bench, still = self.bench, gr.skip()
        room = taught.steps[number - 1].doing.room
        if what == "model":
            wanted = bench.admit(taught.head.model)
            if not learning.is_known(bench, taught):  # the Model room opens it, and says how far it is
                return self._drawn(taught, number), gr.Tabs(selected="model"), wanted, still, still
            bench.workspace.change(model=wanted)
            return self._drawn(taught, number), still, wanted, still, still
        if what == "budget":
            opened = bench.workspace.set_budget(learning.budget_of(bench, taught, number))
            return (
                self._drawn(taught, number, told="The bars are set. Undo in the Budget room brings yours back."),
                still,
                still,
                opened.revision,
                still,
            )
        if what == "recipe":
            run = bench.start(learning.renamed(learning.recipe_of(bench, taught, number), taught))
            return self._drawn(taught, number, told="It runs; the strip above says how far it is."), still, still, still, run
        return still, gr.Tabs(selected=room) if room in self.rooms else still, still, still, still

    def _place(self, told: dict[str, Any]) -> tuple[Lesson, int]:
        taught = learning.find(str(told.get("lesson", "")), self.bench.folders)
        return taught, learning.clamp(taught, _whole(told.get("step")))[0]

    def _drawn(self, taught: Lesson, number: int, *, told: str | None = "", verdict: Verdict | None = None) -> dict[str, Any]:
        """A step as the page draws it. Without a verdict what was *done* is looked at anew; what was answered keeps what was said of it. `told` None: what
        was told before stays, until the step is done."""
        at = taught.steps[number - 1]
        if verdict is None and at.check and not at.doing.ask:
            verdict = learning.judged(self.bench, taught, number, self.notes)
        text = learning.marked(self.notes, taught, number, verdict) if verdict else ""
        progress = self.notes.read(taught.name)
        kept = progress.said.get(number, "")
        state = (
            "right"
            if verdict and verdict.right
            else "not_yet"
            if verdict and (at.doing.ask or not kept)
            else "right"
            if kept
            else ""
        )
        return {
            "open": True,
            "lesson": taught.name,
            "title": taught.head.title,
            "step": number,
            "titles": [step.title for step in taught.steps],
            "done": [n for n in range(1, len(taught.steps) + 1) if n in progress.said],
            "checked": [n for n, step in enumerate(taught.steps, 1) if step.check],
            "heading": at.title,
            "blocks": blocks(at.words),
            "ask": self._ask(taught, at),
            "answer": progress.answers.get(number, ""),
            "state": state,
            "said": kept if state == "right" and not (verdict and verdict.right) else text,
            "hint": blocks(at.doing.hint),
            "told": None if told is None and state != "right" else told or _skipped(taught, number, progress),
            "paper": _paper(taught) if number == len(taught.steps) else None,
            **self._offers(taught, number),
        }

    def _ask(self, taught: Lesson, at: Step) -> dict[str, Any] | None:
        ask = at.doing.ask
        if ask is None:
            return None
        options = (
            []
            if ask.choose is None
            else [f"Block {n}" for n in range(self._blocks(taught))]
            if ask.among == "blocks"
            else list(ask.among)
        )
        return {"question": ask.number or ask.choose, "unit": ask.unit, "options": options}

    def _blocks(self, taught: Lesson) -> int:
        return len(set(learning.scene(self.bench, taught, 1, self.notes).blocks.values()))

    def _offers(self, taught: Lesson, number: int) -> dict[str, Any]:
        """The buttons that set a step up. Offered, never pressed for the person: a reload must not undo what a hand did."""
        doing, wrong = taught.steps[number - 1].doing, learning.needs_model(self.bench, taught)
        run = _run_words(self.bench, taught, number) if doing.recipe and not wrong else ""
        return {
            "room": [doing.room, self.rooms[doing.room]] if doing.room in self.rooms else None,
            "model": [wrong, taught.head.model] if wrong else None,
            "budget": doing.budget is not None and not wrong,
            "recipe": run,
        }


def _run_words(bench: Bench, taught: Lesson, number: int) -> str:
    """What the run that a step offers will do, in one sentence."""
    whole = taught.recipes[taught.steps[number - 1].doing.recipe or ""]
    try:
        whole = learning.recipe_of(bench, taught, number)
    except PrunariumError:
        by_hand = any(step.prune and BARS in step.prune.allocation.shares for step in whole.steps)
        return "Remove what your bars say, and measure." if by_hand else sentence(whole, catalogue.load())
    return sentence(whole, catalogue.load())


def _skipped(taught: Lesson, number: int, progress: Progress) -> str:
    """Skipping ahead is allowed, and said."""
    missed = [n for n, step in enumerate(taught.steps[: number - 1], 1) if step.check and n not in progress.said]
    if not missed:
        return ""
    which = f"Step {missed[0]} is" if len(missed) == 1 else f"{len(missed)} earlier steps are"
    return f"{which} still open. That is fine: go on, or come back by the dots."


def _paper(taught: Lesson) -> dict[str, str]:
    paper = taught.head.paper
    where = f"arXiv {paper.arxiv}" if paper.arxiv else ""
    return {"title": paper.title, "by": f"{paper.authors}, {paper.year}", "where": where}


def _with(told: dict[str, Any], problem: str) -> dict[str, Any]:
    """The same step with a sentence of what stands in the way."""
    return {"open": True, "same": [told.get("lesson"), told.get("step")], "problem": problem}


def _whole(step: Any) -> int:
    """A step as an address or a page names it; what is no number is the first."""
    try:
        return int(str(step)[:9])
    except ValueError:
        return 0
