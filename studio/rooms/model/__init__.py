"""Model: open one, see what it is made of, and what can be pruned in it."""

from __future__ import annotations

from typing import Any

import gradio as gr

from core import builtins
from core.errors import PrunariumError
from studio import known
from studio.bench import Bench
from studio.parts import facts
from studio.parts.explaining import drawer
from studio.parts.plotview import table_twin
from studio.rooms.model import anatomy, opening

_INTRO = """## Model
What there is to prune. Open a built-in model, a folder with safetensors, a .gguf file, or a model of the Hugging Face hub."""


def build(bench: Bench) -> None:
    gr.Markdown(_INTRO)
    with gr.Row(equal_height=False, elem_id="model-source-row", elem_classes="by-the-field"):
        source = gr.Dropdown(
            choices=[(f"{found.label} (built in)", f"builtin:{name}") for name, found in builtins.BUILTINS.items() if found.kind == "model"],
            value=None, allow_custom_value=True, scale=5, min_width=290, label="Model", elem_id="model-source",
            info="A built-in name, a folder, a .gguf file, or a hub id such as owner/name@revision",
        )  # fmt: skip
        button = gr.Button("Open", variant="primary", scale=0, min_width=140, size="md", elem_id="model-open")
    told = facts.component("model-told")
    title = facts.component("model-finding")
    drawing = anatomy.component()
    table = table_twin("every layer")
    with gr.Accordion("What cannot be pruned here, and why", open=False):
        refused = gr.Dataframe(headers=["Structure", "Why not"], datatype="str", interactive=False, show_label=False, wrap=True)
    drawer("sparsity", "structures")
    timer = gr.Timer(0.5, active=False)
    _wire(bench, source, button, told, timer, [title, drawing, table, refused])


def _wire(bench: Bench, source: gr.Dropdown, button: gr.Button, told: gr.HTML, timer: gr.Timer, drawn: list[Any]) -> None:
    work = opening.Opening(bench.worker, bench.workspace.folder)
    told_of: dict[str, Any] = {
        "show_progress": "hidden",
        "api_visibility": "private",
    }  # queued: only then do signals reach other rooms
    quiet = {**told_of, "queue": False}

    def opened(name: str) -> None:
        bench.workspace.change(model=name)

    def draw(name: str | None) -> Any:
        """The open model, from what is known of it; where nothing is, the worker is asked in the background."""
        if not name:
            return gr.skip()
        described = known.description(name, bench.workspace.folder)
        if described is None:
            stage = work.start(name, opened)
            return facts.said("Opening", stage.text), gr.Timer(active=True), name, *[gr.skip()] * len(drawn)
        return gr.skip(), gr.Timer(active=work.stage.state == "opening"), name, *_picture(described)

    def preview(name: str | None) -> Any:
        if not name:
            return None
        try:
            return opening.look(bench.admit(name))
        except PrunariumError as error:
            return facts.said("That cannot be opened", str(error))

    def start(name: str | None) -> Any:
        try:
            stage = work.start(bench.admit(name or ""), opened)
        except PrunariumError as error:
            return facts.said("That cannot be opened", str(error)), gr.Timer(active=False)
        return facts.said("Opening", stage.text), gr.Timer(active=True)

    def tick() -> Any:
        stage = work.stage
        if stage.state == "opening":
            return facts.said("Opening", stage.text), gr.skip(), gr.skip(), *[gr.skip()] * len(drawn)
        if stage.state == "failed":
            return facts.said("Not opened", stage.text), gr.Timer(active=False), gr.skip(), *[gr.skip()] * len(drawn)
        described = known.description(stage.source, bench.workspace.folder) if stage.state == "open" else None
        picture = _picture(described) if described else [gr.skip()] * len(drawn)
        return facts.said(note=bench.worker.take_notice()), gr.Timer(active=False), stage.source or gr.skip(), *picture

    bench.model.change(draw, bench.model, [told, timer, source, *drawn], **quiet)
    source.input(preview, source, told, **quiet, trigger_mode="always_last")
    button.click(start, source, [told, timer], **quiet)
    timer.tick(tick, None, [told, timer, bench.model, *drawn], **told_of)


def _picture(described: dict[str, Any]) -> tuple[Any, ...]:
    title = facts.said(anatomy.finding(described), anatomy.note(described))
    return title, anatomy.packed(described), anatomy.table(described), anatomy.refused(described)
