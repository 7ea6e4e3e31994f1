"""Budget: how much to remove from each block, set by hand, with the predicted cost beside it."""

from __future__ import annotations

import html
from typing import Any

import gradio as gr
import pandas as pd

from core.errors import PrunariumError
from studio import damage, known
from studio.bench import Bench, plainly
from studio.charts import budget
from studio.looking import recipe_for
from studio.parts import facts
from studio.parts.explaining import drawer
from studio.parts.plotview import PlotlyView, table_twin
from studio.rooms.budget import equaliser
from studio.rooms.budget.equaliser import Known
from studio.rooms.budget.table import sent, take_over

_INTRO = """## Budget
How much to remove from each block, or from each layer. Drag a bar; the prediction follows your hand."""
_TOLD: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}  # queued: only then do signals reach other rooms
_QUIET = {**_TOLD, "queue": False}
_ROWS = 1000  # of the table: more rows than that nobody edits


class _Held:
    """What is known of the open model, read from disk when the model changes or a run ends, not at each move of a hand."""

    def __init__(self, bench: Bench) -> None:
        self._bench, self._source, self._found = bench, "", Known()
        self.origin: known.Observed | None = None
        self.damage: tuple[damage.Seen, ...] = ()

    def __call__(self, source: str) -> Known:
        return self._found if source == self._source else self.fresh(source)

    def fresh(self, source: str) -> Known:
        described = known.description(source, self._bench.workspace.folder)
        self.origin = self._bench.observed(source, curves=True)
        of_units = {structure: self._bench.observed(source, curves=True, of=structure) for structure in known.UNITS}
        priced = self._bench.observed(
            source, curves=True, of=known.EVERYTHING
        )  # any run of curves prices whole units; the newest counts
        parts = known.parts(described, self.origin) if described else Known().parts
        data = self.origin.data if self.origin else None
        runs, weights = self._bench.runs, known.fingerprint(source, self._bench.workspace.folder)
        self._found = Known(
            described, parts, known.cost_curves(data, parts), tuple(known.trials(source, runs, weights=weights)), known.latency(source, runs, weights),
            known.super_weights(data, parts), ((data or {}).get("curves") or {}).get("method", ""), known.units(priced, of_units),
        )  # fmt: skip
        self.damage = damage.maps(source, runs, self._bench.workspace.folder)
        self._source = source
        return self._found


def build(bench: Bench) -> None:
    gr.Markdown(_INTRO)
    held = _Held(bench)
    bars = equaliser.equaliser(bench.workspace, held)
    with gr.Row():
        go = gr.Button("Prune with this budget", variant="primary", scale=0, min_width=250, size="md", elem_id="budget-prune")
        measure = gr.Button("Measure curves", scale=0, min_width=290, size="md", elem_id="budget-measure")
    note = facts.component("budget-note")
    with gr.Accordion("Table: the budget, editable", open=False, elem_classes="twin"):
        table = gr.Dataframe(
            interactive=True, show_label=False, label="The budget, a row a block", elem_id="budget-table", static_columns=[0, 3, 4, 5, 6],
            datatype=["str", "number", "bool", "number", "number", "number", "number"],
        )  # fmt: skip
    sizes = table_twin("the frontier, the best budget of every size")
    title = facts.component("budget-curves-finding")
    lines = PlotlyView(height=320, alt="A line for each block: what removing a share of it alone costs", elem_id="budget-curves")
    with gr.Column(visible=False) as proof:
        tested = facts.component("budget-tested-finding")
        pairs = PlotlyView(height=340, alt="Predicted against measured increase: a point a run", elem_id="budget-tested")
        rows = table_twin("predicted and measured")
    drawer("sparsity", "perplexity", "estimate-and-measured")
    structure = gr.State("")
    _wire(bench, held, bars, table, [note, measure, title, proof, tested, pairs, rows, lines, sizes], structure)
    bars.committed(
        _structure_of, None, structure, **_TOLD, trigger_mode="multiple"
    )  # always_last would say again what the first event said
    go.click(_to_prune, [bench.by_hand, structure], [bench.tabs, bench.by_hand], **_TOLD)

    @plainly
    def start(source: str | None, of: str) -> str:
        return bench.start(recipe_for(bench, source or "", curves=True, structure=of))

    measure.click(start, [bench.model, structure], bench.run, **_TOLD)


