"""The drawing of an opened model: a row a block, each weight matrix a rectangle to scale, beside what it weighs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd

from core.folder import finite

_HERE = Path(__file__).resolve().parent
ROWS = 1000  # of the table: the last line sums up the rest
_KINDS = {"decoder": "language model", "encoder": "text encoder", "image_classifier": "image classifier", "module": "network"}


def component(elem_id: str = "anatomy") -> gr.HTML:
    """The drawing, empty. Give it `packed(description)`; `table` is its twin."""
    return gr.HTML(
        value=None,
        html_template='<div class="anatomy" role="img" aria-label="The model\'s weight matrices, drawn to scale, a row a block"></div>',
        css_template=(_HERE / "anatomy.css").read_text(encoding="utf-8"),
        js_on_load=(_HERE / "anatomy.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        elem_id=elem_id,
    )


def packed(described: Mapping[str, Any]) -> dict[str, str]:
    """What is drawn of a description, as one string: Gradio copies and wraps every object inside a value, which costs seconds where there are 10,000
    layers."""
    told = {name: described.get(name) for name in ("blocks", "layers", "elsewhere", "parameters")}
    return {"whole": json.dumps(finite(told), allow_nan=False, separators=(",", ":"))}


def finding(described: Mapping[str, Any]) -> str:
    """What the drawing shows, in a sentence."""
    prunable = sum(layer["parameters"] for layer in described["layers"])
    part = 100 * prunable / max(described["parameters"], 1)
    kind = _KINDS.get(described["kind"], "model")
    blocks = f"{len(described['blocks'])} blocks" if described["blocks"] else "no chain of blocks"
    return f"A{'n' if kind[0] in 'aeiou' else ''} {kind} of {blocks}: {part:.0f} % of its {described['parameters']:,} parameters can be pruned"


def note(described: Mapping[str, Any]) -> str:
    """Attention, widths, context and how it is stored, in a line."""
    attention = next((block["attention"] for block in described["blocks"] if block["attention"]), None)
    parts = [f"Family {described['family']}"]
    if attention:
        parts.append(
            f"{attention['query_heads']} query heads on {attention['kv_heads']} key/value heads of {attention['head_dim']}"
        )
    if described["hidden"]:
        parts.append(f"hidden width {described['hidden']:,}")
    if described["context"]:
        parts.append(f"context {described['context']:,} tokens")
    parts.append(f"stored as {described['dtype']}")
    return ", ".join(parts) + ". Rectangles are weight matrices to scale: height is outputs, width inputs."


def table(described: Mapping[str, Any]) -> pd.DataFrame:
    """The drawing's table twin: a row a layer that can be pruned, then what no budget touches."""
    total = max(described["parameters"], 1)
    rows = [[layer["name"], layer["role"], " × ".join(map(str, layer["shape"])), layer["parameters"], round(100 * layer["parameters"] / total, 2)]
            for layer in described["layers"]]  # fmt: skip
    rows += [[part["name"], "tied" if part["tied"] else "not pruned", " × ".join(map(str, part["shape"])), part["parameters"],
              round(100 * part["parameters"] / total, 2)] for part in described.get("elsewhere", ())]  # fmt: skip
    if len(rows) > ROWS:
        left = f"{len(rows) - ROWS:,} more layers"
        rows = [*rows[:ROWS], [left, "", "", sum(row[3] for row in rows[ROWS:]), round(sum(row[4] for row in rows[ROWS:]), 2)]]
    return pd.DataFrame(rows, columns=["Layer", "Role", "Shape (out × in)", "Parameters", "% of the model"])


def refused(described: Mapping[str, Any]) -> pd.DataFrame:
    """What cannot be pruned here, and why."""
    return pd.DataFrame(list(described["refused"].items()), columns=["Structure", "Why not"])
