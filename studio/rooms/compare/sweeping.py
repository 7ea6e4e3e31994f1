"""Sweeps in the Compare room: a small form that writes the YAML, the YAML to change at will, and the cells as they come in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from core import catalogue, folder, sweep
from core.compare import MOST, Side
from core.errors import PrunariumError, ResourceError
from core.recipe import to_dict
from core.report import final
from core.sweep import CellState
from studio import jobs, known
from studio.bench import Bench, plainly
from studio.charts.sweep import pareto_of_many
from studio.parts import cards, facts
from studio.parts.plotview import PlotlyView
from studio.rooms.compare.sweep_form import CHOOSERS, form_yaml

_QUIET: dict[str, Any] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}
_TELL: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}  # only queued events make a State's change heard
HEADERS = ["Cell", "State", "Perplexity", "Accuracy", "Non-zero weights", "What is wrong"]
_SAID_FREELY = ("expression", "generate", "name")  # texts, not places


def build(bench: Bench, choose: Callable[[list[str]], Any], chosen: Sequence[Any]) -> None:
    """choose(names) -> the outputs `chosen`: puts cells side by side in the room above."""
    methods = [
        (card.label, card.name) for card in catalogue.of_kind("score") if not card.problem and "unstructured" in card.structures
    ]
    with gr.Accordion("Sweep: many recipes as one job", open=False, elem_id="sweep"):
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                picked = gr.Dropdown(
                    methods, value=["magnitude", "wanda"], multiselect=True, label="Methods", elem_id="sweep-methods"
                )
                shares = gr.Textbox("30, 50, 70", label="Shares to remove (%)", elem_id="sweep-shares", max_length=200)
                chosen_by = gr.Dropdown(
                    CHOOSERS, value=[], multiselect=True, label="Calibration text chosen by", elem_id="sweep-calibration",
                    info="Nothing chosen: windows at random places. Overlap of the masks tells what the choice changes",
                )  # fmt: skip
                write = gr.Button("Write the sweep", size="sm", elem_id="sweep-write")
            with gr.Column(scale=3, min_width=280):
                text = gr.Textbox(
                    "", label="The sweep (YAML)", lines=10, max_lines=24, elem_id="sweep-yaml", placeholder="Write it with the form, or paste one",
                    info="Any field of the recipe may have a list: steps.0.prune.structure, seed, calibration.samples ...",
                )  # fmt: skip
        said = cards.sentence(elem_id="sweep-said")
        with gr.Row():
            start = gr.Button("Start the sweep", variant="primary", size="sm", interactive=False, elem_id="sweep-start")
            which = gr.Dropdown([], label="Show a sweep", elem_id="sweep-which", visible=False)
            resume = gr.Button("Go on with it", size="sm", visible=False, elem_id="sweep-resume")
            beside = gr.Button(f"Compare its first {MOST} cells", size="sm", visible=False, elem_id="sweep-beside")
        note = facts.component("sweep-note")
        view = PlotlyView(
            height=320,
            alt="Quality against size: a point for each finished cell of the sweep",
            elem_id="sweep-view",
            visible=False,
        )
        table = gr.Dataframe(headers=HEADERS, datatype="str", interactive=False, show_label=False, label="Cells", elem_id="sweep-table",
                             buttons=["copy"], max_height=360, visible=False)  # fmt: skip
    timer = gr.Timer(2.0, active=False)
    seen = [which, resume, beside, note, view, table, timer]
    _wire(bench, (picked, shares, chosen_by, write, text, said, start), seen)

    @plainly
    def side_by_side(name: str) -> Any:
        done = [f"{name}/{cell.name}" for cell in sweep.cells_in(bench.path_of(name)) if cell.state == "done"]
        if len(done) < 2:
            raise ResourceError("Fewer than two cells of this sweep are done.", "Wait for them.")
        return choose(done[:MOST])

    beside.click(side_by_side, which, list(chosen), **_QUIET)


def _wire(bench: Bench, form: tuple[Any, ...], seen: list[Any]) -> None:
    picked, shares, chosen_by, write, text, said, start = form
    which, resume = seen[:2]

    def checked(yaml: str) -> Any:
        if not yaml.strip():
            return {"text": ""}, gr.Button(interactive=False)
        try:
            return {"text": words(_admitted(bench, yaml)), "wrong": False}, gr.Button(interactive=True)
        except PrunariumError as error:
            return {"text": str(error), "wrong": True}, gr.Button(interactive=False)

    @plainly
    def written(methods: list[str], typed: str, choosers: list[str]) -> Any:
        model = bench.workspace.read().model
        described = known.description(model, bench.workspace.folder) or {}
        return form_yaml(model, methods, typed, str(described.get("kind") or "decoder"), choosers or [])

    @plainly
    def begin(yaml: str) -> Any:
        path = jobs.start_sweep(sweep.to_yaml(_admitted(bench, yaml).whole), bench.runs)
        bench.workspace.change(run=path.name)
        return path.name, *look(path.name)

    @plainly
    def go_on(name: str) -> Any:
        path = bench.path_of(name)
        jobs.resume_sweep(path)
        bench.workspace.change(run=name)
        return name, *look(name)[:-1], gr.Timer(active=True)

    def look(name: str | None) -> tuple[Any, ...]:
        return _shown(bench, name)

    write.click(written, [picked, shares, chosen_by], text, **_QUIET)
    text.change(checked, text, [said, start], trigger_mode="always_last", **_QUIET)  # `input` misses a paste right after we wrote
    start.click(begin, text, [bench.run, *seen], **_TELL)
    resume.click(go_on, which, [bench.run, *seen], **_TELL)
    which.input(look, which, seen, **_QUIET)
    seen[-1].tick(look, which, seen, **_QUIET)
    gr.on([bench.page.load, bench.ended.change], look, which, seen, trigger_mode="multiple", **_QUIET)


def words(asked: sweep.Sweep) -> str:
    """The plan of a sweep in a sentence: how many runs, over what, and which cannot run."""
    good = [cell for cell in asked.cells if cell.recipe]
    bad = [cell for cell in asked.cells if not cell.recipe]
    out = f"{len(good)} run{'s' * (len(good) != 1)}, one after another, over {', '.join(asked.fields)}."
    if bad:
        out += f" {len(bad)} cell{'s' * (len(bad) != 1)} cannot run and will be passed over; the first is {bad[0].name}: {bad[0].problem}"
    return out


def _admitted(bench: Bench, yaml: str) -> sweep.Sweep:
    """The sweep with every place that its recipes name looked at and written whole: a path must lie in an opened folder, and the cells run in
    another one. Raises RecipeError, ResourceError."""
    asked = sweep.from_yaml(yaml)
    found = {place: bench.admit(place) for place in _named(asked)}
    if all(place == whole for place, whole in found.items()):
        return asked
    asked = sweep.made(_placed(asked.whole, found))
    for place in _named(asked):
        if bench.admit(place) != place:
            raise ResourceError(f"{place} cannot be found from the folder where the cells run.", "Write the whole path.")
    return asked


def _named(asked: sweep.Sweep) -> list[str]:
    return sorted({place for cell in asked.cells if cell.recipe for place in places(to_dict(cell.recipe))})


def _placed(value: Any, found: dict[str, str], key: str = "") -> Any:
    """A sweep's mapping with each place in its admitted words."""
    if isinstance(value, dict):
        return {name: item if name in _SAID_FREELY else _placed(item, found, str(name)) for name, item in value.items()}
    if isinstance(value, list):
        return [_placed(item, found, key) for item in value]
    return found.get(value, value) if _is_place(value, key) else value


