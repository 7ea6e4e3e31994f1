"""Budget: how much to remove from each block, set by hand, with the predicted cost beside it."""

from __future__ import annotations

import math
from typing import Any

import gradio as gr
import pandas as pd

from core.budget import CostCurves
from core.errors import RecipeError
from studio import equaliser, facts, known
from studio.bench import Bench, plainly
from studio.charts import budget
from studio.explaining import drawer
from studio.looking import recipe_for
from studio.plotview import PlotlyView

_INTRO = """## Budget
How much to remove from each block. Drag a bar; the prediction follows your hand."""
_TOLD: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}  # queued: only then do signals reach other rooms
_QUIET = {**_TOLD, "queue": False}
Known = tuple[CostCurves | None, dict[str, int]]


class _Held:
    """The curves and sizes of the open model, read from disk when the model changes or a run ends, not at each move of a hand."""

    def __init__(self, bench: Bench) -> None:
        self._bench, self._source, self._found = bench, "", (None, {})
        self.origin: known.Observed | None = None

    def __call__(self, source: str) -> Known:
        return self._found if source == self._source else self.fresh(source)

    def fresh(self, source: str) -> Known:
        described = known.description(source, self._bench.workspace.folder)
        self.origin = known.observations(source, self._bench.runs, curves=True)
        curves = known.cost_curves(self.origin.data) if self.origin else None
        self._source, self._found = source, (curves, known.sizes(described) if described else {})
        return self._found


def build(bench: Bench) -> None:
    gr.Markdown(_INTRO)
    held = _Held(bench)
    bars = equaliser.equaliser(bench.workspace, held)
    with gr.Row():
        go = gr.Button("Prune with this budget", variant="primary", scale=0, min_width=250, size="md", elem_id="budget-prune")
        measure = gr.Button("Measure curves", scale=0, min_width=220, size="md", elem_id="budget-measure")
    note = facts.component("budget-note")
    with gr.Accordion("Table: the budget, editable", open=False, elem_classes="twin"):
        table = gr.Dataframe(
            interactive=True, show_label=False, label="The budget, a row a block", elem_id="budget-table", static_columns=[0, 3, 4, 5, 6],
            datatype=["str", "number", "bool", "number", "number", "number", "number"],
        )  # fmt: skip
    title = facts.component("budget-curves-finding")
    lines = PlotlyView(height=320, alt="A line for each block: what removing a share of it alone costs", elem_id="budget-curves")
    drawer("sparsity", "perplexity", "estimate-and-measured")
    _wire(bench, held, bars, table, [note, measure, title, lines])
    go.click(lambda times: (gr.Tabs(selected="prune"), (times or 0) + 1), bench.by_hand, [bench.tabs, bench.by_hand], **_TOLD)

    @plainly
    def start(source: str | None) -> str:
        return bench.start(recipe_for(bench, source or "", curves=True))

    measure.click(start, bench.model, bench.run, **_TOLD)


def _wire(bench: Bench, held: _Held, bars: gr.HTML, table: gr.Dataframe, about: list[Any]) -> None:
    def draw(source: str | None) -> Any:
        """Everything, anew from disk: another model is open, or a run has ended."""
        if not source:
            return gr.skip()
        held.fresh(source)
        return _bars(bench, held, source), _table(bench, held, source), *_about(bench, held, source)

    def moved(source: str | None) -> Any:
        """The budget changed: by a hand on the bars, in the table, or in another tab."""
        if not source:
            return gr.skip()
        return _bars(bench, held, source), _table(bench, held, source), _lines(bench, held, source)

    def committed(event: gr.EventData) -> int:
        return int((event._data or {}).get("revision") or 0)

    def typed(frame: pd.DataFrame, source: str | None) -> Any:
        """The table was edited: a row that cannot be read is told, and the table shows again what stands."""
        opened = bench.workspace.read()
        try:
            shares, locked = read_table(frame)
            return bench.workspace.set_budget(shares, locked).revision, gr.skip()
        except RecipeError as error:
            gr.Warning(str(error), title="Not done")
            return opened.revision, _table(bench, held, source or opened.model)

    bench.model.change(draw, bench.model, [bars, table, *about], **_QUIET)
    bench.ended.change(draw, bench.model, [bars, table, *about], **_QUIET)
    bench.budget.change(moved, bench.model, [bars, table, about[-1]], **_QUIET, trigger_mode="always_last")
    bars.committed(committed, None, bench.budget, **_TOLD, trigger_mode="always_last")
    table.input(typed, [table, bench.model], [bench.budget, table], **_TOLD)


def read_table(frame: pd.DataFrame) -> tuple[dict[str, float], tuple[str, ...]]:
    """The edited table -> (shares, locked). Raises RecipeError on what is no percentage between 0 and 100."""
    shares, locked = {}, []
    for name, percent, shut in zip(frame["Block"], frame["Remove %"], frame["Locked"], strict=True):
        try:
            value = float(str(percent).replace("%", "").replace(",", ".").strip() or 0)
        except ValueError:
            value = math.nan
        if not 0 <= value <= 100:
            raise RecipeError(
                f"The share of {name} must be a percentage between 0 and 100, not {str(percent)[:40]!r}.", "Correct that row."
            )
        if value:
            shares[str(name)] = round(value / 100, 6)
        if shut is True or str(shut).strip().lower() in ("true", "1", "yes"):
            locked.append(str(name))
    return shares, tuple(locked)


def _bars(bench: Bench, held: _Held, source: str) -> Any:
    described = known.description(source, bench.workspace.folder)
    if described is None:
        return None
    curves, sizes = held(source)
    trial = known.last_trial(source, bench.runs)
    return equaliser.value(bench.workspace.read(), described, curves, sizes, trial)


def _table(bench: Bench, held: _Held, source: str) -> pd.DataFrame:
    curves, sizes = held(source)
    opened = bench.workspace.read()
    trial = known.last_trial(source, bench.runs)
    return budget.table(sizes, opened.budget.shares, opened.budget.locked, curves, trial.shares if trial else {})


def _lines(bench: Bench, held: _Held, source: str) -> Any:
    curves, _ = held(source)
    return budget.cost_lines(curves, bench.workspace.read().budget.shares) if curves else None


def _about(bench: Bench, held: _Held, source: str) -> tuple[Any, ...]:
    """Where the prediction comes from, and the button that measures it here."""
    curves, sizes = held(source)
    if not sizes:
        return None, gr.Button("Measure curves", interactive=False), None, None
    if curves is None:
        told = facts.said("No prediction yet", "Measure what each block costs when it alone is pruned; the prediction adds these costs up. The bars "
                          "work without it.")  # fmt: skip
        return told, gr.Button("Measure curves", variant="primary", interactive=True), None, None
    found = held.origin.data["curves"] if held.origin else {}
    levels = ", ".join(f"{100 * level:.0f}" for level in curves.levels[1:])
    note = (f"Predicted by adding up, on a log scale, what each block costs alone at {levels} % ({found.get('method')}, {found.get('structure')}). "
            "Blocks that were pruned together may cost more than that.")  # fmt: skip
    badge = held.origin.badge if held.origin else "measured"
    return (
        facts.said(note=note),
        gr.Button("Measure curves again", variant="secondary", interactive=True),
        facts.said(budget.cost_finding(curves), badge=badge),
        _lines(bench, held, source),
    )
