"""The lower half of the Formula lab: a genetic search as a run of its own, followed from its folder, stopped, taken up again, its best adopted."""

from __future__ import annotations

from typing import Any

import gradio as gr

from studio import cards, facts, formulas, jobs
from studio.bench import Bench, plainly
from studio.charts import formula as charts
from studio.plotview import PlotlyView

_TOLD: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}  # queued: only then do signals reach other rooms
_QUIET = {**_TOLD, "queue": False}


def build(bench: Bench, text: gr.Textbox, share: gr.Slider) -> None:
    """The lower half: a genetic search as a run of its own."""
    gr.Markdown(
        "### Let it evolve\nFormulas are drawn, paired and changed; those that leave the lowest perplexity live on. The share is the one above."
    )
    with gr.Row(elem_classes="split"):
        with gr.Column(scale=5, min_width=300):
            population = gr.Slider(4, 64, 16, step=4, label="Formulas in a generation", elem_id="evolve-population")
            generations = gr.Slider(1, 40, 8, step=1, label="Generations", elem_id="evolve-generations")
            mine = gr.Checkbox(True, label="The first generation holds my formula", elem_id="evolve-mine")
            with gr.Row():
                go = gr.Button("Evolve", variant="primary", elem_id="evolve-go", scale=2)
                halt = gr.Button("Stop", elem_id="evolve-stop", interactive=False, scale=1, min_width=90)
                on = gr.Button("Go on", elem_id="evolve-on", interactive=False, scale=1, min_width=90)
        with gr.Column(scale=7, min_width=300):
            nothing = cards.hint("No search yet. A search of this size takes a minute or two.", elem_id="evolve-none")
            with gr.Column(visible=False) as part:
                title = facts.component("evolve-finding")
                curve = PlotlyView(height=260, alt="The best perplexity so far over the formulas tried", elem_id="evolve-curve")
                best = gr.Dataframe(
                    headers=["Formula", "Perplexity", "Parts", "Generation"], datatype="str", interactive=False, label="Best formulas",
                    show_label=False, elem_id="evolve-best", max_height=260, buttons=["copy"], column_widths=["55%", "17%", "12%", "16%"],
                )  # fmt: skip
                cards.hint("Choose a row to put its formula into the box above.", elem_id="evolve-hint")
                adopt = gr.Button("Use the best in Prune", elem_id="evolve-use", interactive=False)
    followed, timer = gr.State(None), gr.Timer(1.0, active=False)
    shown = [nothing, part, title, curve, best, go, halt, on, adopt, timer, followed]

    def look(source: str | None) -> Any:
        return _search(formulas.newest(bench, formulas.model_for(bench, source)))

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

    def use(source: str | None, before: list[Any] | None) -> Any:
        search = formulas.newest(bench, formulas.model_for(bench, source))
        if search is None or not search.best:
            return gr.skip()
        percent = 100 * search.recipe.evolve.sparsity
        return gr.Tabs(selected="prune"), [(before or [0])[0] + 1, search.best[0]["formula"], percent]

    gr.on([bench.model.change, bench.run.change, bench.ended.change], look, bench.model, shown, trigger_mode="multiple", **_QUIET)
    timer.tick(look, bench.model, shown, **_QUIET)
    go.click(start, [text, share, population, generations, mine, bench.model], bench.run, **_TOLD)
    halt.click(stop, followed, halt, **_TOLD)
    on.click(resume, followed, bench.run, **_TOLD)
    best.select(chosen, None, text, **_QUIET)
    adopt.click(use, [bench.model, bench.formula], [bench.tabs, bench.formula], **_TOLD)


def _search(search: formulas.Search | None) -> tuple[Any, ...]:
    """What the lower half shows of the newest search, in the order of its components."""
    if search is None:
        return (
            "No search yet.",
            gr.Column(visible=False),
            None,
            None,
            [],
            gr.Button(interactive=True),
            *[gr.Button(interactive=False)] * 3,
            gr.Timer(active=False),
            None,
        )
    at, found = search.status, search.found
    note = charts.proof(found)
    if at.state in ("failed", "interrupted", "stopped"):
        note = f"The search {'was ' if at.state != 'failed' else ''}{at.state}. {at.problem if at.state == 'failed' else ''} {at.remedy} {note}".strip()
    elif not at.ended:
        note = _now(search)
    references = (found or {}).get("references") or {}
    return (
        "" if search.curve or at.ended else "The search has begun: inputs and gradients are looked at once, for all formulas.", gr.Column(visible=bool(search.curve or at.ended)), facts.said(charts.evolution_finding(found, at.ended), note, badge="measured" if search.best else ""),
        charts.evolution(search.curve, references), charts.best_rows(found), gr.Button(interactive=at.ended),
        gr.Button("Stop", interactive=not at.ended), gr.Button("Go on", interactive=at.ended and found is not None), gr.Button(interactive=bool(search.best)),
        gr.Timer(active=not at.ended), at.name,
    )  # fmt: skip


def _now(search: formulas.Search) -> str:
    """What a search that goes on is doing."""
    done, asked = int((search.found or {}).get("generations", -1)), search.recipe.evolve.generations
    if done >= asked:
        return "The best is being measured behind a real prune step, on text that chose nothing."
    return f"Generation {done + 1} of {asked}." if done >= 0 else "The first generation is drawn."
