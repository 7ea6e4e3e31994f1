"""Compare: up to eight runs side by side: figures with differences and intervals, pictures, what the models write, a report; and sweeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from core import compare
from core.compare import LETTERS, MOST, Side
from core.compare import masks as compare_masks
from core.compare import words as compare_words
from core.errors import PrunariumError
from studio import comparing
from studio.bench import Bench, plainly
from studio.charts import compare as charts
from studio.charts import robust
from studio.parts import cards, facts
from studio.parts.plotview import PlotlyView, table_twin
from studio.rooms.compare import sweeping

_QUIET: dict[str, Any] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}
_FEW = "Two finished runs are needed here. Prune twice, with another method or another share, and come back."
_BRACKETS = "In brackets: the 95 % interval of a difference, by a paired bootstrap over the windows of text, or images, that both were measured on."
PICTURES = {
    "pareto": "Quality against cost",
    "layers": "Share of each layer",
    "overlap": "Overlap of the masks",
    "map": "Where two masks differ",
    "heads": "Attention heads",
    "robust": "Corrupted images",
    "geometry": "Feature geometry",
}


@dataclass(frozen=True)
class Room:
    """`pictures`: the second control, finding, view, table; `first`, `last`: what is shown before and after them, in order."""

    runs: gr.Dropdown
    look: gr.Radio
    export: gr.Button
    pictures: list[Any]
    first: list[Any]
    last: list[Any]


def build(bench: Bench) -> None:
    _wire(bench, _layout())


def _layout() -> Room:
    gr.Markdown(
        "## Compare\nRuns side by side. The final model of each is what counts: after recovery where there was one. The first is A, and what the "
        "others are set against."
    )
    runs = gr.Dropdown(
        [], label=f"Runs (2 to {MOST})", multiselect=True, max_choices=MOST, elem_id="compare-runs", interactive=True
    )
    nothing = cards.hint(_FEW, elem_id="no-compare")
    with gr.Column(visible=False) as part:
        verdict = cards.sentence(elem_id="compare-verdict")
        apart = facts.component("compare-apart")
        table = gr.Dataframe(
            headers=["Figure", "Dense", "A", "B", "B against A"], datatype="str", interactive=False, show_label=False, label="Figures of the runs",
            buttons=["copy"], elem_id="compare-table",
        )  # fmt: skip
        with gr.Row():
            look = gr.Radio(
                [(words, key) for key, words in PICTURES.items()],
                value="pareto",
                label="Look at",
                elem_id="compare-look",
                scale=4,
                min_width=320,
            )
            detail = gr.Dropdown(
                list(charts.COSTS), value="nonzero", label="Cost", elem_id="compare-detail", scale=1, min_width=200
            )
        finding = facts.component("compare-finding")
        view = PlotlyView(height=380, alt="The chosen picture of the runs side by side", elem_id="compare-view")
        twin = table_twin("the picture")
        write = facts.component("compare-write")
        texts = cards.text_cards(elem_id="compare-texts")
        with gr.Row():
            export = gr.Button("Make a report", elem_id="compare-export", size="sm", scale=0, min_width=160)
            file = gr.DownloadButton(
                "Download the report", visible=False, elem_id="compare-download", size="sm", scale=0, min_width=200
            )
    return Room(runs, look, export, [detail, finding, view, twin], [nothing, part, verdict, apart, table], [write, texts, file])


def _wire(bench: Bench, room: Room) -> None:
    runs, look, pictures, file = room.runs, room.look, room.pictures, room.last[-1]
    everything = [*room.first, *pictures, *room.last]

    def offer(chosen: list[str] | None, picture: str, wanted: str | None) -> Any:
        names = comparing.finished(bench.runs)
        kept = [name for name in chosen or [] if name in names]
        if len(kept) < 2:  # else a person has chosen: leave it
            kept = names[:2][::-1]
        return gr.Dropdown(choices=names, value=kept), *shown(kept, picture, wanted)

    def shown(chosen: list[str] | None, picture: str, wanted: str | None) -> Any:
        try:
            found, bad = comparing.read(bench.runs, chosen or [])
        except PrunariumError as error:
            return str(error), gr.Column(visible=False), *[gr.skip()] * (len(everything) - 2)
        if len(found) < 2:
            return " ".join(bad) or _FEW, gr.Column(visible=False), *[gr.skip()] * (len(everything) - 2)
        rows = gr.Dataframe(headers=compare_words.headers(found), value=compare_words.figure_rows(found))
        said = facts.said(note=" ".join([*bad, *compare.apart(found), _BRACKETS]))
        hidden = gr.DownloadButton(visible=False)
        first = "", gr.Column(visible=True), compare_words.verdict(found), said, rows
        written = compare_words.texts(found)
        heading = facts.said("What they write") if written else None
        return *first, *drawn(found, picture, wanted), heading, written, hidden

    @plainly
    def redraw(chosen: list[str] | None, picture: str, wanted: str | None) -> Any:
        found, _ = comparing.read(bench.runs, chosen or [])
        return drawn(found, picture, wanted) if len(found) > 1 else gr.skip()

    @plainly
    def write(chosen: list[str] | None) -> Any:
        found, _ = comparing.read(bench.runs, chosen or [])
        return gr.DownloadButton(value=comparing.report(found), visible=True)

    asked = [runs, look, pictures[0]]
    gr.on([bench.ended.change, bench.page.load], offer, asked, [runs, *everything], trigger_mode="multiple", **_QUIET)
    runs.input(shown, asked, everything, trigger_mode="always_last", **_QUIET)
    gr.on([look.input, pictures[0].input], redraw, asked, pictures, trigger_mode="always_last", **_QUIET)
    room.export.click(write, runs, file, **_QUIET)

    def side_by_side(cells: list[str]) -> Any:
        choices = comparing.finished(bench.runs)
        return gr.Dropdown(choices=choices, value=cells), "pareto", *shown(cells, "pareto", "nonzero")

    sweeping.build(bench, side_by_side, [runs, look, *everything])


def details(found: Sequence[Side], picture: str) -> tuple[str, list[tuple[str, str]]]:
    """(label, choices) of the second control: what a picture needs to be told besides the runs."""
    if picture == "pareto":
        return "Cost", [
            (words.capitalize(), key) for key, words in charts.COSTS.items() if any(at.final.get(key) is not None for at in found)
        ]
    if picture == "heads":
        return "Run", [(f"{LETTERS[n]}{' against A' if n else ''}", str(n)) for n in range(len(found))][::-1]
    if picture == "map":
        pairs = [
            (n, row["name"])
            for n in range(1, len(found))
            for row in compare_masks.overlaps(found[0], found[n])
            if row["jaccard"] < 1
        ]
        return "Runs and layer", [(f"A, {LETTERS[n]}: {compare_masks.label(name)}", f"{n} {name}") for n, name in pairs]
    return "", []


def drawn(found: Sequence[Side], picture: str, wanted: str | None) -> tuple[Any, ...]:
    """Outputs: the second control, the finding, the figure, the table."""
    label, choices = details(found, picture)
    values = [value for _, value in choices]
    wanted = wanted if wanted in values else (values[0] if values else None)
    seen = _picture(found, picture, wanted)
    control = gr.Dropdown(choices=choices, value=wanted, label=label or "Cost", visible=bool(choices))
    headers = list(seen.headers) or ["Nothing to show"]  # else the table of the picture before would stay under the new title
    rows = gr.Dataframe(headers=headers, value=[list(row) for row in seen.rows])
    return (
        control,
        facts.said(seen.finding, "", "measured" if seen.figure else ""),
        PlotlyView(value=seen.figure, visible=seen.figure is not None),
        rows,
    )


def _picture(found: Sequence[Side], picture: str, wanted: str | None) -> charts.Picture:
    if picture == "pareto":
        return charts.pareto(found, wanted or "nonzero")
    if picture == "heads":
        return charts.heads(found, int(wanted or 0))
    if picture == "map":
        number, _, layer = (wanted or "1 ").partition(" ")
        return charts.difference_map(found, int(number), layer)
    return {"layers": charts.sparsity, "overlap": charts.overlap, "robust": robust.corruptions, "geometry": robust.geometry}[
        picture
    ](found)
