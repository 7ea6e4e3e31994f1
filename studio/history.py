"""Every budget there was, on disk, a file a model: undo without a limit that a reload, a crash and a restart keep.

JSON lines. Each says where the line before it starts, so going back is one read. What is valid ends at the workspace's `end`: a line
written just before a crash, or undone and then overtaken by a new budget, lies beyond it and is cut off by the next.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core.folder import disk_error


@dataclass(frozen=True)
class Place:
    """Where in the history the workspace stands. `at`: start of its line, None before the first; `end`: where the last valid line ends. `undo`, `redo`:
    steps there are in each direction."""

    at: int | None = None
    end: int = 0
    undo: int = 0
    redo: int = 0


def add(path: Path, place: Place, before: dict[str, Any], after: dict[str, Any]) -> Place:
    """Write down a new budget; what had been undone is forgotten. `before` is written too where there is no history yet. Raises ResourceError."""
    if place.at is None:
        place = _append(path, replace(place, end=0), before)
    cut = _read(path, place.at) if place.at is not None else None
    place = replace(place, end=cut[1]) if cut else _append(path, Place(), before)
    grown = _append(path, place, after)
    return replace(grown, undo=place.undo + 1, redo=0)


def back(path: Path, place: Place) -> tuple[dict[str, Any], Place] | None:
    """The budget before, and where it stands; None where there is none, or its line cannot be read."""
    here = _read(path, place.at) if place.at is not None else None
    was = _read(path, here[0]["back"]) if here and here[0]["back"] is not None else None
    if here is None or was is None:
        return None
    return was[0]["budget"], replace(place, at=here[0]["back"], undo=max(place.undo - 1, 0), redo=place.redo + 1)


def forth(path: Path, place: Place) -> tuple[dict[str, Any], Place] | None:
    """The budget that was undone last."""
    here = _read(path, place.at) if place.at is not None else None
    if here is None or here[1] >= place.end or (after := _read(path, here[1])) is None:
        return None
    return after[0]["budget"], replace(place, at=here[1], undo=place.undo + 1, redo=max(place.redo - 1, 0))


def _append(path: Path, place: Place, budget: dict[str, Any]) -> Place:
    line = json.dumps({"back": place.at, "budget": budget}, separators=(",", ":")).encode() + b"\n"
    try:
        with path.open("r+b" if path.exists() else "w+b") as stream:
            stream.truncate(place.end)
            stream.seek(place.end)
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise disk_error(error, path) from None
    return replace(place, at=place.end, end=place.end + len(line))


def _read(path: Path, at: int) -> tuple[dict[str, Any], int] | None:
    """The line that starts there, and where it ends."""
    try:
        with path.open("rb") as stream:
            stream.seek(at)
            line = stream.readline()
        found = json.loads(line)
        return (found, at + len(line)) if isinstance(found, dict) and {"back", "budget"} <= set(found) else None
    except (OSError, ValueError):
        return None
