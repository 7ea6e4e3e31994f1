"""Compare: two runs side by side, figures with their differences, layers, and what the models write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from core import folder
from studio import cards, jobs, runs_table
from studio.bench import Bench, plainly
from studio.charts.compare import sparsity_figure
from studio.plotview import PlotlyView, table_twin

_QUIET: dict[str, Any] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}
_MEASURED_BY = {
    "latency_ms": "latency",
    "peak_memory_mb": "latency",
    "bits_per_byte": "perplexity",
}  # a figure -> the protocol that took it
_FEW = "Two finished runs are needed here. Prune twice, with another method or another share, and come back."


def build(bench: Bench) -> None:
    gr.Markdown("## Compare\nTwo runs side by side. The final model of each is what counts: after recovery where there was one.")
    with gr.Row():
        first = gr.Dropdown([], label="Run A", elem_id="run-a", interactive=True)
        second = gr.Dropdown([], label="Run B", elem_id="run-b", interactive=True)
    nothing = cards.hint(_FEW, elem_id="no-compare")
    with gr.Column(visible=False) as part:
        figures = cards.figure_cards(elem_id="compare-figures")
        table = gr.Dataframe(
            headers=["Figure", "Dense", "A", "B", "B against A"], datatype="str", interactive=False, show_label=False, label="Figures of both runs",
            buttons=["copy"], elem_id="compare-table",
        )  # fmt: skip
        gr.Markdown("### Where each took its share")
        layers = PlotlyView(height=300, alt="Share removed in each layer, a line a run", elem_id="compare-layers")
        layer_table = table_twin("layers", ["Layer", "A removed %", "B removed %"])
        gr.Markdown("### What they write")
        texts = cards.text_cards(elem_id="compare-texts")
    everything = [nothing, part, figures, table, layers, layer_table, texts]

    def offer(a: str | None, b: str | None) -> Any:
        names = finished(bench.runs)
        if a == b or a not in names or b not in names:  # else a person has chosen: leave it
            a, b = (*names[1:2], None)[0], (*names[:1], None)[0]
        return gr.Dropdown(choices=names, value=a), gr.Dropdown(choices=names, value=b), *compared(a, b)

    @plainly
    def compared(a: str | None, b: str | None) -> Any:
        if not a or not b:
            return _FEW, gr.Column(visible=False), [], [], None, [], []
        reports = [jobs.report(bench.path_of(name)) or {} for name in (a, b)]
        removed = [report.get("layers") or [] for report in reports]
        return (
            apart(*reports), gr.Column(visible=True), pair_cards(reports, (a, b)), difference_rows(*reports), sparsity_figure(*removed, (a, b)),
            layer_rows(*removed), pair_texts(bench, reports, (a, b)),
        )  # fmt: skip

    gr.on(
        [bench.ended.change, bench.page.load],
        offer,
        [first, second],
        [first, second, *everything],
        trigger_mode="multiple",
        **_QUIET,
    )
    gr.on([first.input, second.input], compared, [first, second], everything, trigger_mode="always_last", **_QUIET)


def finished(runs: Path) -> list[str]:
    """Names of the runs that have a model to compare, newest first."""
    done = [at for at in jobs.all_runs(runs) if at.state == "done"]
    return [at.name for at in done if (jobs.report(at.path) or {}).get("pruned")]


def final(report: dict[str, Any]) -> dict[str, Any]:
    """The figures of the model that came out: recovered where there was recovery, else pruned."""
    return report.get("recovered") or report.get("pruned") or {}


def pair_cards(reports: list[dict[str, Any]], names: tuple[str, str]) -> list[dict[str, Any]]:
    """One card a run, for the model that came out of it."""
    out = []
    for report, name, side in zip(reports, names, "AB", strict=True):
        moment = "recovered" if report.get("recovered") else "pruned"
        card = next((card for card in cards.moments(report) if card["title"] == cards.MOMENTS[moment]), None)
        if card:
            out.append({**card, "title": f"{side} · {name}"})
    return out


def difference_rows(first: dict[str, Any], second: dict[str, Any]) -> list[list[str]]:
    """Figure by figure: dense, A, B, and B against A. A figure that neither has is left out; dense is A's, marked where B's differs."""
    a, b, rows = final(first), final(second), []
    dense, other = first.get("dense") or {}, second.get("dense") or {}
    for key, (label, _) in cards.FIGURES.items():
        if a.get(key) is None and b.get(key) is None:
            continue
        whole = cards.written(key, dense.get(key))
        if dense.get(key) != other.get(key) and key in ("perplexity", "accuracy", "parameters"):
            whole += f" / {cards.written(key, other.get(key))}"
        protocols = [_protocol(report, key) for report in (first, second)]
        both = a.get(key) is not None and b.get(key) is not None
        change = "not comparable" if both and protocols[0] != protocols[1] else difference(key, a.get(key), b.get(key))
        rows.append([label, whole, cards.written(key, a.get(key)), cards.written(key, b.get(key)), change])
    return rows


def _protocol(report: dict[str, Any], key: str) -> dict[str, Any] | None:
    """How a figure was taken. Bits a byte are taken as perplexity is, and may be compared whatever the tokens are."""
    found = (report.get("protocol") or {}).get(_MEASURED_BY.get(key, key))
    if key == "bits_per_byte" and found:
        return {name: value for name, value in found.items() if name not in ("bytes", "dense_has_other_tokens")}
    return found


def apart(first: dict[str, Any], second: dict[str, Any]) -> str:
    """Which figures were taken by another protocol in the two runs, in a sentence; empty where all compare."""
    said = []
    for key in ("perplexity", "accuracy", "latency"):
        one, other = ((report.get("protocol") or {}).get(key) for report in (first, second))
        if one and other and one != other:
            parts = [
                f"{name} {one.get(name)} and {other.get(name)}" for name in {**one, **other} if one.get(name) != other.get(name)
            ]
            said.append(f"{key} ({', '.join(parts)})")
    return f"Not comparable, because measured in another way: {'; '.join(said)}." if said else ""


def difference(key: str, a: float | None, b: float | None) -> str:
    """B against A in words; empty where one was not measured."""
    if a is None or b is None:
        return ""
    if a == b:
        return "equal"
    if key == "accuracy":
        return f"{100 * (b - a):+.1f} points"
    return f"{100 * (b / a - 1):+.1f} %" if a else ""


def layer_rows(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> list[list[str]]:
    """The share removed in each layer by both, as rows of a table."""
    sides = [{str(layer["name"]): f"{100 * layer['sparsity']:.1f}" for layer in layers} for layers in (first, second)]
    return [[name, *(side.get(name, "") for side in sides)] for name in dict.fromkeys([*sides[0], *sides[1]])]


def pair_texts(bench: Bench, reports: list[dict[str, Any]], names: tuple[str, str]) -> list[dict[str, str]]:
    """What both final models write on, prompt by prompt."""
    out = []
    recipes = [runs_table.recipe_of(folder.status(bench.path_of(name))) for name in names]
    for report, recipe, side in zip(reports, recipes, "AB", strict=True):
        prompts = list(recipe.measure.generate) if recipe else []
        title = cards.MOMENTS["recovered" if report.get("recovered") else "pruned"]
        own = [item for item in cards.sample_texts(report, prompts) if item["title"] == title]
        out += [(number, {**item, "title": f"{side} · {title}"}) for number, item in enumerate(own)]
    return [item for _, item in sorted(out, key=lambda pair: pair[0])]
