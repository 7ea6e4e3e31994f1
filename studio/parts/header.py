"""The header: the name, what is open, the light, and Quit. Also what a page load restores, and what the address says."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from studio import jobs, theme
from studio.bench import Bench, plainly

_TEMPLATE = f"""<div class="brand">{theme.LOGO.read_text(encoding="utf-8")}<div><h1 class="name">Prunarium</h1>
<div class="open"></div></div></div>"""
_CODE = Path(__file__).with_name("header.js").read_text(encoding="utf-8")
_TO_ROOM = """() => { if (!window.prunariumReady) return; const url = new URL(location); url.searchParams.set('room', '%s'); url.searchParams.delete('token');
history.replaceState(history.state, '', url); }"""
_NIGHT = """() => { const dark = document.body.classList.toggle('dark');
localStorage.setItem('prunarium_light', dark ? 'dark' : 'light'); }"""
_FIRST = """() => { const kept = localStorage.getItem('prunarium_light'), asked = new URL(location).searchParams.get('__theme');
if (kept && !asked) document.body.classList.toggle('dark', kept === 'dark'); }"""
_FAREWELL = """() => { document.body.innerHTML = '';
const said = document.createElement('p'); said.id = 'farewell'; said.style.cssText = 'font:18px system-ui;margin:20vh auto;max-width:32em;padding:1em';
said.textContent = 'Prunarium has ended. You can close this tab.'; document.body.append(said); }"""


@dataclass(frozen=True)
class Header:
    brand: gr.HTML
    night: gr.Button
    leave: gr.Button
    question: gr.Column
    words: gr.Markdown
    keep: gr.Button
    end: gr.Button
    stay: gr.Button


def component() -> Header:
    with gr.Row(elem_id="head"):
        brand = gr.HTML(value=None, html_template=_TEMPLATE, js_on_load=_CODE, apply_default_css=False, elem_id="brand")
        night = gr.Button("Light / dark", elem_id="night", size="sm")
        leave = gr.Button("Quit", elem_id="quit", size="sm")
    with gr.Column(visible=False, elem_id="leave") as question:
        words = gr.Markdown()
        with gr.Row():
            keep = gr.Button("Quit, let the run finish", variant="primary", size="sm")
            end = gr.Button("Stop the run and quit", variant="stop", size="sm")
            stay = gr.Button("Stay", size="sm")
    return Header(brand, night, leave, question, words, keep, end, stay)


def wire(bench: Bench, head: Header, spots: dict[str, gr.Tab], seen: gr.State, quit_now: threading.Event) -> None:
    """Restore on load, tell of other tabs' changes, and end everything on Quit."""
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

    def restore(request: gr.Request) -> Any:
        opened, asked = bench.workspace.read(), dict(request.query_params)
        room = asked.get("room")
        run = asked.get("run") if asked.get("run") in [path.name for path in _runs(bench)] else opened.run
        threading.Thread(target=_warm, args=(bench,), daemon=True).start()
        chosen = gr.Tabs(selected=room) if room in spots else gr.skip()
        return opened.model, opened.data, opened.revision, run, opened.revision, chosen, _shown(opened.model, opened.data)

    def again(revision: int, model: str | None, data: str | None) -> Any:
        """The page came to the front: has another tab changed what is open?"""
        opened = bench.workspace.read()
        if opened.revision == revision:
            return gr.skip()
        if (opened.model, opened.data) != (model, data):
            gr.Info("Another tab has opened something else; it is shown here now.")
        brand = _shown(opened.model, opened.data)
        budget = (
            opened.revision if opened.model == model else gr.skip()
        )  # told of both, the X-ray would be asked for the old one's layers
        return opened.model, opened.data, budget, opened.run, opened.revision, gr.skip(), brand

    def noted(model: str | None, data: str | None) -> Any:
        """This tab has changed something. What another tab has changed meanwhile is left for `again` to tell."""
        opened = bench.workspace.read()
        if (opened.model, opened.data) != (model, data):
            return gr.skip(), gr.skip()
        return opened.revision, _shown(opened.model, opened.data)

    state = [bench.model, bench.data, bench.budget, bench.run, seen, bench.tabs, head.brand]
    bench.page.load(restore, None, state, **quiet).then(None, None, None, js="() => { window.prunariumReady = true; }")
    bench.page.load(None, None, None, js=_FIRST)
    head.brand.focus(again, [seen, bench.model, bench.data], state, **quiet)
    changed = [signal.change for signal in (bench.model, bench.data, bench.budget, bench.run)]
    gr.on(changed, noted, [bench.model, bench.data], [seen, head.brand], **quiet, trigger_mode="always_last")
    for name, spot in spots.items():
        spot.select(None, None, None, js=_TO_ROOM % name)
    head.night.click(None, None, None, js=_NIGHT)
    _wire_quit(bench, head, quit_now, quiet)


def _wire_quit(bench: Bench, head: Header, quit_now: threading.Event, quiet: dict[str, Any]) -> None:
    def ask() -> Any:
        going = jobs.running(bench.runs)
        if not going:
            threading.Timer(0.6, quit_now.set).start()
            return gr.Column(visible=False), gr.skip(), True
        count = "A run is" if len(going) == 1 else f"{len(going)} runs are"
        return (
            gr.Column(visible=True),
            f"**{count} still going.** It is a process of its own and can finish without the studio.",
            False,
        )

    @plainly
    def end(stop: bool) -> bool:
        for at in jobs.running(bench.runs) if stop else ():
            jobs.stop(at.path)
        threading.Timer(0.6, quit_now.set).start()
        return True

    over = gr.State(False)
    head.leave.click(ask, None, [head.question, head.words, over], **quiet)
    head.keep.click(lambda: end(False), None, over, **quiet)
    head.end.click(lambda: end(True), None, over, **quiet)
    head.stay.click(lambda: gr.Column(visible=False), None, head.question, **quiet)
    over.change(None, None, None, js=_FAREWELL)


def _warm(bench: Bench) -> None:
    """After the page is served: the slow imports of the first run happen now, not when somebody waits for them."""
    jobs.SPARE.warm()


def _runs(bench: Bench) -> list[Path]:
    return [at.path for at in jobs.all_runs(bench.runs)]


def _shown(model: str | None, data: str | None) -> dict[str, str]:
    return {"model": model or "", "data": data or ""}
