"""A finding in the page: heading, badge, sentence and figures, all drawn as text whatever they hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from studio.theme import BADGES

_HERE = Path(__file__).resolve().parent
_CSS, _JS = ((_HERE / f"facts.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))


def component(elem_id: str, value: dict[str, Any] | None = None) -> gr.HTML:
    """An empty finding; give it `said(...)`, or None to show nothing."""
    return gr.HTML(
        value=value,
        html_template='<div class="facts"></div>',
        css_template=_CSS,
        js_on_load=_JS,
        apply_default_css=False,
        elem_id=elem_id,
    )


def said(title: str = "", note: str = "", badge: str = "", facts: Sequence[tuple[str, ...]] = ()) -> dict[str, Any]:
    """What a finding shows. `facts`: (term, value) or (term, value, hint). Raises KeyError on a badge that is none."""
    if badge:
        BADGES[badge]
    return {"title": title, "note": note, "badge": badge, "facts": [list(fact) for fact in facts]}


def size_text(count: float) -> str:
    """Bytes as a person reads them."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.{2 if count < 10 * scale else 1}f} {unit}"
    return f"{count:.0f} bytes"


def count_text(count: float) -> str:
    """A number of parameters as a person reads it."""
    for unit, scale in (("B", 1e9), ("M", 1e6)):
        if count >= scale:
            return f"{count / scale:.2f} {unit}"
    return f"{count:,.0f}"
