"""Cluster quotas by hand: a bar a cluster, as in the Budget room. Counts follow the hand in the page; the rows come from the selector itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from core.data.shares import read_shares
from core.errors import PrunariumError
from studio.rooms import budget
from studio.rooms.data import choosing
from studio.rooms.data.dataview import View

LEAST = 0.01  # per cent of the rows: a recipe's share has four digits
_HERE, _BUDGET = Path(__file__).resolve().parent, Path(budget.__file__).resolve().parent


def component(elem_id: str) -> gr.HTML:
    """No bars yet; give it `shown(...)`. Its `submit` event has {"of", "shares": {cluster: share, of the bars moved by hand}, "keep": per cent of all}."""
    return gr.HTML(
        value=None,
        html_template='<div class="eq quotas" data-rev="0"></div>',
        css_template="".join(file.read_text(encoding="utf-8") for file in (_BUDGET / "equaliser.css", _HERE / "quotas.css")),
        js_on_load="".join(file.read_text(encoding="utf-8") for file in (_BUDGET / "budget.js", _HERE / "quotas.js")),
        apply_default_css=False,
        elem_id=elem_id,
    )


def shown(view: View | None, keep: float, hand: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """Sizes of the clusters and the quotas that stand; nothing where another selector chooses. `hand`: what `told` said last."""
    if view is None or not view.ready or view.choice.selector != choosing.BY_HAND:
        return None
    told = dict(view.choice.params).get("quotas", "")
    return {
        "of": choosing.clusters_of(view),
        "sizes": [int(size) for size in view.drawn["sizes"]],
        "shares": read_shares(told, "quotas", ""),
        "keep": keep / 100,
        "turn": (hand or {}).get("turn"),
        "ms": view.held.get("ms"),
    }


def told(event: gr.EventData) -> tuple[dict[str, Any], float]:
    """({"of", "shares", "turn": how often a hand has moved them}, keep in per cent) of what the page sent. Raises PrunariumError where it is no such thing."""
    sent = event._data or {}
    try:
        shares = {str(int(number)): round(float(share), 6) for number, share in sent["shares"].items()}
        keep, turn = float(sent["keep"]), int(sent["turn"])
    except (TypeError, ValueError, KeyError, AttributeError):
        raise PrunariumError("The page sent no quotas.", "Reload the page.") from None
    if not all(0 <= share <= 1 for share in shares.values()) or not 0 < keep <= 1:
        raise PrunariumError("A quota lies between 0 and 100 %, and one row stays at the least.", "Move the bars again.")
    return {"of": str(sent.get("of")), "shares": shares, "turn": turn}, max(LEAST, round(100 * keep, 2))
