"""The components of the Data room and where they stand. What they do is in studio/rooms/data.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from core import builtins
from studio import cards, dataplan, facts, samples, views
from studio.charts import data as charts
from studio.dataplan import DIGITS, Choice
from studio.plotview import PlotlyView, table_twin

WHY = "Train a linear probe on what stays, on as many random rows, and on all rows; test on rows that none of them saw. Three seeds."
_PROOF_HEADERS = ["Kept", "Chosen by", "Rows", "Mean %", "Lowest %", "Highest %", "Seeds"]


@dataclass(frozen=True)
class Room:
    """The room's components. `view`: what is open (a View, or None)."""

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
    make_map: gr.Button
    map: gr.HTML
    map_note: gr.HTML
    map_table: gr.Dataframe
    samples: gr.HTML
    way: gr.Dropdown
    keep: gr.Slider
    by: gr.Radio
    sizes: gr.HTML
    size_note: gr.HTML
    size_table: gr.Dataframe
    proof: gr.HTML
    proof_note: gr.HTML
    proof_table: gr.Dataframe
    prove: gr.Button
    select: gr.Button
    parquet: gr.DownloadButton
    csv: gr.DownloadButton
    codes: list[gr.Code]

    def drawn(self) -> list[Any]:
        """Everything that follows from the open rows, the controls and the finished runs; the outputs of `_draw`."""
        return [*self.live(), self.map_note, self.make_map, self.samples, self.proof, self.proof_note, self.proof_table]

    def live(self) -> list[Any]:
        """What follows a hand on the slider."""
        return [self.map, self.map_table, self.sizes, self.size_note, self.size_table, self.parquet, self.csv, *self.codes]

    def controls(self) -> list[Any]:
        return [self.view, self.keep, self.colour, self.projection, self.by]


def layout() -> Room:
    """Make every component."""
    with gr.Column(elem_id="data-room"):
        opening, picture = _opening(), _picture()
        with gr.Row(elem_classes="split"):
            with gr.Column(scale=6, min_width=300):
                keeping = _keeping()
            with gr.Column(scale=6, min_width=300):
                proving = _proving()
        codes = views.command_views(elem_id="data-command")
    return Room(view=gr.State(None), **opening, **picture, **keeping, **proving, codes=codes)


def _opening() -> dict[str, Any]:
    held = [(f"{one.label}: {one.about}", f"builtin:{one.name}") for one in builtins.BUILTINS.values() if one.kind == "data"]
    with gr.Row(equal_height=True, elem_id="data-open-row"):
        source = gr.Dropdown(held, value=DIGITS, label="Rows", allow_custom_value=True, scale=7, min_width=260, elem_id="data-source",
                             info="A built-in, a .csv, .jsonl or .parquet file in an opened folder, or a hub id")  # fmt: skip
        opened = gr.Button("Open", variant="primary", scale=1, min_width=90, elem_id="data-open")
    with gr.Accordion("Columns and bad rows", open=False, elem_id="data-more") as more, gr.Row():
        text = gr.Textbox("", label="Text column", placeholder="text", scale=2, elem_id="data-text")
        label = gr.Textbox("", label="Label column", placeholder="label", scale=2, elem_id="data-label")
        skip = gr.Checkbox(
            False, label="Skip bad rows", info="They are always counted and named first", scale=2, elem_id="data-skip"
        )
    problem = cards.sentence(elem_id="data-problem")
    return {"source": source, "open": opened, "text": text, "label": label, "skip": skip, "more": more, "problem": problem}


def _picture() -> dict[str, Any]:
    out: dict[str, Any] = {"about": facts.component("data-about")}
    with gr.Row(elem_classes="split"):
        with gr.Column(scale=8, min_width=300):
            with gr.Row(elem_id="data-map-controls"):
                out["embedding"] = gr.Dropdown([("Pixels", "pixels")], value="pixels", label="Described by", allow_custom_value=True, min_width=190,
                                               elem_id="data-embedding")  # fmt: skip
                out["colour"] = gr.Radio([(word, key) for key, word in charts.WAYS.items()], value="label", label="Colour", min_width=210,
                                         elem_id="data-colour")  # fmt: skip
                out["projection"] = gr.Radio(
                    [("PCA", "pca"), ("UMAP", "umap")], value="pca", label="Map", min_width=150, elem_id="data-projection"
                )
            out["map_note"] = facts.component("data-map-note")
            out["make_map"] = gr.Button("Make the UMAP map (a run)", visible=False, size="sm", elem_id="data-make-map")
            out["map"] = PlotlyView(
                height=520, alt="Map of the rows: what stays is coloured, what goes is grey", elem_id="data-map"
            )
            out["map_table"] = table_twin("map, an even sample", ["Row", "Class", "Cluster", "Score", "Stays", "x", "y"])
        with gr.Column(scale=5, min_width=300):
            out["samples"] = samples.component("data-samples")
    return out


def _keeping() -> dict[str, Any]:
    out: dict[str, Any] = {"size_note": facts.component("data-size-note")}
    with gr.Row():
        out["way"] = gr.Dropdown(dataplan.ways(), value=Choice.way, label="Keep first", min_width=170, elem_id="data-way")
        out["by"] = gr.Radio(
            [("Clusters", "cluster"), ("Classes", "label")], value="cluster", label="Count by", min_width=150, elem_id="data-by"
        )
    out["keep"] = gr.Slider(1, 100, 30, step=1, label="Rows that stay (%)", elem_id="data-keep")
    out["sizes"] = PlotlyView(
        height=300, alt="A bar for each cluster or class: rows that stay and rows that go", elem_id="data-sizes"
    )
    out["size_table"] = table_twin("sizes", ["Name", "Rows", "Stay", "Stay %"])
    with gr.Row():
        out["select"] = gr.Button("Make the selection (a run)", elem_id="data-select", min_width=150)
        out["parquet"] = gr.DownloadButton("selection.parquet", visible=False, size="md", elem_id="data-parquet", min_width=120)
        out["csv"] = gr.DownloadButton("selection.csv", visible=False, size="md", elem_id="data-csv", min_width=120)
    return out


def _proving() -> dict[str, Any]:
    note = facts.component("data-proof-note", facts.said("Not proven yet", WHY, "not measured"))
    prove = gr.Button("Prove it (a run)", variant="primary", elem_id="data-prove")
    proof = PlotlyView(
        height=372,
        alt="Held-out accuracy against the share of rows kept: the choice, random rows, all rows",
        elem_id="data-proof",
    )
    return {"proof_note": note, "prove": prove, "proof": proof, "proof_table": table_twin("proof", _PROOF_HEADERS)}
