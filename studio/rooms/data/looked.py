"""What a person has chosen on the map, and where they have zoomed to: plain data that outlives a move of the slider, another colour and another map."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from studio.rooms.data.dataview import View

Window = tuple[float, float, float, float]


@dataclass(frozen=True)
class Looked:
    """`mask`: the chosen rows, a bit a row in the map's order; `how` they were, in words; `row`: the one whose nearest they are. They speak of the rows
    named `rows`, the window (x0, x1, y0, y1) of the map named `map`: of others they say nothing."""

    rows: str = ""
    mask: bytes = b""
    how: str = ""
    row: int | None = None
    map: str = ""
    window: Window | None = None


def chosen(looked: Looked | None, view: View) -> Looked | None:
    """The choice, where there is one of these rows."""
    return looked if looked and looked.mask and looked.rows == _rows(view) else None


def places(looked: Looked | None, view: View) -> np.ndarray | None:
    """Where the chosen rows lie in the map's table; None where none are chosen."""
    if chosen(looked, view) is None:
        return None
    return np.flatnonzero(np.unpackbits(np.frombuffer(looked.mask, np.uint8), count=view.facts["rows"]))


def choose(looked: Looked | None, view: View, at: np.ndarray | None, how: str = "", row: int | None = None) -> Looked:
    """These places instead of what was chosen; None or no places: nothing."""
    old = looked or Looked()
    if at is None or not len(at):
        return replace(old, rows="", mask=b"", how="", row=None)
    mask = np.zeros(view.facts["rows"], bool)
    mask[at] = True
    return replace(old, rows=_rows(view), mask=np.packbits(mask).tobytes(), how=how, row=row)


def zoom(looked: Looked | None, view: View, projection: str, window: Window | None) -> Looked:
    return replace(looked or Looked(), map=map_name(view, projection), window=window)


def window(looked: Looked | None, view: View, projection: str) -> Window | None:
    return looked.window if looked and looked.map == map_name(view, projection) else None


def map_name(view: View, projection: str) -> str:
    return f"{_rows(view)} {projection}"


def _rows(view: View) -> str:
    choice = view.choice
    return repr((choice.source, choice.text, choice.label, choice.skip, choice.embedding, view.facts["rows"]))
