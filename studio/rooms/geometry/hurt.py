"""The foot of the Geometry room: the damage map. Which rows the model gives up when a layer is pruned, and those rows taken to the Data room."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from core.errors import PrunariumError
from core.views import slug
from studio import damage
from studio.bench import Bench, plainly
from studio.charts import damage as charts
from studio.damage import Seen
from studio.parts import facts
from studio.parts.plotview import PlotlyView, picked, table_twin

_INTRO = """### Where pruning hurts
Each layer alone is pruned as the budget says (half of it where there is none), and put back: which rows pay?"""
_TOLD: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
_QUIET = {**_TOLD, "queue": False}
_GROUPS, _ROWS = 8, 240


@dataclass(frozen=True)
class Hurt:
    by: gr.Radio
    go: gr.Button
    found: gr.Column
    measure: gr.Radio
    level: gr.Radio
    title: gr.HTML
    map: PlotlyView
    table: gr.Dataframe
    group: gr.Dropdown
    take: gr.Button

    def of_map(self) -> list[Any]:
        return [self.title, self.map, self.table]

    def outputs(self) -> list[Any]:
        return [self.found, self.measure, self.level, *self.of_map(), self.group]


def build() -> Hurt:
    gr.Markdown(_INTRO)
    with gr.Row(equal_height=False):
        by = gr.Radio([("Clusters", "clusters"), ("Classes", "labels")], value="clusters", label="Rows grouped by", elem_id="damage-by",
                      scale=0, min_width=260)  # fmt: skip
        go = gr.Button("Measure the damage", elem_id="damage-go", scale=0, min_width=215, size="md")
    with gr.Column(visible=False) as found:
        with gr.Row(equal_height=False):
            measure = gr.Radio(
                [(one.label, name) for name, one in charts.MEASURES.items()],
                value="loss",
                label="Shown",
                elem_id="damage-measure",
            )
            level = gr.Radio([], label="Removed from each layer", elem_id="damage-level", visible=False)
        title = facts.component("damage-finding")
        drawn = PlotlyView(
            height=430, alt="Groups of rows by layers, coloured by the damage; a click takes a group's rows", elem_id="damage-map"
        )
        table = table_twin("damage by layer and group")
        with gr.Row(equal_height=False):
            group = gr.Dropdown([], label="Rows of", elem_id="damage-group", filterable=False, scale=2, min_width=220)
            take = gr.Button("Take them to the Data room", elem_id="damage-take", scale=0, min_width=215, size="md")
    return Hurt(by, go, found, measure, level, title, drawn, table, group, take)


def drawn(bench: Bench, source: str | None, data: str | None) -> tuple[Any, ...]:
    """Values for `outputs`."""
    seen = _newest(bench, source, data)
    if seen is None:
        return gr.Column(visible=False), *[gr.skip()] * 6
    levels = charts.levels(seen.found)
    level = levels[-1][1]
    order = [*charts.groups(seen.found, level), len(seen.found["groups"])]
    names = [(f"{charts.group_name(seen.found, at)}, {len(_rows(seen.found, at)):,} rows", at) for at in order]
    return (
        gr.Column(visible=True), "loss", gr.Radio(levels, value=level, visible=len(levels) > 1), *_map(seen, "loss", level),
        gr.Dropdown(names, value=order[0]),
    )  # fmt: skip


def _rows(found: dict[str, Any], at: int) -> list[int]:
    """Numbers of a group's rows; the group after the last is all of them."""
    mine = found["groups"] if at == len(found["groups"]) else [found["groups"][at]]
    return sorted(int(row) for group in mine for row in group["rows"])


def _map(seen: Seen, measure: str, level: float) -> tuple[Any, ...]:
    title = facts.said(charts.finding(seen.found, measure, level), _protocol(seen, level), badge="measured")
    return title, charts.damage_map(seen.found, measure, level), charts.table(seen.found, measure, level)


def _protocol(seen: Seen, level: float) -> str:
    found = seen.found
    fewest = min(found["predictions"][:-1])
    of = f"{found['data']['rows']:,} of {found['data']['of']:,} rows of {found['data']['name']}"
    return (
        f"{charts.together(found, level)} Run {seen.run}: {of}, {found['method']}; the smallest group has {fewest:,} {charts.unit(found)}s to predict, "
        "so small differences are noise. Colours span the single layers. A click takes a group's rows to the Data room."
    )  # fmt: skip


def _newest(bench: Bench, source: str | None, data: str | None) -> Seen | None:
    seen = damage.maps(source, bench.runs, bench.workspace.folder, data or "", most=1) if source else ()
    return seen[0] if seen else None


def recipe_for(bench: Bench, model: str, data: str, by: str) -> dict[str, Any]:
    """The run that measures: with the budget that is set, else with half of every layer."""
    data = bench.admit((data or "").strip())
    shares = {name: share for name, share in bench.workspace.read().budget.shares.items() if share}
    short = [text.removeprefix("builtin:").rstrip("/") for text in (data, model)]
    return {
        "recipe": 1,
        "name": slug(f"damage-{short[0].split('/')[0 if data.startswith('builtin:') else -1]}-{short[1].split('/')[-1]}")[:70].strip("-."),
        "model": {"source": model},
        "data": {"source": data},
        "calibration": {"samples": 16, "tokens": 128},
        "clusters": {"count": _GROUPS},
        "damage": {"by": by, "rows": _ROWS, **({"shares": shares} if shares else {"levels": [0.5]})},
    }  # fmt: skip


def wire(bench: Bench, hurt: Hurt, data: gr.Dropdown) -> None:
    @plainly
    def start(source: str | None, rows: str, by: str) -> str:
        return bench.start(recipe_for(bench, source or "", rows, by))

    def shown(source: str | None, rows: str | None, measure: str, level: float | None) -> Any:
        seen = _newest(bench, source, rows)
        return _map(seen, measure, float(level or 0.0)) if seen else gr.skip()

    def sent(seen: Seen | None, at: int, before: int | None) -> Any:
        if seen is None or not 0 <= at <= len(seen.found["groups"]):
            raise PrunariumError("There is no damage map of these rows.", "Press Measure the damage.")
        why = f"{charts.group_name(seen.found, at)}, damage run {seen.run}"
        bench.workspace.change(
            picked={"source": seen.found["data"]["source"], "rows": _rows(seen.found, at), "why": why[:1].upper() + why[1:]}
        )
        return gr.Tabs(selected="data"), (before or 0) + 1

    @plainly
    def take(source: str | None, rows: str | None, at: int | None, before: int | None) -> Any:
        return sent(_newest(bench, source, rows), -1 if at is None else int(at), before)

    @plainly
    def clicked(source: str | None, rows: str | None, level: float | None, before: int | None, event: gr.EventData) -> Any:
        seen, line = _newest(bench, source, rows), picked(event).y
        if seen is None or line is None:
            return gr.skip()
        order = [*charts.groups(seen.found, float(level or 0.0)), len(seen.found["groups"])]
        return sent(seen, order[round(float(line))], before)

    hurt.go.click(start, [bench.model, data, hurt.by], bench.run, **_TOLD)
    looks = [bench.model, data, hurt.measure, hurt.level]
    gr.on([hurt.measure.input, hurt.level.input], shown, looks, hurt.of_map(), trigger_mode="always_last", **_QUIET)
    hurt.take.click(take, [bench.model, data, hurt.group, bench.picked], [bench.tabs, bench.picked], **_TOLD)
    hurt.map.select(clicked, [bench.model, data, hurt.level, bench.picked], [bench.tabs, bench.picked], **_TOLD)
