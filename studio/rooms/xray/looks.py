"""The further questions of the X-ray room: two pictures with their findings and tables, from observations or from the worker. No components in here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from core.errors import PrunariumError
from core.views import slug
from studio import known
from studio.bench import Bench
from studio.charts import xray, xray_agree, xray_repeat, xray_spectrum, xray_states
from studio.known import Observed
from studio.looking import share_of
from studio.parts import facts
from studio.rooms.prune.plans import PROMPT

LIMIT_S = 180.0
QUESTIONS = {
    "agree": "Do the scores agree?",
    "masks": "Would they take the same weights?",
    "runs": "Which runs of blocks could go?",
    "duplicates": "Which units are near copies?",
    "experts": "What do the experts share?",
    "spectrum": "How many directions does a layer use?",
    "spikes": "Are there super weights?",
}


@dataclass(frozen=True)
class Asked:
    """What the controls say."""

    question: str
    metric: str
    against: str
    block: str
    structure: str
    threshold: float
    layer: str
    run: tuple[int, int] | None = None


@dataclass(frozen=True)
class Look:
    """Two findings with a picture and a table each; the second may be missing. `spikes`, `runs`: (label, place) of what can be left out."""

    first: tuple[str, go.Figure | None, pd.DataFrame | None]
    second: tuple[str, go.Figure | None, pd.DataFrame | None] = ("", None, None)
    badge: str = "measured"
    note: str = ""
    second_note: str = ""
    spikes: tuple[tuple[str, str], ...] = ()
    runs: tuple[tuple[str, str], ...] = ()


def look(bench: Bench, source: str, seen: Observed, asked: Asked) -> Look:
    """The answer to a question; what cannot be answered is a finding that says why."""
    try:
        return _LOOKS[asked.question](bench, source, seen, asked)
    except PrunariumError as error:
        return Look((error.problem, None, None), badge="", note=error.remedy)


def _agree(bench: Bench, source: str, seen: Observed, asked: Asked) -> Look:
    data, a = seen.data, asked.metric
    there = tuple(dict.fromkeys([*xray.metrics(data), *xray.metrics(data, "layers")]))
    others = [name for name in there if name != a]
    if not others:
        return Look(
            ("One score was taken, so there is none to compare it with", None, None),
            note="X-ray this model again: it takes all that fit.",
        )
    b = asked.against if asked.against in there else others[0]
    left = _reasons(data.get("left_out") or {})
    return Look(
        (xray_agree.scatter_finding(data, a, b), xray_agree.scatter(data, a, b), xray_agree.scatter_table(data, a, b)),
        (xray_agree.rank_finding(data), xray_agree.rank_map(data), xray_agree.rank_table(data)),
        seen.badge,
        left or "A dot is a layer (a block, where a score knows blocks only).",
        xray_agree.furthest(data),
    )  # fmt: skip


def _reasons(left_out: Mapping[str, str]) -> str:
    """Which scores could not be had, each reason once."""
    by_reason: dict[str, list[str]] = {}
    for name, why in left_out.items():
        by_reason.setdefault(why, []).append(xray.label(name))
    return " ".join(f"Not taken: {', '.join(names)}. {why}" for why, names in by_reason.items())


def _masks(bench: Bench, source: str, seen: Observed, asked: Asked) -> Look:
    share = share_of(bench, asked.layer) or 0.5
    found = _ask(bench, source, "xray_masks", name=asked.layer, share=share)
    left = f" {_reasons(found['left_out'])}" if found["left_out"] else ""
    why = "as the budget says" if share_of(bench, asked.layer) else "as no budget is set for this layer"
    note = f"At {100 * share:.0f} %, {why}, on {found['protocol']}.{left}"
    return Look((xray_agree.overlap_finding(found), xray_agree.overlap_map(found), xray_agree.overlap_table(found)), note=note)


def _runs(bench: Bench, source: str, seen: Observed, asked: Asked) -> Look:
    data = seen.data
    if not (data.get("runs") or {}).get("values"):
        why = ("It has one block." if len(data["blocks"]) < 2 else "These observations are older than this picture, or its blocks change their width: "
               "X-ray the model again to see.")  # fmt: skip
        return Look(("No runs of blocks were compared", None, None), note=why, badge="")
    run = asked.run or xray_repeat.best_run(data, 1)
    known_at = data["runs"].get("read_at", "")
    note = f"Angular distance (0..1) between the states before and after the run, at the {known_at}. Circles: the least of each length. Click, or use the list."
    second: tuple[str, Any, Any] = ("", None, None)
    if "angular" in xray_states.measures(data):
        second = (
            xray_states.similarity_finding(data, "angular"),
            xray_states.similarity(data, "angular"),
            xray_states.similarity_table(data, "angular"),
        )
    return Look(
        (xray_repeat.run_finding(data), xray_repeat.run_map(data, run), xray_repeat.run_table(data)), second, seen.badge, note,
        runs=xray_repeat.run_choices(data),
    )  # fmt: skip


def _duplicates(bench: Bench, source: str, seen: Observed, asked: Asked) -> Look:
    _check(bench, source, asked.structure)
    found = _ask(bench, source, "xray_duplicates", block=asked.block, structure=asked.structure, threshold=asked.threshold)
    note = "Cosine of all weights into and out of each unit, every matrix scaled alike. Ochre: at or above the threshold."
    return Look(
        (xray_repeat.duplicate_finding(found), xray_repeat.nearest_bars(found), xray_repeat.duplicate_table(found)), note=note
    )


def _experts(bench: Bench, source: str, seen: Observed, asked: Asked) -> Look:
    _check(bench, source, "experts")
    found = _ask(bench, source, "xray_experts", block=asked.block)
    table, left = xray_repeat.expert_table(found), found["visits"]["left_out"]
    weights = xray_repeat.expert_finding(found, "weights")
    note = f"What each says to the same {found['tokens']} tokens. By their weights: {weights[:1].lower()}{weights[1:]}."
    missing = f" Not on this machine: {', '.join(left)}." if left else ""
    return Look(
        (xray_repeat.expert_finding(found), xray_repeat.expert_map(found), table),
        (xray_repeat.visit_finding(found), xray_repeat.visit_bars(found), table),
        note=note,
        second_note=f"{found['visits']['tokens']:,} tokens of each kind; {found['top_k']} experts a token. Dotted: all visited alike.{missing}",
    )  # fmt: skip


def _spectrum(bench: Bench, source: str, seen: Observed, asked: Asked) -> Look:
    found = _ask(bench, source, "xray_spectrum", name=asked.layer, share=share_of(bench, asked.layer) or None)
    note = f"Stable rank {found['stable_rank']:.1f}; {found['energy_rank']} directions hold 99 % of the energy. From the weights alone."
    loud = (found.get("activations") or {}).get("loudest") or []
    table = pd.DataFrame(loud, columns=["Input feature", "Root mean square"])
    return Look(
        (xray_spectrum.spectrum_finding(found), xray_spectrum.spectrum_lines(found), xray_spectrum.spectrum_table(found)),
        (xray_spectrum.activation_finding(found), xray_spectrum.activation_bars(found), table),
        note=note,
    )  # fmt: skip


def _spikes(bench: Bench, source: str, seen: Observed, asked: Asked) -> Look:
    found = _ask(bench, source, "xray_spikes")
    places = tuple(
        (f"{s['layer']}[{s['row']}, {s['column']}] = {s['weight']:.3g}", f"{s['layer']}/{s['row']}/{s['column']}")
        for s in found["spikes"]
    )
    note = "A weight whose input and output both exceed the threshold at one token (Yu et al. 2024). Leave one out and read what the model then writes."
    return Look(
        (xray_spectrum.spike_finding(found), xray_spectrum.spike_dots(found), xray_spectrum.spike_table(found)),
        note=note,
        spikes=places,
    )


_LOOKS = {
    "agree": _agree,
    "masks": _masks,
    "runs": _runs,
    "duplicates": _duplicates,
    "experts": _experts,
    "spectrum": _spectrum,
    "spikes": _spikes,
}


def _ask(bench: Bench, source: str, question: str, /, **args: Any) -> Any:
    return bench.worker.about(source, question, timeout_s=LIMIT_S, **args)


def _check(bench: Bench, source: str, structure: str) -> None:
    """Raise the reason why this model has no such units, without waking the worker."""
    refused = (known.description(source, bench.workspace.folder) or {}).get("refused", {})
    if why := refused.get(structure):
        raise PrunariumError(why, "Ask another question of this model.")


def ablated(bench: Bench, source: str, place: str) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """What the model writes with and without one weight ("LAYER/ROW/COLUMN"): a finding and two texts. Raises PrunariumError."""
    layer, row, column = ([*(place or "").rsplit("/", 2), "", ""])[:3]
    if not (row.isdigit() and column.isdigit()):
        raise PrunariumError("No weight is chosen.", "Choose one in the list.")
    found = _ask(bench, source, "xray_ablate", layer=layer, row=int(row), column=int(column))
    dense, without = found["dense"], found["without"]
    if without["loss"] is None or dense["loss"] is None:
        told = "Without this one weight the loss is no longer a number"
    else:
        rise = without["loss"] - dense["loss"]
        told = f"Without this one weight ({found['weight']:.3g}) the loss {'rises' if rise >= 0 else 'falls'} by {abs(rise):.3f} nats, from {dense['loss']:.3f}"
    texts = [
        {
            "title": title,
            "tone": tone,
            "lead": found["prompt"],
            "text": re.sub(r"[ \t]*\n\s*", "\n", part["text"]),
        }  # small models love empty lines
        for title, tone, part in (("Dense", "#7c8a96", dense), ("Without it", "#d9772b", without))
    ]
    return facts.said(told, badge="measured", note="Mean loss a token of the calibration text; the weight was put back."), texts


def removal(bench: Bench, source: str, seen: Observed, run: tuple[int, int]) -> dict[str, Any]:
    """The recipe that takes out exactly these blocks and measures what is left. Raises PrunariumError where they cannot go."""
    _check(bench, source, "blocks")
    first, count = run
    names = [block["name"] for block in seen.data["blocks"]]
    chosen = names[first : first + count]
    if len(chosen) != count or count >= len(names):
        raise PrunariumError("These blocks cannot go: at least one must stay.", "Choose a shorter run in the map.")
    kind = (known.description(source, bench.workspace.folder) or {}).get("kind", "decoder")
    measure: dict[str, Any] = (
        {"accuracy": {}}
        if kind == "image_classifier"
        else {"perplexity": {"samples": 64, "tokens": 256}}
        if kind == "decoder"
        else {}
    )
    name = slug(source.removeprefix("builtin:").rstrip("/").rpartition("/")[2]).strip("-.")[:50] or "model"
    prune = {
        "method": "angular_distance",
        "structure": "blocks",
        "allocation": {"method": "by_hand", "shares": dict.fromkeys(chosen, 1.0)},
    }
    recipe = {"recipe": 1, "name": f"{name}-without-{first}" + (f"-to-{first + count - 1}" if count > 1 else ""), "model": {"source": source},
              "calibration": {"samples": 32, "tokens": 256}, "steps": [{"prune": prune}]}  # fmt: skip
    if kind == "decoder":
        measure["generate"] = [PROMPT]
    return {**recipe, "measure": measure} if measure else recipe