def _structure_of(event: gr.EventData) -> str:
    return str((event._data or {}).get("structure") or "")


def _to_prune(pressed: list[Any] | None, structure: str) -> tuple[gr.Tabs, list[Any]]:
    return gr.Tabs(selected="prune"), [(pressed or [0])[0] + 1, structure]


def _wire(bench: Bench, held: _Held, bars: gr.HTML, table: gr.Dataframe, about: list[Any], structure: gr.State) -> None:
    remembered = gr.State()
    rows = [table, remembered]

    def draw(source: str | None, of: str) -> Any:
        """Everything, anew from disk: another model is open, or a run has ended."""
        if not source:
            return gr.skip()
        held.fresh(source)
        return _bars(bench, held, source), *_table(bench, held, source), *_about(bench, held, source, of)

    def turned(source: str | None, of: str) -> Any:
        """The bars remove something else: what is said below them is about that."""
        return _about(bench, held, source, of) if source else gr.skip()

    def moved(source: str | None, of: str) -> Any:
        """The budget changed: by a hand on the bars, in the table, or in another tab."""
        if not source:
            return gr.skip()
        drawn = _lines(bench, held, source, of), _sizes(bench, held, source, of)
        noted = _note(bench, held, source, of) if held.damage else gr.skip()
        return _bars(bench, held, source), *_table(bench, held, source), noted, *drawn

    def committed(event: gr.EventData) -> int:
        return int((event._data or {}).get("revision") or 0)

    def typed(frame: pd.DataFrame, source: str | None, before: dict[str, Any] | None) -> Any:
        """The table was edited: a row that cannot be read is told, and the table shows again what stands."""
        source = source or bench.workspace.read().model
        try:
            now = _table(bench, held, source)[1]
            revision, shown = take_over(bench.workspace, held(source).parts, frame, before, source, now).revision, gr.skip()
        except PrunariumError as error:
            gr.Warning(html.escape(str(error)), title="Not done")
            revision, shown = bench.workspace.read().revision, _table(bench, held, source)[0]
        return revision, shown, _table(bench, held, source)[1]

    asked = [bench.model, structure]
    bench.model.change(draw, asked, [bars, *rows, *about], **_QUIET)
    bench.ended.change(draw, asked, [bars, *rows, *about], **_QUIET)
    structure.change(turned, asked, about, **_QUIET)
    bench.budget.change(moved, asked, [bars, *rows, about[0], *about[-2:]], **_QUIET, trigger_mode="always_last")
    bars.committed(committed, None, bench.budget, **_TOLD, trigger_mode="multiple")
    table.input(typed, [table, bench.model, remembered], [bench.budget, *rows], **_TOLD)


def _bars(bench: Bench, held: _Held, source: str) -> Any:
    has = held(source)
    if has.described is None:
        return None
    opened = bench.workspace.read()
    return equaliser.packed(equaliser.value(opened, has, bench.workspace.snapshots(opened.model)))


