"""What a pruning run tells while it works, and what it found: cards, layers, texts. The lower half of the pruning room."""

from __future__ import annotations

from typing import Any

import gradio as gr

from core import catalogue, folder
from core.cost import said
from core.errors import ResourceError
from core.recipe import Recipe
from studio import jobs, runs_table
from studio.bench import Bench, plainly
from studio.charts import live
from studio.charts.run import layers_figure, layers_finding
from studio.parts import cards, facts
from studio.parts.plotview import PlotlyView, table_twin
from studio.rooms.prune import diverging, stages

_QUIET: dict[str, Any] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}
_TELL: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}  # only queued events make a State's change heard
_NONE_YET = "No pruning run yet. Choose on the left, read the plan, press Prune."


def results(bench: Bench) -> None:
    """What the followed run tells while it works, and what it found in the end."""
    nothing = cards.hint(_NONE_YET, elem_id="no-run")
    with gr.Column(visible=False) as live_part:
        resume = gr.Button("Go on with this run", variant="primary", size="sm", visible=False, elem_id="run-resume")
        steps = facts.component("run-stages")
        told = facts.component("live-finding")
        curve = PlotlyView(
            height=240,
            alt="Quality block by block while it prunes, and the loss while it trains",
            elem_id="live-curve",
            visible=False,
        )
        live_table = table_twin("curves", ["Figure", "Items done", "Value"])
    with gr.Column(visible=False) as done_part:
        figures = cards.figure_cards(elem_id="prune-figures")
        saved = cards.hint("", elem_id="prune-saved")
        figure_table = table_twin("figures", ["Figure", "Dense", "Pruned", "Recovered"])
        layers_said = facts.component("layers-finding")
        layers = PlotlyView(
            height=260, alt="A bar for each layer: the share removed, and the error in its output", elem_id="prune-layers"
        )
        layer_table = table_twin("layers", ["Layer", "Asked %", "Removed %", "Output error"])
        apart = facts.component("prune-divergence")
        texts = cards.text_cards(elem_id="prune-texts")
        token_table = table_twin("tokens", diverging.HEADERS)
    timer = gr.Timer(1.0, active=False)
    found = [figures, saved, figure_table, layers_said, layers, layer_table, apart, texts, token_table]
    everything = [nothing, live_part, resume, steps, told, curve, live_table, done_part, *found, timer]

    def look(name: str | None) -> tuple[Any, ...]:
        at = jobs.status(bench.runs / name) if name else None
        return _seen(at) if at else _nothing(_NONE_YET)

    @plainly
    def go_on(name: str) -> str:
        at = folder.status(bench.path_of(name))
        recipe = runs_table.recipe_of(at)
        if recipe is None or not at.ended:
            raise ResourceError("This run cannot be taken up.", "Start it again from the Runs room.")
        return bench.start(recipe.model_copy(update={"resume": str(at.path)}))

    resume.click(go_on, bench.run, bench.run, **_TELL)
    bench.run.change(look, bench.run, everything, trigger_mode="multiple", **_QUIET)
    bench.ended.change(look, bench.run, everything, trigger_mode="multiple", **_QUIET)
    timer.tick(look, bench.run, everything, **_QUIET)


def _seen(at: folder.Status) -> tuple[Any, ...]:
    """The outputs of `results` for a run: its stages and curves so far, and its figures once it has ended."""
    recipe = runs_table.recipe_of(at)
    if recipe is None or not recipe.steps:
        return _nothing(_NONE_YET)
    working = _working(at, recipe)
    report = jobs.report(at.path) if at.ended else None
    if not report or not report.get("dense"):
        return _waiting(at), *working, *_hidden()[6:], gr.Timer(active=not at.ended)
    figures = cards.moments(report), _where(at, report), cards.figure_rows(report)
    prompts = list(recipe.measure.generate)
    said = diverging.finding(report), diverging.texts(report, prompts), diverging.rows(report)
    return (
        "",
        *working,
        gr.Column(visible=True),
        *figures,
        facts.said(layers_finding(report.get("layers") or []), "", "measured") if report.get("layers") else None,
        layers_figure(report.get("layers") or []),
        layer_rows(report),
        *said,
        gr.Timer(active=False),
    )