def places(value: Any, key: str = "") -> list[str]:
    """Every string in a recipe that may name a file: what has a slash, a backslash, or begins with a dot or ~."""
    if isinstance(value, dict):
        return [found for name, item in value.items() if name not in _SAID_FREELY for found in places(item, str(name))]
    if isinstance(value, list):
        return [found for item in value for found in places(item, key)]
    return [value] if _is_place(value, key) else []


def _is_place(value: Any, key: str) -> bool:
    if not isinstance(value, str) or value.startswith("builtin:"):
        return False
    source = key.rpartition(".")[2] in ("source", "base", "resume") and value not in ("auto", "pixels", "tfidf")
    return source or "/" in value or "\\" in value or value.startswith((".", "~"))


def _sweeps(bench: Bench) -> list[str]:
    return [path.name for path in folder.runs(bench.runs) if (path / sweep.FILE).is_file()]


def _shown(bench: Bench, name: str | None) -> tuple[Any, ...]:
    """Outputs `seen`: the cells of the chosen sweep, or of the newest."""
    there = _sweeps(bench)
    name = name if name in there else (there[0] if there else None)
    if name is None:
        nothing = (
            gr.Button(visible=False),
            gr.Button(visible=False),
            None,
            PlotlyView(value=None, visible=False),
            gr.Dataframe(visible=False),
        )
        return gr.Dropdown(choices=[], value=None, visible=False), *nothing, gr.Timer(active=False)
    cells, at = sweep.cells_in(bench.runs / name), jobs.status(bench.runs / name)
    done = [cell for cell in cells if cell.state == "done" and cell.report]
    sides = [Side(f"{cell.name}", cell.path, cell.report or {}, None) for cell in done]
    picture = pareto_of_many(sides) if len(sides) > 1 else None
    live = at is not None and not at.ended
    counted = f"{len(done)} of {len(cells)} cells are done"
    title = f"{picture.finding}; {counted}" if picture and picture.figure else counted
    stopped = at is not None and at.state in ("stopped", "interrupted", "failed") and not (at.path / folder.REPORT).exists()
    return (
        gr.Dropdown(choices=there, value=name, visible=True),
        gr.Button(visible=stopped),
        gr.Button(visible=len(done) > 1),
        facts.said(title, f"{at.problem} {at.remedy}".strip() if at else "", "measured" if done else ""),
        PlotlyView(value=picture.figure if picture else None, visible=bool(picture and picture.figure)),
        gr.Dataframe(value=rows(cells), visible=True),
        gr.Timer(active=live),
    )


def rows(cells: Sequence[CellState]) -> list[list[str]]:
    """A row a cell: HEADERS says the columns."""
    out = []
    for cell in cells:
        end = final(cell.report or {})[1]
        figures = [
            cards.written(key, end[key]) if end.get(key) is not None else "" for key in ("perplexity", "accuracy", "nonzero")
        ]
        out.append([cell.name, cell.state, *figures, cell.problem if cell.state != "done" else ""])
    return out