def _table(bench: Bench, held: _Held, source: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table, and what is remembered of it."""
    has, opened = held(source), bench.workspace.read()
    hand = next((trial for trial in has.trials if trial.by_hand), None)
    whole = budget.table(
        has.parts, opened.budget.shares, opened.budget.locked, has.curves, hand.by_part(has.parts) if hand else {}
    )
    shown = whole.head(_ROWS)
    return shown, sent(shown, opened)


def _lines(bench: Bench, held: _Held, source: str, of: str) -> Any:
    mine = equaliser.face(held(source), of)
    return budget.cost_lines(mine.curves, mine.parts, mine.shares(bench.workspace.read().budget.shares)) if mine.curves else None


def _sizes(bench: Bench, held: _Held, source: str, of: str) -> pd.DataFrame | None:
    """The frontier in figures: of single weights, whose picture it belongs to."""
    has = held(source)
    if has.curves is None or not has.parts.sizes or of:
        return None
    described, shares = has.described or {}, bench.workspace.read().budget.shares
    total = int(described.get("parameters") or 0)
    each = (described.get("size_bytes") or 0) / max(total, 1)
    return budget.frontier_table(has.curves, has.parts, equaliser.best_by_size(has), shares, each, total)


def _about(bench: Bench, held: _Held, source: str, of: str) -> tuple[Any, ...]:
    """Where the prediction comes from, the button that measures it here, and how runs have borne it out."""
    has, what = held(source), f"Measure curves of {of}" if of else "Measure curves"
    mine = equaliser.face(has, of)
    if not has.parts.sizes:
        return None, gr.Button(what, interactive=False), None, gr.Column(visible=False), *[None] * 5
    if mine.curves is None:
        button = gr.Button(what, variant="primary", interactive=True)
        return _note(bench, held, source, of), button, None, gr.Column(visible=False), *[None] * 5
    pairs, seen = equaliser.compared(has, of), mine.seen or held.origin
    return (
        _note(bench, held, source, of),
        gr.Button(f"{what} again", variant="secondary", interactive=True),
        facts.said(budget.cost_finding(mine.curves, mine.parts), badge=seen.badge),
        gr.Column(visible=bool(pairs)),
        facts.said(budget.tested_finding(pairs, mine.curves), badge="measured" if pairs else ""),
        budget.tested(pairs, mine.curves) if pairs else None,
        budget.tested_table(pairs),
        _lines(bench, held, source, of),
        _sizes(bench, held, source, of),
    )


def _note(bench: Bench, held: _Held, source: str, of: str) -> dict[str, Any]:
    """Where the prediction comes from, and whom the budget costs most where a damage map says so."""
    pays = "" if of else damage.who_pays(held.damage, bench.workspace.read().budget.shares)  # maps are of single weights
    seen = equaliser.face(held(source), of).seen if of else held.origin
    curves = (seen.data if seen else {}).get("curves")
    if curves is None and of:
        return facts.said(f"No prediction for whole {of} yet", f"Press Measure curves of {of}: each block without some of its {of}, and a few budgets of "
                          f"the whole model, are measured. Size and speed are counted without it.{pays}")  # fmt: skip
    if curves is None:
        return facts.said("No prediction yet", "Measure what each block costs when it alone is pruned; the prediction adds these costs up. The bars "
                          f"work without it.{pays}")  # fmt: skip
    return facts.said(note=f"{origin(curves)}{pays}")


def origin(found: dict[str, Any]) -> str:
    """How the curves were made, in words."""
    how = f"({found.get('method')}, {found.get('structure')})"
    if "measured" not in found:
        return f"Predicted by adding up, on a log scale, what each block costs alone {how}. Blocks that were pruned together may cost more than that."
    count, error = len(found["measured"]["together"]), found.get("error")
    fit = (
        f" On the {count} budgets of the whole model that were measured with the curves it is off by {100 * error:.0f} % in the median."
        if error
        else ""
    )
    units = found.get("structure") in known.UNITS
    what, alone = (f"What each block's output loses without some of its {found['structure']}", "the block without them alone turns") if units else (
        "Each layer's local error at six shares", "each block's attention and MLP alone turn")  # fmt: skip
    return (
        f"{what} {how}, weighted by how far {alone} the answers, and added up with the power {found['power']:.2f} that budgets of the whole model "
        f"showed.{fit}"
    )