def _working(at: folder.Status, recipe: Recipe) -> tuple[Any, ...]:
    """Outputs: the live part, stages, what the curves say, the curves, their table."""
    events, _ = folder.read_events(at.path)
    points = live.told(events)
    lines = stages.told(recipe, events, at.ended) if events else []
    total = "" if at.ended_s is None else f"{at.state} after {at.ended_s - at.started_s:.1f} s"
    curve = live.live_figure(points)
    cut = at.state in ("stopped", "interrupted") or (at.state == "failed" and (at.path / folder.RESUME).exists())
    return (
        gr.Column(visible=bool(lines)),
        gr.Button(visible=cut),
        facts.said(
            f"Stages: {total}" if total else "Stages",
            " ".join([*([_repeats(at, lines)] if cut else []), *_notes(events)]),
            "",
            lines,
        ),
        facts.said(live.finding(points), live.NOTE if "running_perplexity" in points else "", "measured") if points else None,
        PlotlyView(value=curve, visible=True) if curve else PlotlyView(visible=False),
        live.rows(points),
    )


def _notes(events: list[dict[str, Any]], most: int = 4) -> list[str]:
    """What the run remarked while it worked: super weights that were spared, a busy machine, a Hessian that needed damping. Its name, the first, is none."""
    said = [str(event["text"]) for event in events[1:] if event.get("kind") == "note" and event.get("text")]
    return [words if words.endswith((".", "!", "?")) else f"{words}." for words in dict.fromkeys(said)][:most]


def _repeats(at: folder.Status, lines: list[tuple[str, str]]) -> str:
    """What is done again when this run is taken up."""
    if not (at.path / folder.RESUME).exists():
        return "Nothing that was finished can be taken up: to go on does all of it again, to the same bits."
    cut = next((words for words, said in reversed(lines) if said not in ("not reached", "passed by", "taken over")), "")
    return f"What was finished is kept. To go on loads the model again and repeats “{cut}” from its beginning; the outcome is the same, bit for bit."


def _nothing(words: str) -> tuple[Any, ...]:
    return words, *_hidden(), gr.Timer(active=False)


def _hidden() -> tuple[Any, ...]:
    return (
        gr.Column(visible=False),
        gr.Button(visible=False),
        None,
        None,
        None,
        [],
        gr.Column(visible=False),
        [],
        "",
        [],
        None,
        None,
        [],
        None,
        [],
        [],
    )


def budgets(report: dict[str, Any]) -> str:
    """A sentence for each step with a budget in a cost: what was asked, and what was reached."""
    asked = [step["budget"] for step in report.get("steps") or [] if step.get("budget")]
    return "".join(
        f"Budget: at most {said(at['cost'], at['target'])} asked for, {said(at['cost'], at['reached'])} "
        f"{'measured' if at['cost'] == 'latency' else 'reached'}; there were {said(at['cost'], at['before'])}. "
        for at in asked
    )


def _where(at: folder.Status, report: dict[str, Any]) -> str:
    """What became of the budget; where the saved model lies and how to load it, or how to save one where none was."""
    return budgets(report) + _refitted(report) + _saved(at, report)


def _refitted(report: dict[str, Any]) -> str:
    """How much nearer to the dense outputs the layers are that were put right without training."""
    out = ""
    for step in report.get("steps") or ():
        if step.get("refitted"):
            before, after = 100 * step["output_error_before"], 100 * step["output_error_after"]
            out += (
                f"{_labels().get(step['method'], step['method'])} refitted {len(step['refitted'])} layers: on the calibration text their outputs miss "
                f"{after:.3g} % of the wanted energy, before it {before:.3g} % (means). "
            )
    return out


def _labels() -> dict[str, str]:
    return {card.name: card.label for card in catalogue.of_kind("reconstruction")}


def _saved(at: folder.Status, report: dict[str, Any]) -> str:
    saved, refused = ((report.get("protocol") or {}).get(key) for key in ("saved", "not_saved"))
    if refused:
        return f"The figures are whole, but the model was not saved. {refused}"
    if not saved:
        return "The model was not saved: tick Save the pruned model and prune again; the mask and the recipe are in the run's folder."
    place = at.path / folder.MODEL
    size, how = f"{saved['size_bytes'] / 1e6:,.1f} MB, {saved['dtype']}", saved.get("loads_with", "from_pretrained")
    return f"Saved, loaded again and found equal: {place} ({size}). Load it with {how}; its card says how."


def _waiting(at: folder.Status) -> str:
    if at.state == "failed":
        return f"The run failed. {at.problem} {at.remedy}"
    return "" if not at.ended else f"The run ended without figures ({at.state})."


def layer_rows(report: dict[str, Any]) -> list[list[str]]:
    """The layers' part of a report as rows of a table."""
    return [
        [
            str(layer["name"]),
            f"{100 * layer['asked']:.1f}",
            f"{100 * layer['sparsity']:.1f}",
            "not measured" if layer.get("output_error") is None else f"{layer['output_error']:.3g}",
        ]
        for layer in report.get("layers") or []
    ]
