"""The treemap of the open rows: clusters as rectangles with pictures or words in them, zoomed into and set side by side. The worker lays it out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from core.errors import PrunariumError
from core.recipe import to_dict
from studio.bench import Bench
from studio.charts.data import LOW_TO_HIGH, MANY
from studio.rooms.data import dataplan, dataview
from studio.rooms.data.dataplan import Choice, to_recipe
from studio.rooms.data.dataview import View
from studio.theme import COLOURS

_HERE = Path(__file__).resolve().parent
_CSS = (_HERE / "treemap.css").read_text(encoding="utf-8")
_JS = "".join((_HERE / name).read_text(encoding="utf-8") for name in ("treemap.js", "treemap_pair.js"))
_WAIT_S = 300.0


def component(bench: Bench, elem_id: str) -> gr.HTML:
    """No rows yet; give it `shown(...)`. Events: `select` with {"row": number} where a row is pressed, `submit` with {"count": clusters} where the person
    wants the visible clusters of all rows to be the map's."""
    return gr.HTML(
        value=None,
        html_template='<div class="tm" role="region" aria-label="Clusters of the rows" data-rev="0"></div>',
        css_template=_CSS,
        js_on_load=_JS,
        server_functions=[_look(bench), _pair(bench)],
        apply_default_css=False,
        elem_id=elem_id,
    )


def shown(view: View | None, keep: float) -> dict[str, Any] | None:
    """What the page needs to ask for its first picture; nothing where the rows are not embedded yet."""
    if view is None or not view.ready:
        return None
    choice = view.choice.to_dict()
    return {
        "key": repr(replace(view.choice, way="", selector="", params=(), clusters=None, merged=False)),
        "choice": choice,
        "keep": keep,
        "names": [str(name)[:60] for name in view.names],
        "kind": view.facts["kind"],
        "rows": view.facts["rows"],
        "colours": MANY,
        "scale": ["#{:02x}{:02x}{:02x}".format(*one) for one in LOW_TO_HIGH],
        "kept": COLOURS["accent"],
    }


def _look(bench: Bench) -> Any:
    def look(asked: dict[str, Any]) -> dict[str, Any]:
        """The clusters below a node, laid out for the page's size."""
        wanted = {name: asked[name] for name in ("node", "count", "width", "height", "colour")}
        return _answer(bench, asked, "treemap", wanted)

    return look


def _pair(bench: Bench) -> Any:
    def pair(asked: dict[str, Any]) -> dict[str, Any]:
        """Two clusters side by side."""
        return _answer(bench, asked, "compare_clusters", {"nodes": asked["nodes"], "colour": asked["colour"]})

    return pair


def _answer(bench: Bench, asked: dict[str, Any], question: str, wanted: dict[str, Any]) -> dict[str, Any]:
    """The worker's answer, or {"problem": a sentence}. The data set is looked at again as a typed one would be: it comes from the page."""
    try:
        choice = admitted(bench, Choice.of(asked["choice"]))
        dataview.hold(bench, choice)
        recipe = to_dict(to_recipe(choice, float(asked["keep"]) / 100))
        return bench.worker.ask(question, timeout_s=_WAIT_S, recipe=recipe, **wanted)
    except PrunariumError as error:
        return {"problem": str(error)}
    except (TypeError, ValueError, KeyError, AttributeError):  # a page asks in this form; whoever else asks is told so
        return {"problem": "The treemap was asked in a way that it does not know. Reload the page."}


def admitted(bench: Bench, choice: Choice) -> Choice:
    """A choice that came from the page, every place in it looked at as a typed one would be: the opened model, and data sets of opened folders."""
    sources = dataplan.second_sources(choice.way)
    params = tuple(
        (name, bench.admit(str(value)) if name in sources and str(value).strip() else value) for name, value in choice.params
    )
    return replace(choice, source=bench.admit(choice.source), model=bench.workspace.read().model, params=params)
