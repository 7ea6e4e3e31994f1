"""The picture that goes deeper: from all blocks into one, into its units, down to single weights. Wiring; the drawing is in charts."""

from __future__ import annotations

import html
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from core.errors import PrunariumError
from studio import known
from studio.bench import Bench
from studio.charts import xray, xray_deep
from studio.known import Observed
from studio.looking import share_of
from studio.parts import facts, plotview
from studio.parts.plotview import PlotlyView, picked, table_twin
from studio.rooms.xray import place as places
from studio.rooms.xray.place import BLOCK, BLOCKS, UNITS, WEIGHTS, Place

LIMIT_S = 180.0
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
DEEP: dict[str, Any] = {
    "show_progress": "minimal",
    "api_visibility": "private",
    "concurrency_limit": 1,
    "trigger_mode": "always_last",
}
HEARD: dict[str, Any] = {**DEEP, "trigger_mode": "multiple"}  # of several clicks, always_last would hear the first one twice


@dataclass(frozen=True)
class Dive:
    """The components of the picture. `all()` is the order in which `drawn` gives their values."""

    place: gr.State
    crumbs: gr.HTML
    title: gr.HTML
    view: PlotlyView
    table: gr.Dataframe
    closer: gr.Row
    score: gr.Dropdown
    window: gr.Textbox
    how: gr.Radio

    def all(self) -> list[Any]:
        return [self.place, self.crumbs, self.title, self.view, self.table, self.closer, self.score, self.window]


def build() -> Dive:
    place = gr.State(places.plain(Place()))
    crumbs = places.component("xray-crumbs")
    title = facts.component("xray-importance-finding")
    view = PlotlyView(
        height=360, alt="A bar for each block, or what was chosen inside one: its importance by the chosen measure", elem_id="xray-importance"
    )  # fmt: skip
    with gr.Row(visible=False, elem_id="xray-closer") as closer:
        score = gr.Dropdown([], label="Score", elem_id="xray-score", min_width=150)
        window = gr.Textbox(
            "", label="Window: rows, columns", placeholder="0:64, 0:64", max_length=60, elem_id="xray-window", min_width=170
        )
        how = gr.Radio(
            [("Largest", "max"), ("Mean", "mean")], value="max", label="A tile shows", elem_id="xray-how", min_width=200
        )
    table = table_twin("the picture above")
    return Dive(place, crumbs, title, view, table, closer, score, window, how)


def drawn(bench: Bench, source: str, seen: Observed, place: Place, metric: str, how: str = "max") -> tuple[Any, ...]:
    """Values for `Dive.all()`. What the worker cannot answer becomes a sentence in the picture's place."""
    described = known.description(source, bench.workspace.folder) or {}
    refused = described.get("refused", {}) if place.depth != BLOCKS else {}
    closer, answer, badge, note = False, {}, seen.badge, ""
    try:
        if place.depth in (UNITS, WEIGHTS):
            answer = _ask(bench, source, place, metric, how, refused)
            closer, badge, note = True, "measured", _protocol(answer) + _grouped(described, place)
        told, figure, table = _picture(seen, place, metric, answer, share_of(bench, place.block))
        title = facts.said(told, badge=badge, note=note)
    except PrunariumError as error:
        title, figure, table = facts.said(error.problem, error.remedy), None, None
    value = plotview.numbered(figure)
    asked = replace(place, rev=value["rev"])
    choices = [(xray.label(name), name) for name in answer.get("choices", ())]
    deep = place.depth == WEIGHTS
    window = ", ".join(f"{a}:{b}" for a, b in (place.windows[-1][:2], place.windows[-1][2:])) if place.windows else ""
    return (
        places.plain(asked), places.trail(place, seen.data, refused), title, value, table, gr.Row(visible=closer),
        gr.Dropdown(choices=choices, value=answer.get("metric")) if choices else gr.skip(),
        gr.Textbox(value=window, visible=deep),
    )  # fmt: skip


def _ask(bench: Bench, source: str, place: Place, metric: str, how: str, refused: dict[str, str]) -> dict[str, Any]:
    metric = place.metric or metric
    if place.depth == UNITS:
        if why := refused.get(place.structure):
            raise PrunariumError(why, "Choose another part of this block.")
        found = bench.worker.about(
            source, "xray_units", timeout_s=LIMIT_S, block=place.block, structure=place.structure, metric=metric
        )
    else:
        share = share_of(bench, place.layer) or None
        found = bench.worker.about(
            source, "xray_weights", timeout_s=LIMIT_S, name=place.layer, metric=metric, window=place.window, how=how, share=share
        )
    if notice := bench.worker.take_notice():
        gr.Info(html.escape(notice))
    return found


def _protocol(answer: dict[str, Any]) -> str:
    seen = f"On {answer['protocol']}, read just now." if answer.get("protocol") else "From the weights alone."
    if answer.get("share"):
        seen += f" Ochre: what a share of {100 * answer['share']:.0f} % takes by this score, compared within {_within(answer['compare'])}."
    return seen + (" Click a tile to go closer." if "window" in answer else "")


