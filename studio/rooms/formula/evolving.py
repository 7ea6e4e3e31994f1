"""The lower half of the Formula lab: a genetic search as a run of its own, followed from its folder, stopped, taken up again, its best adopted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from core.folder import stop_asked
from studio import jobs
from studio.bench import Bench, plainly
from studio.charts import formula as charts
from studio.parts import cards, facts
from studio.parts.plotview import PlotlyView
from studio.rooms.formula import formulas

_INTRO = """### Let it evolve
Formulas are drawn, paired and changed; those that leave the lowest perplexity live on. The share is the one above."""
_NONE = "No search yet. One of this size takes a minute or two on a quiet machine."
_TOLD: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}  # queued: only then do signals reach other rooms
_QUIET = {**_TOLD, "queue": False}


@dataclass(frozen=True)
class _Controls:
    population: gr.Slider
    generations: gr.Slider
    mine: gr.Checkbox
    go: gr.Button
    halt: gr.Button
    on: gr.Button


@dataclass(frozen=True)
class _Shown:
    """What is told of the newest search; `followed`: the name of its run."""

    nothing: gr.HTML
    part: gr.Column
    title: gr.HTML
    curve: PlotlyView
    best: gr.Dataframe
    use: gr.Button
    timer: gr.Timer
    followed: gr.State


def build(bench: Bench, text: gr.Textbox, share: gr.Slider) -> None:
    gr.Markdown(_INTRO)
    with gr.Row(elem_classes="split"):
        with gr.Column(scale=5, min_width=300):
            controls = _controls()
        with gr.Column(scale=7, min_width=300):
            shown = _shown()
    _wire(bench, text, share, controls, shown)


def _controls() -> _Controls:
    population = gr.Slider(4, 64, 16, step=4, label="Formulas in a generation", elem_id="evolve-population")
    generations = gr.Slider(1, 40, 8, step=1, label="Generations", elem_id="evolve-generations")
    mine = gr.Checkbox(True, label="The first generation holds my formula", elem_id="evolve-mine")
    with gr.Row():
        go = gr.Button("Evolve", variant="primary", elem_id="evolve-go", scale=2, min_width=110)
        halt = gr.Button("Stop", elem_id="evolve-stop", interactive=False, scale=1, min_width=90)
        on = gr.Button("Go on", elem_id="evolve-on", interactive=False, scale=1, min_width=90)
    return _Controls(population, generations, mine, go, halt, on)


def _shown() -> _Shown:
    nothing = cards.hint(_NONE, elem_id="evolve-none")
    with gr.Column(visible=False) as part:
        title = facts.component("evolve-finding")
        curve = PlotlyView(height=260, alt="The best perplexity so far over the formulas tried", elem_id="evolve-curve")
        best = gr.Dataframe(
            headers=["Formula", "First look", "Second look", "Parts"], datatype="str", interactive=False,
            label="Best formulas and their perplexity; choose one to put it above",
            elem_id="evolve-best", max_height=280, buttons=["copy"], column_widths=["38%", "23%", "23%", "16%"], wrap=True,
        )  # fmt: skip
        use = gr.Button("Use the best in Prune", elem_id="evolve-use", interactive=False)
    return _Shown(nothing, part, title, curve, best, use, gr.Timer(1.0, active=False), gr.State(None))


def _wire(bench: Bench, text: gr.Textbox, share: gr.Slider, controls: _Controls, shown: _Shown) -> None:
    everything = [*vars(shown).values(), controls.go, controls.halt, controls.on]

    def look(source: str | None, run: str | None) -> Any:
        return _told(formulas.newest(bench, formulas.model_for(bench, source), run))

    @plainly
    def start(expression: str, percent: float, size: float, count: float, with_mine: bool, source: str | None) -> str:
        own = expression.strip() if with_mine and not formulas.read_as(expression)["wrong"] else None
        return bench.start(formulas.search_recipe(formulas.model_for(bench, source), percent, size, count, own))

    @plainly
    def stop(name: str) -> Any:
        jobs.stop(bench.path_of(name))
        return gr.Button("Stopping", interactive=False)

    @plainly
    def resume(name: str) -> str:
        return bench.start(formulas.again(bench, name))

    def chosen(event: gr.SelectData) -> str:
        return str(event.row_value[0])

    def use(source: str | None, run: str | None, before: list[Any] | None) -> Any:
        search = formulas.newest(bench, formulas.model_for(bench, source), run)
        if search is None or not search.best:
            return gr.skip()
        return gr.Tabs(selected="prune"), [(before or [0])[0] + 1, search.best[0]["formula"], 100 * search.recipe.evolve.sparsity]

    signals = [bench.model.change, bench.run.change, bench.ended.change]
    gr.on(signals, look, [bench.model, bench.run], everything, trigger_mode="multiple", **_QUIET)
    shown.timer.tick(look, [bench.model, bench.run], everything, **_QUIET)
    asked = [text, share, controls.population, controls.generations, controls.mine, bench.model]
    controls.go.click(start, asked, bench.run, **_TOLD)
    controls.halt.click(stop, shown.followed, controls.halt, **_TOLD)
    controls.on.click(resume, shown.followed, bench.run, **_TOLD)
    shown.best.select(chosen, None, text, **_QUIET)
    shown.use.click(use, [bench.model, bench.run, bench.formula], [bench.tabs, bench.formula], **_TOLD)


def _told(search: formulas.Search | None) -> tuple[Any, ...]:
    """What is shown of the newest search, then its buttons, in the order of the components."""
    if search is None:
        buttons = gr.Button(interactive=True), gr.Button("Stop", interactive=False), gr.Button(interactive=False)
        return (
            _NONE,
            gr.Column(visible=False),
            None,
            None,
            [],
            gr.Button(interactive=False),
            gr.Timer(active=False),
            None,
            *buttons,
        )
    at, found, begun = search.status, search.found, bool(search.curve or search.status.ended)
    stopping = not at.ended and stop_asked(at.path)
    return (
        "" if begun else "The search has begun: inputs and gradients are looked at once, for all formulas.",
        gr.Column(visible=begun),
        facts.said(charts.evolution_finding(found, at.ended), _note(search), badge="measured" if search.best else ""),
        charts.evolution(search.curve, (found or {}).get("references") or {}),
        charts.best_rows(found),
        gr.Button(interactive=bool(search.best)),
        gr.Timer(active=not at.ended),
        at.name,
        gr.Button(interactive=at.ended),
        gr.Button("Stopping" if stopping else "Stop", interactive=not at.ended and not stopping),
        gr.Button(interactive=at.ended and found is not None),
    )


def _note(search: formulas.Search) -> str:
    """What a search is doing, how it ended, and what its best is worth elsewhere."""
    at, asked = search.status, search.recipe.evolve.generations
    done = int((search.found or {}).get("generations", -1))
    if at.state == "failed":
        return f"The search failed. {at.problem} {at.remedy}"
    if at.ended and at.state != "done":
        return f"The search was {at.state} in generation {done + 1} of {asked}; Go on takes it up where it was. {charts.proof(search.found)}".strip()
    if at.ended:
        return charts.proof(search.found)
    if done >= asked:
        return "The best are looked at again on more text, then the first of them behind a real prune step, on text that chose nothing."
    return f"Generation {done + 1} of {asked}." if done >= 0 else "The first generation is drawn."
