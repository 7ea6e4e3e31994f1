"""Runs: everything that was ever started, what it found, and the recipe that does it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from core import folder, sweep
from core.compare import side
from studio import comparing, jobs, runs_table
from studio.bench import Bench, plainly
from studio.parts import cards, views

_QUIET: dict[str, Any] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}
_TELL: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}  # only queued events make a State's change heard


def build(bench: Bench) -> None:
    gr.Markdown(
        "## Runs\nEach run is a folder with its recipe, its events and its report. Choose one to see it, to copy it as a command, or to run it again."
    )
    nothing = cards.hint("Nothing has been run yet.", elem_id="no-runs")
    table = gr.Dataframe(
        headers=runs_table.HEADERS, datatype="str", interactive=False, show_label=False, label="Runs", elem_id="runs-table",
        max_height=420, show_search="filter", buttons=["copy"], visible=False, wrap=True,
        column_widths=[300, 90, 250, 100, 100, 100, 90, 120],
    )  # fmt: skip
    chosen = gr.State(None)
    with gr.Column(visible=False, elem_id="run-details") as details:
        title = cards.sentence(elem_id="run-title")
        with gr.Row():
            replay = gr.Button("Run it again", variant="primary", elem_id="replay", size="sm")
            follow = gr.Button("Show in Prune & recover", size="sm")
            compare = gr.Button("Compare", size="sm")
            export = gr.Button("Make a report", size="sm", elem_id="run-export")
            file = gr.DownloadButton("Download the report", size="sm", visible=False, elem_id="run-download")
        figures = cards.figure_cards(elem_id="run-figures")
        path = gr.Textbox(label="Folder", interactive=False, buttons=["copy"], elem_id="run-folder")
        codes = views.command_views("The recipe", open=True, elem_id="run-recipe")
        with gr.Accordion("Log", open=False):
            log = gr.Code(language=None, show_label=False, interactive=False, lines=4, max_lines=24, elem_id="run-log")
    everything = [chosen, details, title, figures, path, *codes, log, file]

    def refresh() -> Any:
        found = jobs.all_runs(bench.runs)
        return ("" if found else "Nothing has been run yet."), gr.Dataframe(value=runs_table.rows(found), visible=bool(found))

    @plainly
    def choose(event: gr.SelectData) -> Any:
        return _shown(bench, str(event.row_value[0]))

    @plainly
    def again(name: str) -> Any:
        recipe = runs_table.recipe_of(folder.status(bench.path_of(name)))
        if recipe is None:
            gr.Warning("This run left no recipe that can be read.", title="Not done")
            return gr.skip()
        return bench.start(recipe)

    @plainly
    def write(name: str) -> Any:
        return gr.DownloadButton(value=comparing.report([side(bench.path_of(name))]), visible=True)

    @plainly
    def show(name: str) -> Any:
        bench.path_of(name)
        bench.workspace.change(run=name)
        return name, gr.Tabs(selected="prune")

    gr.on([bench.run.change, bench.ended.change], refresh, None, [nothing, table], trigger_mode="multiple", **_QUIET)
    bench.page.load(refresh, None, [nothing, table], **_QUIET)
    table.select(choose, None, everything, **_QUIET)
    replay.click(again, chosen, bench.run, **_TELL)
    follow.click(show, chosen, [bench.run, bench.tabs], **_TELL)
    export.click(write, chosen, file, **_QUIET)
    compare.click(lambda: gr.Tabs(selected="compare"), None, bench.tabs, **_QUIET)


def _shown(bench: Bench, name: str) -> tuple[Any, ...]:
    """What the details of a run show, in the order of their components."""
    at = folder.status(bench.path_of(name))
    recipe = runs_table.recipe_of(at)
    said = f"{name}: {at.state}. {at.problem} {at.remedy}".strip()
    wrong = at.state in ("failed", "interrupted")
    code = views.texts(recipe, str(at.path / folder.RECIPE))
    if (at.path / sweep.FILE).is_file():
        code = _sweep_texts(at.path)
    return (
        name,
        gr.Column(visible=True),
        {"text": said, "wrong": wrong},
        cards.moments(jobs.report(at.path)),
        str(at.path),
        *code,
        jobs.log_tail(at.path),
        gr.DownloadButton(visible=False),
    )


def _sweep_texts(path: Path) -> tuple[str, str, str]:
    """A sweep as the views that there are of it: YAML, and the command that goes on with it."""
    try:
        text = (path / sweep.FILE).read_text(encoding="utf-8")
    except OSError:
        return "", "", ""
    return text, f"python3 launch.py run {path / sweep.FILE} --out {path}", ""
