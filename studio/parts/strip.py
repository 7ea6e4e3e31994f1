"""The job strip above every room: what the followed run is doing, read from its folder, and the button that stops it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from core.folder import Status, stop_asked
from core.report import final
from studio import jobs
from studio.bench import Bench, plainly
from studio.parts import cards

_TEMPLATE = """<section class="strip" aria-label="Current run" hidden>
<span class="state" role="status"></span><div class="what"><b class="run"></b><span class="rest"></span></div>
<div class="actions"><button class="halt" type="button">Stop</button><button class="away" type="button">Put away</button></div>
<div class="bar" role="progressbar" aria-label="Progress of this stage" aria-valuemin="0" aria-valuemax="100"><i></i></div>
<div class="said"></div></section>"""
_CODE = Path(__file__).with_name("strip.js").read_text(encoding="utf-8")


def component() -> gr.HTML:
    """The strip itself; `wire` gives it life once the rooms' signals stand."""
    return gr.HTML(
        value=None,
        html_template=_TEMPLATE,
        js_on_load=_CODE,
        apply_default_css=False,
        elem_id="strip",
        elem_classes="strip-frame",
    )


def wire(bench: Bench, strip: gr.HTML, timer: gr.Timer, alive: gr.State) -> None:
    """Follow from disk while anything runs. `alive`: names of the runs that this page knew to be running."""

    def look(followed: str | None, before: list[str]) -> Any:
        now = jobs.running(bench.runs)
        at = jobs.status(bench.runs / followed) if followed else None
        names = [one.name for one in now]
        if at and not at.ended and at.name not in names:
            names.append(at.name)  # just asked for: nothing in its folder yet
        gone = [name for name in before if name not in names]
        value = {**shown(at), "others": len([name for name in names if name != followed]), "gone": gone}
        return value, gr.Timer(active=bool(names)), names

    @plainly
    def halt(event: gr.EventData) -> Any:
        path = bench.path_of(str((event._data or {}).get("name", "")))
        jobs.stop(path)
        return shown(jobs.status(path))

    def put_away() -> Any:
        bench.workspace.change(run=None)
        return {}, None

    def has_ended(event: gr.EventData) -> Any:
        return str((event._data or {}).get("name", ""))

    after = [strip, timer, alive]
    light: dict[str, Any] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}
    told: dict[str, Any] = {
        "show_progress": "hidden",
        "api_visibility": "private",
    }  # a State's change is heard after queued events only
    bench.run.change(look, [bench.run, alive], after, **light, trigger_mode="multiple")
    timer.tick(look, [bench.run, alive], after, **light, trigger_mode="once")
    strip.stop(halt, None, strip, **light)
    strip.clear(put_away, None, [strip, bench.run], **told)
    strip.apply(has_ended, None, bench.ended, **told, trigger_mode="multiple")


def shown(at: Status | None) -> dict[str, Any]:
    """A run's state as the strip draws it; empty where there is no run."""
    if at is None:
        return {}
    seconds = (at.ended_s - at.started_s) if at.ended_s else None
    return {
        "name": at.name,
        "state": at.state,
        "ended": at.ended,
        "stopping": _asked(at),
        "stage": at.stage.replace("_", " "),
        "done": at.done,
        "total": at.total,
        "seconds_left": at.seconds_left,
        "seconds": seconds,
        "values": _outcome(at) or _told(at),
        "said": f"{at.problem} {at.remedy}".strip(),
    }


def _told(at: Status) -> list[list[str]]:
    """The last figures that a run told while it worked."""
    return [[name, f"{value:.4g}"] for name, value in list(at.values.items())[-3:] if isinstance(value, (int, float))]


def _outcome(at: Status) -> list[list[str]]:
    """What a finished pruning run came to: its main figure, dense and at the end."""
    report = (jobs.report(at.path) if at.state == "done" else None) or {}
    dense, end = report.get("dense") or {}, final(report)[1]
    key = cards.main_figure(end, cards.other_tokens(report))
    if dense.get(key) is None or end.get(key) is None:
        return []
    return [[cards.FIGURES[key][0].lower(), f"{cards.written(key, dense[key])} → {cards.written(key, end[key])}"]]


def _asked(at: Status) -> bool:
    try:
        return stop_asked(at.path)
    except OSError:
        return False
