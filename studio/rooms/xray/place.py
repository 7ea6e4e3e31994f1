"""Where in the model the X-ray looks: all blocks, one block, its units, or the weights of a layer; and the trail of buttons that leads back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from core.errors import PrunariumError, RecipeError
from studio.charts import xray, xray_deep
from studio.parts.plotview import Picked

_HERE = Path(__file__).resolve().parent
BLOCKS, BLOCK, UNITS, WEIGHTS = "blocks", "block", "units", "weights"
STRUCTURES = {"heads": "Heads", "neurons": "Neurons", "experts": "Experts"}
CLOSEST = 16  # rows and columns that a window keeps at least


@dataclass(frozen=True)
class Place:
    """depth: blocks | block | units | weights. windows: those of the weight map that were gone through, (top, bottom, left, right), the present one last.
    metric: the score chosen for units and weights, where another one than the room's. rev: of the drawing that shows it."""

    depth: str = BLOCKS
    block: str = ""
    structure: str = ""
    layer: str = ""
    windows: tuple[tuple[int, int, int, int], ...] = ()
    metric: str = ""
    rev: int = 0

    @property
    def window(self) -> list[int] | None:
        return list(self.windows[-1]) if self.windows else None


def read(told: Any) -> Place:
    """A place from what the page keeps or sends; anything else is the start."""
    try:
        held = {name: told[name] for name in Place.__dataclass_fields__ if name in told}
        held["windows"] = tuple(tuple(int(edge) for edge in window) for window in held.get("windows") or ())
        found = Place(**held)
    except (TypeError, ValueError, KeyError):
        return Place()
    sound = all(len(window) == 4 for window in found.windows) and all(
        isinstance(x, str) for x in (found.block, found.layer, found.structure, found.metric)
    )
    return found if sound and found.depth in (BLOCKS, BLOCK, UNITS, WEIGHTS) else Place()


def plain(place: Place) -> dict[str, Any]:
    return {**asdict(place), "windows": [list(window) for window in place.windows]}


