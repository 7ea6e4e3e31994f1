"""The components of the Data room and where they stand. What they do is in studio/rooms/data.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from core import builtins
from studio.charts import data as charts
from studio.parts import cards, facts, views
from studio.parts.plotview import PlotlyView, table_twin
from studio.rooms.data import dataplan, proving, samples
from studio.rooms.data.dataplan import DIGITS, Choice
from studio.rooms.data.proving import Proving
from studio.rooms.prune.params import details


@dataclass(frozen=True)
class Room:
    """The room's components. `view`: what is open (a View, or None). `below`: what stands between the map and what is kept (clusters.Below)."""

    view: gr.State
    source: gr.Dropdown
    text: gr.Textbox
    label: gr.Textbox
    skip: gr.Checkbox
    more: gr.Accordion
    open: gr.Button
    problem: gr.HTML
    about: gr.HTML
    embedding: gr.Dropdown
    colour: gr.Radio
    projection: gr.Radio
    looked: gr.State
    find: gr.Textbox
    clear: gr.Button
    make_map: gr.Button
    map: gr.HTML
    map_note: gr.HTML
    map_table: gr.Dataframe
    samples: gr.HTML
    way: gr.Dropdown
    params: gr.State
    keep: gr.Slider
    by: gr.Radio
    sizes: gr.HTML
    size_note: gr.HTML
    size_table: gr.Dataframe
    proving: Proving
    select: gr.Button
    parquet: gr.DownloadButton
    csv: gr.DownloadButton
    codes: list[gr.Code]
    below: Any

    def drawn(self) -> list[Any]:
        """Everything that follows from the open rows, the controls and the finished runs; the outputs of `_draw`."""
        return [
            *self.live(),
            self.make_map,
            self.samples,
            *self.proving.drawn(),
        ]

    def live(self) -> list[Any]:
        """What follows a hand on the slider."""
        return [
            self.map,
            self.map_table,
            self.sizes,
            self.size_note,
            self.size_table,
            self.parquet,
            self.csv,
            *self.codes,
            self.map_note,
        ]

    def controls(self) -> list[Any]:
        return [self.view, self.keep, self.colour, self.projection, self.by, self.looked]


def layout(page: gr.Blocks, between: Callable[[], Any]) -> Room:
    """Make every component. `between` makes what stands, in full width, between the map and what is kept."""
    with gr.Column(elem_id="data-room"):
        picture = _picture(page)
        below = between()
        with gr.Row(elem_classes="split"):
            with gr.Column(scale=6, min_width=300):
                keeping = _keeping()
            with gr.Column(scale=6, min_width=300):
                proof = proving.layout()
        codes = views.command_views(elem_id="data-command")
    return Room(view=gr.State(None), **picture, **keeping, proving=proof, codes=codes, below=below)


def _opening() -> dict[str, Any]:
    held = [
        (f"{one.label} ({one.size_mb:g} MB)", f"builtin:{one.name}") for one in builtins.BUILTINS.values() if one.kind == "data"
    ]
    info = "A built-in, a .csv, .jsonl, .parquet or .arrow file or a folder of pictures in an opened folder, or a hub id"
    source = gr.Dropdown(held, value=DIGITS, label="Rows", info=info, allow_custom_value=True, elem_id="data-source")
    with gr.Accordion("Columns and bad rows", open=False, elem_id="data-more") as more:
        with gr.Row():
            text = gr.Textbox("", label="Text column", placeholder="text", min_width=140, elem_id="data-text")
            label = gr.Textbox("", label="Label column", placeholder="label", min_width=140, elem_id="data-label")
        skip = gr.Checkbox(False, label="Skip bad rows", info="They are counted and named first", elem_id="data-skip")
        opened = gr.Button("Open again", elem_id="data-open")
    problem = cards.sentence(elem_id="data-problem")
    return {"source": source, "open": opened, "text": text, "label": label, "skip": skip, "more": more, "problem": problem}


def _picture(page: gr.Blocks) -> dict[str, Any]:
    out: dict[str, Any] = {}
    with gr.Row(elem_classes="split"):
        with gr.Column(scale=8, min_width=300):
            out |= _controls(page)
            out["map_note"] = facts.component("data-map-note")
            out["make_map"] = gr.Button("Make the UMAP map (a run)", visible=False, size="sm", elem_id="data-make-map")
            alt = "Map of the rows: what stays is coloured, what goes is grey; rows that are chosen stand out"
            out["map"] = PlotlyView(height=500, alt=alt, elem_id="data-map")
            headers = ["Row", "Class", "Cluster", "Score", "Stays", "x", "y"]
            out["map_table"] = table_twin("rows on the map, the chosen ones where some are; at most 200", headers)
        with gr.Column(scale=5, min_width=300):
            out |= _opening()
            out["about"] = facts.component("data-about")
            out["samples"] = samples.component("data-samples")
    return out


def _controls(page: gr.Blocks) -> dict[str, Any]:
    """What the map shows, and how much stays."""
    colours = [(word, key) for key, word in charts.WAYS.items()]
    maps = [("PCA", "pca"), ("UMAP", "umap")]
    out: dict[str, Any] = {"keep": gr.Slider(1, 100, 30, step=1, label="Rows that stay (%)", elem_id="data-keep")}
    with gr.Row():
        out["way"] = gr.Dropdown(dataplan.ways(), value=Choice.way, label="Keep first", min_width=150, elem_id="data-way")
        out["embedding"] = gr.Dropdown(
            [("Pixels", "pixels")],
            value="pixels",
            label="Described by",
            allow_custom_value=True,
            min_width=150,
            elem_id="data-embedding",
        )
    out["params"] = gr.State({})
    redrawn = gr.State(None)  # nothing but a hand moves these controls
    details("How rows are scored", page, out["way"], out["params"], dataplan.score_card, "data-details", redrawn)
    with gr.Row():
        out["colour"] = gr.Radio(colours, value="label", label="Colour", min_width=250, scale=5, elem_id="data-colour")
        out["projection"] = gr.Radio(maps, value="pca", label="Map", min_width=170, scale=2, elem_id="data-projection")
    out["looked"] = gr.State(None)
    with gr.Row(elem_classes="finding"):
        said = "A word of a text or class, then Enter"
        out["find"] = gr.Textbox("", label="Find", placeholder=said, max_lines=1, max_length=200, scale=5, elem_id="data-find")
        out["clear"] = gr.Button("Choose none", size="sm", min_width=110, scale=1, elem_id="data-clear")
    return out


def _keeping() -> dict[str, Any]:
    out: dict[str, Any] = {"size_note": facts.component("data-size-note")}
    groups = [("Clusters", "cluster"), ("Classes", "label")]
    out["by"] = gr.Radio(groups, value="cluster", show_label=False, label="Count by", container=False, elem_id="data-by")
    out["sizes"] = PlotlyView(
        height=300, alt="A bar for each cluster or class: rows that stay and rows that go", elem_id="data-sizes"
    )
    out["size_table"] = table_twin("sizes", ["Name", "Rows", "Stay", "Stay %"])
    with gr.Row():
        out["select"] = gr.Button("Make selection (a run)", elem_id="data-select", min_width=210, scale=2)
        out["parquet"] = gr.DownloadButton("Parquet", visible=False, elem_id="data-parquet", min_width=90)
        out["csv"] = gr.DownloadButton("CSV", visible=False, elem_id="data-csv", min_width=90)
    return out
