"""The proof's place in the Data room: its controls, the pictures of the newest proof, and the recipe that a press on the button starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from core.errors import PrunariumError
from core.recipe import Recipe
from core.recipe_prove import SHARES
from studio.charts import proof as charts
from studio.charts import proof_time
from studio.charts.compare import Picture
from studio.parts import facts
from studio.parts.plotview import PlotlyView, table_twin
from studio.rooms.data import crossing, dataplan
from studio.rooms.data.crossing import Crossing
from studio.rooms.data.dataplan import Choice

WHY = (
    "Train on what stays and, beside it, on random rows, on the other end of the order, and on random rows with a teacher, at these shares and the "
    "slider's; test on rows that none saw."
)
LEARNERS = [("Linear probe", "linear"), ("MLP", "mlp"), ("CNN (images)", "cnn"), ("Tiny Llama (texts)", "tiny-llama")]
_NEEDS = {
    "cnn": ("images", "The CNN learns from images, and these rows have none."),
    "tiny-llama": ("text", "Tiny Llama learns from texts, and these rows have none."),
}


@dataclass(frozen=True)
class Proving:
    """The components. Each picture: a finding, a plot and its table."""

    learner: gr.Dropdown
    shares: gr.Textbox
    seeds: gr.Slider
    prove: gr.Button
    note: gr.HTML
    box: gr.Column
    plots: tuple[gr.HTML, ...]
    notes: tuple[gr.HTML, ...]
    tables: tuple[gr.Dataframe, ...]
    crossing: Crossing

    def drawn(self) -> list[Any]:
        return [self.note, self.box, *self.plots, *self.notes, *self.tables, *self.crossing.drawn()]

    def controls(self) -> list[Any]:
        return [self.learner, self.shares, self.seeds]


def layout() -> Proving:
    """Make every component."""
    note = facts.component("data-proof-note", facts.said("Not proven yet", WHY, "not measured"))
    with gr.Row():
        learner = gr.Dropdown(LEARNERS, value="linear", label="Learner", min_width=140, scale=3, elem_id="data-learner")
        usual = ", ".join(f"{100 * share:g}" for share in SHARES)
        shares = gr.Textbox(usual, label="Shares (%)", min_width=140, scale=3, max_lines=1, elem_id="data-shares")
        seeds = gr.Slider(1, 10, 3, step=1, label="Seeds", min_width=190, scale=3, elem_id="data-seeds")
    prove = gr.Button("Prove it (a run)", variant="primary", elem_id="data-prove")
    plots, notes, tables = [], [], []
    with gr.Column(visible=False) as box:
        for name, height, alt, headers in (
            (
                "proof",
                330,
                "Held-out figure against the share of rows kept, with intervals over seeds; all rows as a level",
                charts.HEADERS,
            ),
            ("proof-time", 300, "Held-out figure against seconds, choosing and teaching counted", proof_time.TIME_HEADERS),
            ("proof-law", 300, "Error against rows trained on, with a power law", charts.LAW_HEADERS),
        ):
            if plots:
                notes.append(facts.component(f"data-{name}-note"))
            plots.append(PlotlyView(height=height, alt=alt, elem_id=f"data-{name}"))
            tables.append(table_twin(name.replace("-", ", "), list(headers)))
    return Proving(learner, shares, seeds, prove, note, box, tuple(plots), tuple(notes), tuple(tables), crossing.layout())


def nothing() -> list[Any]:
    """The outputs `Proving.drawn()` where no rows are on the map."""
    return [None, gr.Column(visible=False), None, None, None, None, None, [], [], [], *crossing.nothing()]


def shown(runs: Path, choice: Choice, share: float) -> list[Any]:
    """The outputs `Proving.drawn()`: the newest finished proof of this way to choose, whatever its learner."""
    found = dataplan.found_proof(runs, choice)
    if found is None:
        return [facts.said("Not proven yet", WHY, "not measured"), *nothing()[1:-3], *crossing.shown(runs, choice)]
    label = dataplan.way_label(choice.way)
    first = charts.accuracy(found.lines, label, share)
    rest = [proof_time.time_to(found.lines, label, share), charts.scaling(found.lines, found.told, label)]
    learner = next((name for name, key in LEARNERS if key == found.learner), found.learner)
    note = f"{learner}. {found.protocol}"
    said = [facts.said(picture.finding, _small_print(found.told, at), "measured") for at, picture in enumerate(rest)]
    pictures = [first, *rest]
    return [
        facts.said(first.finding, note, "measured"),
        gr.Column(visible=True),
        *(one.figure for one in pictures),
        *said,
        *map(_table, pictures),
        *crossing.shown(runs, choice),
    ]


def _small_print(told: Mapping[str, Any], at: int) -> str:
    """What stands below the finding of the second and third picture."""
    if at == 0:
        return "The goal is 98 % of what all rows give. A teacher's seconds are those of training on all rows."
    laws = told.get("power_laws") or {}
    words = [(laws.get("random") or {}).get("words", ""), (told.get("half_life") or {}).get("words", "")]
    return " ".join(f"{head}: {word}" for head, word in zip(("Random", "Repetition"), words, strict=True) if word)


def _table(picture: Picture) -> list[list[str]]:
    return [list(row) for row in picture.rows]


def recipe_of(choice: Choice, kind: str, labelled: bool, share: float, learner: str, shares: str, seeds: float) -> Recipe:
    """The proof that the controls ask for. Raises PrunariumError in a sentence where these rows cannot have it."""
    wanted, problem = _NEEDS.get(learner, ("", ""))
    if wanted and wanted != kind:
        raise PrunariumError(problem, "Choose the linear probe or the MLP, which learn from the vectors.")
    if not labelled and learner != "tiny-llama":
        raise PrunariumError(
            "The proof needs labels, and these rows have none.", "Name the label column under Columns and bad rows."
        )
    refuse_bars(choice)
    asked = sorted({*percents(shares), round(share, 4)})
    return dataplan.to_recipe(choice, share, prove={"learner": learner, "shares": asked, "seeds": int(seeds)})


def refuse_bars(choice: Choice) -> None:
    """Quotas by hand are of the clusters on the screen; a proof makes clusters of each seed's own rows, and keeps many shares."""
    if any(name == "quotas" and str(value).strip() for name, value in choice.params) and choice.selector == "cluster_quotas":
        raise PrunariumError(
            "Bars set by hand hold for these clusters and this share, and a proof makes its own for each seed.",
            "Choose another rule under Chosen by, or reset the bars.",
        )


def percents(text: str) -> list[float]:
    """ "5, 10 20" -> shares 0..1. Raises PrunariumError."""
    found = text.replace(",", " ").replace("%", " ").replace(";", " ").split()
    try:
        shares = [round(float(word) / 100, 6) for word in found]
    except ValueError:
        shares = [0.0]
    if len(shares) > 19 or not all(0 < share <= 1 for share in shares):
        raise PrunariumError(
            f"{text.strip()[:40]!r} is not a list of shares.", "Write per cents above 0 and up to 100, such as 5, 10, 20."
        )
    return shares
