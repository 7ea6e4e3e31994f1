"""A plotly figure in the page with clicks, lasso and both themes, which gr.Plot does not give (docs/decisions has the reasons)."""

from __future__ import annotations

import html
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import plotly

SCRIPT = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
CODE = Path(__file__).with_name("plotview.js").read_text(encoding="utf-8")
# Reading plotly's 4.5 MB holds the page up for half a second, so it waits until a figure is to be drawn, or until the page has nothing else to do.
HEAD = f"""<script>window.plotlyReady = () => window.plotlyComing ||= new Promise((done, failed) => {{
  const script = document.createElement('script');
  script.onload = () => done(window.Plotly);
  script.onerror = error => {{ window.plotlyComing = null; failed(error); }};
  script.src = '/gradio_api/file={SCRIPT.as_posix()}';
  document.head.append(script);
}});
addEventListener('load', () => setTimeout(() => (window.requestIdleCallback || setTimeout)(() => window.plotlyReady()), 3000));</script>"""
_revisions = itertools.count(1)


@dataclass(frozen=True)
class Picked:
    """What a person picked in a view. `rows`: indices of the lassoed points; `rev`: the drawing that they were picked from. `custom`: what the figure
    keeps for the point beside x and y (customdata); `total`: how many points its trace has. `outline`, `window` (x0, x1, y0, y1; None = all of it):
    the lasso's corners and the zoom, of a figure whose layout.meta asks for them."""

    rev: int
    curve: int = 0
    index: int = 0
    x: Any = None
    y: Any = None
    custom: Any = None
    total: int = 0
    rows: tuple[int, ...] = ()
    outline: tuple[tuple[float, float], ...] = ()
    window: tuple[float, float, float, float] | None = None


class PlotlyView(gr.HTML):
    """Give it a plotly Figure, or None for nothing. Events: `select` (a click), `option_select` (lasso or box), `clear`.

    Every drawing has a revision: `data-rev` in the page says which one stands, and an event from an older drawing is dropped.
    """

    def __init__(self, value: Any = None, *, height: int = 420, alt: str = "interactive chart", **rest: Any):
        name = html.escape(alt).replace("$", "&#36;").replace("{", "&#123;")  # Gradio's templates read ${ and {{
        template = f'<div class="plotview" role="figure" aria-label="{name}" style="height:{int(height)}px"></div>'
        classes = rest.pop("elem_classes", None) or []
        super().__init__(
            value=value,
            html_template=template,
            js_on_load=CODE,
            apply_default_css=False,
            elem_classes=["plotframe", *([classes] if isinstance(classes, str) else classes)],
            **rest,
        )

    def postprocess(self, value: Any) -> dict[str, Any] | None:
        if isinstance(value, dict) and "rev" in value:
            return value
        return numbered(value)

    def get_block_name(self) -> str:
        return "html"


def numbered(figure: Any) -> dict[str, Any]:
    """A figure, or None, as a view's value with its revision, for who wants to know which drawing a later event belongs to."""
    return {"fig": None if figure is None else figure.to_json(), "rev": next(_revisions)}


def marked(places: list[int] | None, front: Any = None) -> dict[str, Any]:
    """The picture that a view shows already, these points of its first trace chosen and the others grey; None = all alike again. `front`: a trace named
    "chosen" to lay on top, in place of the one that is there."""
    return {"marks": places, "front": None if front is None else front.to_json(), "rev": next(_revisions)}


def picked(event: gr.EventData) -> Picked:
    """The event of a view as plain data."""
    told = event._data or {}
    index = told.get("i") or 0  # of a heat map: [row, column]; x and y say which cell
    return Picked(
        rev=int(told.get("rev") or 0),
        curve=int(told.get("curve") or 0),
        index=int(index[0] if isinstance(index, list) else index),
        x=told.get("x"),
        y=told.get("y"),
        custom=told.get("custom"),
        total=int(told.get("total") or 0),
        rows=tuple(int(row) for row in told.get("idx") or ()),
        outline=tuple((float(x), float(y)) for x, y in told.get("outline") or ()),
        window=tuple(float(end) for end in told["window"]) if told.get("window") else None,  # type: ignore[arg-type]
    )


def table_twin(label: str, headers: list[str] | None = None) -> gr.Dataframe:
    """The same figures as a table, for those who read rather than look, folded away under the chart. Its button copies it as CSV."""
    with gr.Accordion(f"Table: {label}", open=False, elem_classes="twin"):
        return gr.Dataframe(
            headers=headers, label=label, show_label=False, interactive=False, datatype="str", buttons=["copy", "fullscreen"]
        )
