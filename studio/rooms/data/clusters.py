"""How rows are chosen beyond their order, and their clusters: selectors with their controls, quotas by hand, the treemap. Wired apart from the map."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from studio.bench import Bench, plainly
from studio.parts import facts
from studio.rooms.data import choosing, quotas, treemap
from studio.rooms.data.dataview import View
from studio.rooms.data.drawing import draw
from studio.rooms.data.layout import Room
from studio.rooms.data.opening import LATEST, QUIET
from studio.rooms.prune.params import details

Moved = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Below:
    """The components. `params`: {selector: {parameter: value}} of those that were moved; `hand`: {"of", "shares"} of the
    bars."""

    selector: gr.Dropdown
    params: gr.State
    hand: gr.State
    note: gr.HTML
    bars: gr.HTML
    tree: gr.HTML


def layout(bench: Bench) -> Below:
    """Make the components."""
    info = "The order of the scores alone, or a rule that looks at clusters, neighbours or quotas too"
    params = gr.State({})
    redrawn = gr.State(None)  # nothing but a hand moves these controls
    with gr.Row(elem_classes="split"):
        with gr.Column(scale=5, min_width=300):
            selector = gr.Dropdown(
                choosing.selectors(), value=choosing.USUAL, label="Chosen by", info=info, elem_id="data-selector"
            )
        with gr.Column(scale=7, min_width=300):
            details("How rows are chosen", bench.page, selector, params, choosing.card_of, "data-chosen", redrawn)
    note, hand = facts.component("data-selector-note"), gr.State(None)
    return Below(selector, params, hand, note, quotas.component("data-quotas"), treemap.component(bench, "data-tree"))


def wire(bench: Bench, room: Room, show: Any, outputs: list[Any]) -> None:
    """What is chosen, moved and pressed here; and what follows the rows that are open."""
    below: Below = room.below
    _wire_selectors(bench, room, below)

    @plainly
    def used(event: gr.EventData, view: View | None, *shown: Any) -> Any:
        """The visible clusters of the tree become the map's."""
        count = int((event._data or {}).get("count") or 0)
        if view is None or not view.ready or count < 2:
            return gr.skip()
        return show(replace(view.choice, clusters=count, merged=True), *shown)

    below.tree.submit(used, room.controls(), outputs, **QUIET)


def _wire_selectors(bench: Bench, room: Room, below: Below) -> None:
    wishes = [below.selector, below.params, below.hand, *room.controls()]
    outputs = [room.view, below.note, below.bars, below.tree, *room.drawn()]

    @plainly
    def chosen(selector: str, params: Moved, hand: Any, view: View | None, keep: float, *looks: Any) -> Any:
        """The selector of the controls decides for the rows that are open; what else shows clusters follows, and cards and proof are of this choice."""
        if view is None or not view.ready:
            return [gr.skip(), None, None, None, *(gr.skip() for _ in room.drawn())]
        now = choosing.with_selector(view, selector, params, hand)
        if now is view:  # drawn so already
            return [
                gr.skip(),
                choosing.note(view),
                quotas.shown(view, keep, hand),
                treemap.shown(view, keep),
                *(gr.skip() for _ in room.drawn()),
            ]
        drawn = draw(bench, now, keep, *looks)
        return [now, choosing.note(now), quotas.shown(now, keep, hand), treemap.shown(now, keep), *drawn]

    @plainly
    def moved(event: gr.EventData, selector: str, params: Moved, hand: Any, view: View | None, keep: float, *looks: Any) -> Any:
        """A hand on the bars: its quotas and its total."""
        shares, total = quotas.told(event)
        if view is None or not view.ready or shares["of"] != choosing.clusters_of(view):
            return gr.skip()
        now = choosing.with_selector(view, selector, params, shares)
        drawn = draw(bench, now, total, *looks)
        return [
            shares,
            gr.Slider(minimum=quotas.LEAST, step=quotas.LEAST, value=total),
            now,
            choosing.note(now),
            quotas.shown(now, total, shares),
            *drawn,
        ]

    gr.on([below.selector.input, below.params.change, room.view.change, room.keep.release], chosen, wishes, outputs, **LATEST)
    held = [below.hand, room.keep, room.view, below.note, below.bars, *room.drawn()]
    below.bars.submit(moved, wishes, held, **QUIET, trigger_mode="multiple")  # always_last loses what an event says