def _grouped(described: dict[str, Any], place: Place) -> str:
    """What a head is, where several query heads share one key and value head."""
    block = next((block for block in described.get("blocks", ()) if block["name"] == place.block), {})
    attention = block.get("attention") or {}
    queries, keys = attention.get("query_heads", 1), attention.get("kv_heads", 1)
    if place.depth != UNITS or place.structure != "heads" or queries <= keys:
        return ""
    return (
        f" A head here is a key and value head with the {queries // keys} query heads that read it: they stand or fall together."
    )


def _within(compare: str) -> str:
    return {"row": "each output row", "layer": "the layer"}.get(compare, "the layer")


def _picture(seen: Observed, place: Place, metric: str, answer: dict[str, Any], share: float) -> tuple[str, Any, Any]:
    data = seen.data
    if place.depth == BLOCKS:
        return xray.importance_finding(data, metric), xray.importance(data, metric), xray.block_table(data)
    if place.depth == BLOCK:
        own = xray.of_layers(data, metric)
        table = xray.layer_table({**data, "layers": xray_deep.modules_of(data, place.block)})
        return xray_deep.module_finding(data, place.block, own), xray_deep.module_bars(data, place.block, own), table
    if place.depth == UNITS:
        return xray_deep.unit_finding(answer), xray_deep.unit_bars(answer, share), xray_deep.unit_table(answer)
    return xray_deep.weight_finding(answer), xray_deep.weight_map(answer), xray_deep.weight_table(answer)


def wire(bench: Bench, dive: Dive, metric: gr.Radio, layer: gr.Dropdown) -> list[Any]:
    """Clicks, crumbs and controls. Returns the events that may have changed the layer, for what follows them."""

    def of(source: str | None) -> Observed | None:
        return bench.observed(source)

    def show(source: str | None, name: str | None, how: str, to: Place | None) -> Any:
        """The picture of a place: values for `Dive.all()`."""
        seen = of(source)
        return gr.skip() if seen is None or to is None else drawn(bench, source or "", seen, to, name or "", how)

    def go(source: str | None, name: str | None, how: str, to: Place | None) -> Any:
        """The same, and the layer whose card stands beside it."""
        seen = of(source)
        if seen is None or to is None:
            return gr.skip()
        return *drawn(bench, source or "", seen, to, name or "", how), _layer_of(seen, to) or gr.skip()

    def of_click(source: str | None, held: Any, name: str | None, how: str, event: gr.EventData) -> Any:
        seen = of(source)
        try:
            return go(source, name, how, places.clicked(seen.data, places.read(held), picked(event)) if seen else None)
        except PrunariumError as error:
            gr.Info(html.escape(str(error)))
            return gr.skip()

    def of_crumb(source: str | None, held: Any, name: str | None, how: str, event: gr.EventData) -> Any:
        return go(source, name, how, places.read((event._data or {}).get("to")))

    def of_layer(source: str | None, held: Any, name: str | None, how: str, chosen: str | None) -> Any:
        seen = of(source)
        return go(source, name, how, places.of_layer(seen.data, chosen) if seen and chosen else None)

    def again(source: str | None, held: Any, name: str | None, how: str, score: str | None = None) -> Any:
        return show(source, name, how, replace(places.read(held), **({"metric": score} if score else {})))

    def budget(source: str | None, held: Any, name: str | None, how: str) -> Any:
        return again(source, held, name, how) if places.read(held).depth in (UNITS, WEIGHTS) else gr.skip()

    def window(source: str | None, held: Any, name: str | None, how: str, text: str) -> Any:
        place, seen = places.read(held), of(source)
        if seen is None or place.depth != WEIGHTS:
            return gr.skip()
        try:
            asked = places.typed_window(text, places.shape_of(seen.data, place.layer))
        except PrunariumError as error:
            gr.Warning(html.escape(str(error)), title="Not done")
            return gr.skip()
        return show(source, name, how, replace(place, windows=(asked,) if asked else ()))

    told, shown = [bench.model, dive.place, metric, dive.how], dive.all()
    dive.score.input(again, [*told, dive.score], shown, **DEEP)
    dive.how.input(again, told, shown, **DEEP)
    dive.window.submit(window, [*told, dive.window], shown, **DEEP)
    bench.budget.change(budget, told, shown, **DEEP)
    return [
        dive.view.select(of_click, told, [*shown, layer], **HEARD),
        dive.crumbs.select(of_crumb, told, [*shown, layer], **HEARD),
        layer.input(of_layer, [*told, layer], [*shown, layer], **DEEP),
    ]


def _layer_of(seen: Observed, place: Place) -> str | None:
    """The layer whose card stands beside the picture: the one looked into, else the largest of the block."""
    if place.layer:
        return place.layer
    rows = xray_deep.modules_of(seen.data, place.block)
    return max(rows, key=lambda row: row["parameters"])["name"] if rows else None
