"""Two axes at once, below the proof: how much of the rows and of the weights can go together. Its controls, picture, and the recipe of the job."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from core import catalogue
from core.errors import PrunariumError
from core.recipe import Recipe, parse
from core.recipe import to_dict as recipe_dict
from studio.bench import Bench, plainly
from studio.charts import crossing as charts
from studio.parts import facts
from studio.parts.plotview import PlotlyView, table_twin
from studio.rooms.data import dataplan
from studio.rooms.data.dataplan import Choice

WHY = "Train a small learner on each share of the rows, then prune its weights to each share and train it a little more: which of both can go together?"
_LEARNERS = [("MLP", "mlp"), ("CNN (images)", "cnn")]
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


@dataclass(frozen=True)
class Crossing:
    """The components."""

    learner: gr.Dropdown
    rows: gr.Textbox
    weights: gr.Textbox
    seeds: gr.Slider
    go: gr.Button
    note: gr.HTML
    plot: gr.HTML
    table: gr.Dataframe

    def drawn(self) -> list[Any]:
        return [self.note, self.plot, self.table]

    def controls(self) -> list[Any]:
        return [self.learner, self.rows, self.weights, self.seeds]


def layout() -> Crossing:
    """Make every component."""
    note = facts.component("data-cross-note", nothing()[0])
    with gr.Row():
        learner = gr.Dropdown(_LEARNERS, value="mlp", label="Learner", min_width=130, scale=3, elem_id="data-cross-learner")
        rows = gr.Textbox("10, 20, 50", label="Rows (%)", min_width=120, scale=3, max_lines=1, elem_id="data-cross-rows")
        weights = gr.Textbox(
            "2, 5, 10, 30", label="Weights (%)", min_width=120, scale=3, max_lines=1, elem_id="data-cross-weights"
        )
        seeds = gr.Slider(1, 10, 3, step=1, label="Seeds", min_width=190, scale=3, elem_id="data-cross-seeds")
    go = gr.Button("Prune both (a run)", elem_id="data-cross")
    alt = "Held-out accuracy by share of rows kept and share of weights kept, each cell with its interval over seeds"
    plot = PlotlyView(height=360, alt=alt, elem_id="data-cross-plot", visible=False)
    return Crossing(learner, rows, weights, seeds, go, note, plot, table_twin("rows by weights", list(charts.HEADERS)))


def nothing() -> list[Any]:
    """The outputs `drawn()` where nothing was measured."""
    return [
        facts.said("Rows and weights together: not measured yet", WHY, "not measured"),
        PlotlyView(value=None, visible=False),
        [],
    ]


def shown(runs: Path, choice: Choice) -> list[Any]:
    """The outputs `drawn()`: the newest finished job of this way to choose."""
    found = dataplan.found_crossing(runs, choice)
    if not found:
        return nothing()
    picture = charts.heat_map(found["cells"])
    said = facts.said(picture.finding, f"{charts.together(found['cells'])} {found['protocol']}".strip(), "measured")
    return [said, PlotlyView(value=picture.figure, visible=True), [list(row) for row in picture.rows]]


def recipe_of(choice: Choice, kind: str, labelled: bool, asked: tuple[str, str, str, float]) -> Recipe:
    """The job that the controls ask for. Raises PrunariumError in a sentence where these rows cannot have it."""
    from studio.rooms.data.proving import percents, refuse_bars

    learner, rows, weights, seeds = asked
    if learner == "cnn" and kind != "images":
        raise PrunariumError(
            "The CNN learns from images, and these rows have none.", "Choose the MLP, which learns from the vectors."
        )
    if not labelled:
        raise PrunariumError(
            "Training needs labels, and these rows have none.", "Name the label column under Columns and bad rows."
        )
    refuse_bars(choice)
    whole = recipe_dict(dataplan.to_recipe(choice))
    whole["name"] = f"{whole['name'][:60].rpartition('-')[0]}-both"
    whole["select"] = {key: value for key, value in whole["select"].items() if key != "keep"}
    whole["cross"] = {"learner": learner, "rows": percents(rows), "weights": percents(weights), "seeds": int(seeds)}
    whole.pop("projection", None)
    return catalogue.resolve(parse(whole))


def wire(bench: Bench, room: Any, crossing: Crossing) -> None:
    """The button. The picture is drawn with those of the proof."""

    @plainly
    def begin(view: Any, *asked: Any) -> Any:
        if view is None:
            return gr.skip()
        return bench.start(recipe_of(view.choice, view.facts["kind"], bool(view.names), asked))  # type: ignore[arg-type]

    crossing.go.click(begin, [room.view, *crossing.controls()], bench.run, **_QUIET)
