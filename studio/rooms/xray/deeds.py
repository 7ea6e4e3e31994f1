"""What is done with an answer of the X-ray room: choose a run of blocks and prune it, or leave one weight out."""

from __future__ import annotations

from typing import Any

import gradio as gr

from core.errors import PrunariumError
from studio.bench import Bench, plainly
from studio.parts.plotview import picked
from studio.rooms.xray import looks
from studio.rooms.xray.dive import DEEP
from studio.rooms.xray.looks import Asked
from studio.rooms.xray.more import NO_RUN, More, shown

_TOLD: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def wire(bench: Bench, more: More) -> None:
    _wire_runs(bench, more)
    _wire_deed(bench, more)


def _wire_runs(bench: Bench, more: More) -> None:
    """A run of blocks is chosen in the map, or by keyboard in the list beside it."""

    def chosen(source: str | None, question: str, first: str, count: str) -> Any:
        seen = bench.observed(source)
        if seen is None or question != "runs" or not (first.isdigit() and count.isdigit()):
            return gr.skip()
        if int(first) + int(count) > len(seen.data["blocks"]):
            return gr.skip()
        asked = Asked("runs", "", "", "", "", 0.0, "", (int(first), int(count)))
        return shown(asked, looks.look(bench, source or "", seen, asked))

    def of_click(source: str | None, question: str, held: Any, event: gr.EventData) -> Any:
        told = picked(event)
        if question == "runs" and told.rev != (held or NO_RUN)["rev"]:
            gr.Info("The picture has changed meanwhile; click again.")
            return gr.skip()
        return chosen(source, question, str(told.x), str(told.y))

    def of_list(source: str | None, question: str, run: str | None) -> Any:
        first, _, count = (run or "").partition(" ")
        return chosen(source, question, first, count)

    more.views[0].select(of_click, [bench.model, more.question, more.run], more.outputs(), **DEEP)
    more.runs.input(of_list, [bench.model, more.question, more.runs], more.outputs(), **DEEP)


def _wire_deed(bench: Bench, more: More) -> None:
    """The button: prune the chosen run, or leave the chosen weight out."""

    @plainly
    def deed(source: str | None, question: str, held: Any, spike: str | None) -> Any:
        seen = bench.observed(source)
        if seen is None:
            return gr.skip()
        if question == "spikes":
            return gr.skip(), *looks.ablated(bench, source or "", spike or "")
        run = (held or NO_RUN)["run"]
        if not run:
            raise PrunariumError("No run of blocks is chosen.", "Click one in the map, or choose it in the list.")
        return bench.start(looks.removal(bench, source or "", seen, (int(run[0]), int(run[1])))), gr.skip(), gr.skip()

    more.deed.click(deed, [bench.model, more.question, more.run, more.spike], [bench.run, more.told, more.texts], **_TOLD)
