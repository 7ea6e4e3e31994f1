"""The drawing of an opened model: a row a block, each weight matrix a rectangle to scale, beside what it weighs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd

_HERE = Path(__file__).resolve().parent
_KINDS = {"decoder": "language model", "encoder": "text encoder", "image_classifier": "image classifier", "module": "network"}


def component(elem_id: str = "anatomy") -> gr.HTML:
    """The drawing, empty. Its value is the worker's description of a model; `table` is its twin."""
    return gr.HTML(
        value=None,
        html_template='<div class="anatomy" role="img" aria-label="The model\'s weight matrices, drawn to scale, a row a block"></div>',
        css_template=(_HERE / "anatomy.css").read_text(encoding="utf-8"),
        js_on_load=(_HERE / "anatomy.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        elem_id=elem_id,
    )


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
    return pd.DataFrame(rows, columns=["Layer", "Role", "Shape (out × in)", "Parameters", "% of the model"])


def refused(described: Mapping[str, Any]) -> pd.DataFrame:
    """What cannot be pruned here, and why."""
    return pd.DataFrame(list(described["refused"].items()), columns=["Structure", "Why not"])
