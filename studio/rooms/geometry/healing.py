"""Below the damage map: heal the pruned model with the rows it lost most of, beside random rows and random rows with a teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from core import catalogue, folder
from core.recipe import Recipe
from core.views import slug
from studio import jobs, known
from studio.bench import Bench, plainly
from studio.charts import healing as charts
from studio.parts import facts
from studio.parts.plotview import PlotlyView, table_twin

_INTRO = """### Heal with the right data
The model is pruned as the budget says (half of every layer where there is none), then healed again and again: by the rows that pruning damaged
most, by random rows, and by random rows with the dense model as teacher. Each gets as many tokens."""
_WHY = "One run, several seeds, measured on rows that none of them saw."
_TOLD: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
_QUIET = {**_TOLD, "queue": False}
_WAYS = ("damage", "perplexity", "typicality", "k_center", "facility_location", "herding", "density_quotas")
_LOOKED_AT, _ROWS, _TOKENS = 60, 800, 64


@dataclass(frozen=True)
class Healing:
    way: gr.Dropdown
    seeds: gr.Slider
    go: gr.Button
    note: gr.HTML
    plot: gr.HTML
    table: gr.Dataframe

    def outputs(self) -> list[Any]:
        return [self.note, self.plot, self.table]


def build() -> Healing:
    gr.Markdown(_INTRO)
    with gr.Row(equal_height=False):
        way = gr.Dropdown(ways(), value="damage", label="Rows chosen by", elem_id="heal-way", scale=2, min_width=220)
        seeds = gr.Slider(2, 10, 3, step=1, label="Seeds", elem_id="heal-seeds", scale=2, min_width=200)
        go = gr.Button("Heal (a run)", elem_id="heal-go", scale=0, min_width=215, size="md")
    note = facts.component("heal-finding", _nothing())
    alt = "Held-out perplexity against the share of the tokens healed with, by how rows are chosen, with intervals over seeds"
    plot = PlotlyView(height=340, alt=alt, elem_id="heal-plot", visible=False)
    return Healing(way, seeds, go, note, plot, table_twin("healing", list(charts.HEADERS)))


def ways() -> list[tuple[str, str]]:
    """(label, key) of what can choose texts without labels or a target: damage first."""
    found = {
        card.name: card.label for kind in ("data_score", "selector") for card in catalogue.of_kind(kind) if card.name in _WAYS and not card.problem
    }  # fmt: skip
    return [(found[name], name) for name in _WAYS if name in found]


def _nothing() -> dict[str, Any]:
    return facts.said("Not healed yet", _WHY, "not measured")


def drawn(bench: Bench, source: str | None, data: str | None) -> tuple[Any, ...]:
    """Values for `outputs`: the newest finished job of this model and these rows."""
    found = _newest(bench, source, (data or "").strip())
    if found is None:
        return _nothing(), PlotlyView(value=None, visible=False), []
    name, heal = found
    picture = charts.curves(heal, _label(heal["chosen"]))
    said = facts.said(picture.finding, f"Run {name}: {heal['rows']:,} rows. {heal['protocol']}", "measured")
    return said, PlotlyView(value=picture.figure, visible=True), [list(row) for row in picture.rows]


def _label(chosen: str) -> str:
    return next((label for label, key in ways() if key == chosen), chosen)


def _newest(bench: Bench, source: str | None, data: str) -> tuple[str, dict[str, Any]] | None:
    for path in folder.runs(bench.runs)[:_LOOKED_AT]:
        asked = known.asked_of(path / folder.RECIPE) if (path / folder.REPORT).exists() else None
        if (
            asked is None
            or not asked.heal
            or not asked.model
            or not asked.data
            or (asked.model.source, asked.data.source) != (source, data)
        ):
            continue
        heal = (jobs.report(path) or {}).get("heal")
        if heal:
            return path.name, dict(heal)
    return None


def heals(bench: Bench, run: str | None) -> bool:
    """Was this run such a job?"""
    asked: Recipe | None = known.asked_of(bench.runs / run / folder.RECIPE) if run else None
    return asked is not None and asked.heal is not None


def recipe_for(bench: Bench, model: str, data: str, way: str, seeds: int) -> dict[str, Any]:
    """The job: pruned by the budget that is set, else by half."""
    data = bench.admit((data or "").strip())
    shares = {name: share for name, share in bench.workspace.read().budget.shares.items() if share}
    pruned = {"allocation": {"method": "by_hand", "shares": shares}} if shares else {"sparsity": 0.5}
    short = [part.removeprefix("builtin:").rstrip("/").split("/")[-1] for part in (data.removesuffix("/train"), model)]
    return {
        "recipe": 1, "name": slug(f"heal-{short[1]}-{short[0]}")[:70].strip("-."), "model": {"source": model}, "data": {"source": data},
        "calibration": {"samples": 16, "tokens": 128}, "steps": [{"prune": {"method": "wanda", **pruned}}], "embedding": {"source": "tfidf"},
        "clusters": {"count": 12}, "select": {"method": way},
        "heal": {"method": "lora", "learning_rate": 2e-3, "shares": [0.1, 0.2, 0.5], "seeds": seeds, "rows": _ROWS, "tokens": _TOKENS},
    }  # fmt: skip


def wire(bench: Bench, healing: Healing, data: gr.Dropdown) -> None:
    @plainly
    def start(source: str | None, rows: str, way: str, seeds: float) -> str:
        return bench.start(recipe_for(bench, source or "", rows, way, int(seeds)))

    def shown(source: str | None, rows: str | None) -> Any:
        return drawn(bench, source, rows)

    def ended(run: str | None, source: str | None, rows: str | None) -> Any:
        return drawn(bench, source, rows) if heals(bench, run) else gr.skip()

    healing.go.click(start, [bench.model, data, healing.way, healing.seeds], bench.run, **_TOLD)
    gr.on([bench.model.change, data.change], shown, [bench.model, data], healing.outputs(), trigger_mode="always_last", **_QUIET)
    bench.ended.change(ended, [bench.ended, bench.model, data], healing.outputs(), **_QUIET)
