"""A few rows of the data as cards: pictures or text, class, number, and whether they stay. Text of files is drawn as text only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

_HERE = Path(__file__).resolve().parent
_CSS, _JS = ((_HERE / f"samples.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))


def component(elem_id: str) -> gr.HTML:
    """No rows yet; give it `shown(...)`. Its `select` event has {"row": number} in the event's data."""
    return gr.HTML(
        value=None,
        html_template='<div class="samples" role="region" aria-label="Rows"></div>',
        css_template=_CSS,
        js_on_load=_JS,
        apply_default_css=False,
        elem_id=elem_id,
    )


def shown(title: str, note: str, groups: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> dict[str, Any]:
    """groups: (name, rows); a row has row, stays, and may have label, text, picture (a PNG as a data: URI), note."""
    return {"title": title, "note": note, "groups": [{"name": name, "items": list(items)} for name, items in groups if items]}


def evenly(positions: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of the positions, evenly spaced, first and last among them."""
    if len(positions) <= most:
        return positions
    return positions[np.linspace(0, len(positions) - 1, most).round().astype(int)]