def component(elem_id: str) -> gr.HTML:
    """The trail. Give it `trail(...)`; its `select` says in event data {"to": place} where a person went."""
    css, js = ((_HERE / f"crumbs.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return gr.HTML(
        html_template='<div class="crumbs"></div>',
        css_template=css,
        js_on_load=js,
        apply_default_css=False,
        elem_id=elem_id,
        elem_classes="drawn",
    )


def trail(place: Place, data: xray.Observations, refused: Mapping[str, str]) -> dict[str, Any]:
    """The buttons: the path to where the picture is, and what else this block can show (with the reason where it cannot)."""
    path = [{"label": "Blocks", "to": plain(Place())}]
    if place.depth != BLOCKS:
        path.append({"label": xray_deep.words(place.block).capitalize(), "to": plain(Place(BLOCK, place.block))})
    if place.depth == UNITS:
        path.append({"label": STRUCTURES.get(place.structure, place.structure), "to": plain(replace(place, rev=0))})
    if place.depth == WEIGHTS:
        whole = replace(place, windows=(), rev=0)
        path.append({"label": f"Weights of {xray_deep.short(place.layer, place.block)}", "to": plain(whole)})
        for count, (top, bottom, left, right) in enumerate(place.windows, 1):
            label = f"rows {top}–{bottom - 1}, columns {left}–{right - 1}"
            path.append({"label": label, "to": plain(replace(whole, windows=place.windows[:count]))})
    return {"path": path, "also": [] if place.depth == BLOCKS else _beside(place, data, refused)}


def _beside(place: Place, data: xray.Observations, refused: Mapping[str, str]) -> list[dict[str, Any]]:
    names = [block["name"] for block in data["blocks"]]
    at = names.index(place.block) if place.block in names else 0
    before, after = names[max(at - 1, 0)], names[min(at + 1, len(names) - 1)]
    moved = replace(place, windows=(), rev=0)
    shown = [{"label": "Modules", "to": plain(Place(BLOCK, place.block)), "on": place.depth == BLOCK}]
    for structure, label in STRUCTURES.items():
        to = Place(UNITS, place.block, structure)
        shown.append(
            {
                "label": label,
                "to": plain(to),
                "on": place.depth == UNITS and place.structure == structure,
                "why": refused.get(structure, ""),
            }
        )
    largest = max(xray_deep.modules_of(data, place.block), key=lambda row: row["parameters"], default=None)
    if largest is not None:
        own = place.layer if place.layer.startswith(f"{place.block}.") else largest["name"]
        shown.append({"label": "Weights", "to": plain(Place(WEIGHTS, place.block, layer=own)), "on": place.depth == WEIGHTS})
    around = [("‹", before, "The block before"), ("›", after, "The next block")]
    return [*shown, *({"label": sign, "to": plain(_at(moved, block)), "name": name} for sign, block, name in around)]


def _at(place: Place, block: str) -> Place:
    layer = block + place.layer.removeprefix(place.block) if place.layer.startswith(f"{place.block}.") else place.layer
    return replace(place, block=block, layer=layer)


def of_layer(data: xray.Observations, name: str) -> Place:
    """The weights of a layer."""
    row = next((row for row in data["layers"] if row["name"] == name), None)
    return Place(WEIGHTS, row["block"], layer=name) if row else Place()


def zoomed(place: Place, shape: tuple[int, int], row: int, column: int) -> Place:
    """A quarter of the present window's height and width, around a weight; the same place where it is as close as it goes."""
    top, bottom, left, right = place.windows[-1] if place.windows else (0, shape[0], 0, shape[1])
    down, across = _edges(top, bottom, row), _edges(left, right, column)
    window = (*down, *across)
    return place if window == (top, bottom, left, right) else replace(place, windows=(*place.windows, window), rev=0)


def _edges(first: int, last: int, middle: int) -> tuple[int, int]:
    size = min(max((last - first) // 4, CLOSEST), last - first)
    start = min(max(middle - size // 2, first), last - size)
    return start, start + size


def typed_window(text: str, shape: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """ "0:64, 128:256" -> rows 0 to 63, columns 128 to 255; None for no text. Raises RecipeError on anything else."""
    if not text.strip():
        return None
    found = re.fullmatch(r"\s*(\d{1,9})\s*[:–-]\s*(\d{1,9})\s*[,;x× ]\s*(\d{1,9})\s*[:–-]\s*(\d{1,9})\s*", text)
    remedy = f"Type rows and columns such as 0:64, 0:64; this layer has {shape[0]:,} rows and {shape[1]:,} columns."
    if not found:
        raise RecipeError(f"{text.strip()[:40]!r} is no window.", remedy)
    top, bottom, left, right = map(int, found.groups())
    if not (0 <= top < bottom <= shape[0] and 0 <= left < right <= shape[1]):
        raise RecipeError(f"Rows {top} to {bottom}, columns {left} to {right} do not lie in this layer.", remedy)
    return top, bottom, left, right


def clicked(data: xray.Observations, place: Place, told: Picked) -> Place | None:
    """Where a click on the picture leads; None where nowhere. Raises PrunariumError for a click on an older drawing than the one that stands."""
    if told.rev != place.rev:
        raise PrunariumError("The picture has changed since you clicked.", "Click again in the one that stands now.")
    if place.depth == BLOCKS:
        name = xray.block_at(data, str(told.x))
        return Place(BLOCK, name) if name else None
    rows = xray_deep.modules_of(data, place.block)
    if place.depth == BLOCK:
        return of_layer(data, rows[told.index]["name"]) if 0 <= told.index < len(rows) else None
    if place.depth == UNITS:
        return _into(rows, place, told)
    row, column = (_first(told.y), _first(told.x))
    shape = shape_of(data, place.layer)
    return zoomed(place, shape, row, column) if row is not None and column is not None else None


def _into(rows: list[Any], place: Place, told: Picked) -> Place | None:
    """From a neuron or head to its rows in the first layer that makes it."""
    roles = {"neurons": ("up", "mlp"), "heads": ("query", "qkv")}.get(place.structure, ())
    layer = next((row for row in rows if row["role"] in roles), None)
    number = told.custom
    if layer is None or not isinstance(number, int) or not told.total:
        return None
    height, width = layer["shape"][0], shape_of({"layers": rows}, layer["name"])[1]
    each = height // told.total if place.structure == "heads" and layer["role"] == "query" else 0
    top = number * each if each else max(number - CLOSEST // 2, 0)
    window = (top, min(top + (each or CLOSEST), height), 0, width)
    return Place(WEIGHTS, place.block, layer=layer["name"], windows=(window,)) if window[0] < window[1] else None


def _first(label: Any) -> int | None:
    """The first number of a tile's label: "12–15" -> 12."""
    head = str(label).partition("–")[0]
    return int(head) if head.isdigit() else None


def shape_of(data: Any, name: str) -> tuple[int, int]:
    """A layer's rows and columns as a matrix: a convolution's kernel counts as columns."""
    row = next((row for row in data["layers"] if row["name"] == name), None)
    if row is None:
        return 1, 1
    first = row["shape"][0]
    return first, max(row["parameters"] // max(first, 1), 1)
