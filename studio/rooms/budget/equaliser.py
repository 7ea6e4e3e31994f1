"""The equaliser: one component with a bar a block (or a layer), moved by hand. Arithmetic while dragging is in budget.js, confirmed by core.budget.

What the page asks the server for is in `studio.rooms.budget.asks`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import gradio as gr

from core import budget, frontier
from core.folder import finite
from core.proposals import Parts
from studio.known import WEIGHTS, Observed, Trial, Units
from studio.rooms.budget import asks as equaliser_asks
from studio.workspace import Opened, Shares, Workspace

_HERE = Path(__file__).resolve().parent
SCRIPTS = (
    "budget.js",
    "equaliser.js",
    "equaliser_hand.js",
    "equaliser_units.js",
    "equaliser_gauge.js",
    "equaliser_frontier.js",
    "equaliser_tools.js",
)
_ATTENTION = ("query", "key", "value", "output", "qkv")
KV_TOKENS = 512
_SURE = 1e-3  # a measured log increase below this says nothing of a prediction's relative error


@dataclass(frozen=True)
class Known:
    """What is known of the open model: `curves` and `parts` as core.budget wants them, `described` by the worker, `trials` newest first, `latency_ms` of
    the dense model with the run that measured it, `spared`: {layer: super weights in it}, `units`: {structure: what whole units give back}."""

    described: Mapping[str, Any] | None = None
    parts: Parts = field(default_factory=lambda: Parts({}, {}, {}, {}))
    curves: budget.CostCurves | None = None
    trials: tuple[Trial, ...] = ()
    latency: tuple[float, str] | None = None
    spared: Mapping[str, int] = field(default_factory=dict)
    method: str = ""
    units: Mapping[str, Units] = field(default_factory=dict)


def equaliser(workspace: Workspace, known: Callable[[str], Known], elem_id: str = "equaliser") -> gr.HTML:
    """The component, empty. Give it `value(...)`; listen to `.committed` (event data {"revision": n, "structure": what the bars remove, empty: single
    weights}) for budgets that reached the workspace.

    `known(source)`: of the open model; read once for each question of the page.
    """
    return gr.HTML(
        value=None,
        html_template='<div class="eq" data-rev="0"></div>',
        css_template=(_HERE / "equaliser.css").read_text(encoding="utf-8"),
        js_on_load="".join((_HERE / name).read_text(encoding="utf-8") for name in SCRIPTS),
        server_functions=equaliser_asks.functions(workspace, known),
        apply_default_css=False,
        elem_id=elem_id,
    )


def value(opened: Opened, known: Known, snapshots: Mapping[str, Shares]) -> dict[str, Any]:
    """All that the component draws."""
    described, parts = known.described or {}, known.parts
    total = int(described.get("parameters") or 0)
    hand = next((trial for trial in known.trials if trial.by_hand), None)
    return {
        "name": opened.model,
        "blocks": _blocks(parts),
        "parts": [_part(parts, name, known.spared) for name in parts.sizes],
        "empty": "" if parts.sizes else "This model has no chain of blocks, so there are no bars to move.",
        "highest": budget.HIGHEST_SHARE,
        "parameters": total,
        "bytes_per_parameter": (described.get("size_bytes") or 0) / max(total, 1),
        "flops": flops_a_token(described),
        "kv": kv_bytes(described),
        "kv_tokens": KV_TOKENS,
        "latency": None if known.latency is None else {"ms": known.latency[0], "run": known.latency[1]},
        "curves": _curves(known.curves),
        "frontier": best_by_size(known),
        "measured": None if hand is None else {"method": hand.method, "value": hand.value, "dense": hand.dense, "sparsity": hand.sparsity,
                                               "run": hand.run, "shares": hand.by_part(parts), "foretold": hand.method == known.method},
        "past": past(known),
        "units": {structure: _units(known, structure, of) for structure, of in known.units.items()},
        **state(opened, snapshots),
    }  # fmt: skip


def packed(whole: dict[str, Any]) -> dict[str, str]:
    """A value as one string: Gradio copies and wraps every object inside a value, which costs seconds where there are 10,000 layers."""
    return {"whole": json.dumps(finite(whole), allow_nan=False)}


def state(opened: Opened, snapshots: Mapping[str, Shares], told: str = "") -> dict[str, Any]:
    """What a change of the budget changes."""
    return {
        "name": opened.model,
        "revision": opened.revision,
        "shares": dict(opened.budget.shares),
        "locked": list(opened.budget.locked),
        "undo": opened.place.undo,
        "redo": opened.place.redo,
        "side": opened.side,
        "snapshots": [
            {"name": name, "shares": dict(kept.shares), "locked": list(kept.locked)} for name, kept in snapshots.items()
        ],
        "told": told,
    }


@dataclass(frozen=True)
class Face:
    """What the bars remove, seen as parts of a budget: `curves` of these parts, `method` they were made with, shares(those of layers) -> of the parts."""

    parts: Parts
    curves: budget.CostCurves | None
    method: str
    seen: Observed | None
    shares: Callable[[Mapping[str, float]], dict[str, float]]


def face(known: Known, structure: str = "") -> Face:
    """Of single weights, layer by layer, or of the whole units of a structure, block by block."""
    units = known.units.get(structure)
    if units is None or not units.groups:
        return Face(known.parts, known.curves, known.method, None, lambda shares: budget.by_part(shares, known.parts.block))
    method = str(((units.seen.data if units.seen else {}).get("curves") or {}).get("method", ""))
    block_of = known.parts.block
    return Face(
        units.parts, units.curves, method, units.seen, lambda shares: units.shares(budget.by_part(shares, block_of), block_of)
    )


def compared(known: Known, structure: str = "") -> list[tuple[Trial, float, float]]:
    """(run, predicted, measured log increase) of every finished run that the curves can speak of: their criterion, their structure."""
    mine = face(known, structure)
    if mine.curves is None:
        return []
    out = []
    for trial in known.trials:
        measured = math.log(trial.value / trial.dense)
        if trial.method != mine.method or trial.structure != (structure or WEIGHTS) or measured < _SURE:
            continue
        said = budget.estimate(mine.curves, mine.parts.sizes, mine.shares(trial.by_part(known.parts)))
        out.append((trial, math.log(said.quality / mine.curves.dense), measured))
    return out


def past(known: Known, structure: str = "") -> dict[str, Any] | None:
    """How far these curves were off on runs that measured what they predict: the median relative error of the log increase."""
    pairs = compared(known, structure)
    return {"runs": len(pairs), "error": median(abs(said / true - 1) for _, said, true in pairs)} if pairs else None


def flops_a_token(described: Mapping[str, Any]) -> float | None:
    """Operations a token of a language model at 512 tokens of context, as model/measuring/counts has them; None for others, whose layers run once a place."""
    if described.get("kind") not in ("decoder", "encoder"):
        return None
    keys = (KV_TOKENS + 1) / 2 if described["kind"] == "decoder" else KV_TOKENS
    heads = sum(a["query_heads"] * a["head_dim"] for block in described["blocks"] if (a := block.get("attention")))
    head = [row["shape"] for row in described.get("elsewhere", ()) if row["name"].endswith("head")]
    weights = sum(math.prod(layer["shape"]) for layer in described["layers"]) + sum(map(math.prod, head))
    return 2.0 * weights + 4.0 * heads * keys


def kv_bytes(described: Mapping[str, Any]) -> float | None:
    """Bytes of the keys and values of KV_TOKENS tokens; None for a model that keeps none."""
    if described.get("kind") != "decoder":
        return None
    heads = sum(a["kv_heads"] * a["head_dim"] for block in described["blocks"] if (a := block.get("attention")))
    return 2.0 * heads * KV_TOKENS * (described.get("size_bytes") or 0) / max(int(described.get("parameters") or 0), 1)


def _blocks(parts: Parts) -> list[dict[str, str]]:
    names = dict.fromkeys(parts.block.values())
    return [{"name": name, "label": name.rpartition(".")[2], "title": f"Block {name.rpartition('.')[2]}"} for name in names]


def _part(parts: Parts, name: str, spared: Mapping[str, int]) -> dict[str, Any]:
    """A layer as the page knows it; its label is what follows the block's name."""
    label = name.removeprefix(parts.block[name] + ".")
    return {"name": name, "block": parts.block[name], "label": label.rpartition(".")[2], "size": parts.sizes[name],
            "attention": parts.role[name] in _ATTENTION, "spared": spared.get(name, 0)}  # fmt: skip


def _units(known: Known, structure: str, of: Units) -> dict[str, Any]:
    """What the page counts whole units with."""
    return {
        "groups": of.groups,
        "refused": of.refused,
        "dense_ms": of.dense_ms,
        "curves": _curves(of.curves),
        "past": past(known, structure),
    }


def _curves(curves: budget.CostCurves | None) -> dict[str, Any] | None:
    if curves is None:
        return None
    return {"levels": list(curves.levels), "cost": {unit: list(values) for unit, values in curves.cost.items()}, "dense": curves.dense,
            "metric": curves.metric, "scale": curves.scale, "power": curves.power, "within": curves.within, "floor": curves.floor}  # fmt: skip


def best_by_size(known: Known) -> list[tuple[float, float]]:
    """(weights removed, predicted log increase) of the best budgets."""
    if known.curves is None or not known.parts.sizes:
        return []
    return frontier.frontier(known.curves, frontier.ladder(known.curves, known.parts.sizes))
