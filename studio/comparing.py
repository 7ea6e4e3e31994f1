"""The runs that the Compare room can choose from, by name: finished runs, and cells of sweeps as SWEEP/CELL. Pure: no screen in here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from core import compare, sweep
from core.compare import Side
from core.compare import page as comparison_page
from studio import jobs


def finished(runs: Path) -> list[str]:
    """Names of the runs that have a model to compare, newest first; cells of sweeps as SWEEP/CELL."""
    out = []
    for at in jobs.all_runs(runs):
        if at.state in ("done", "failed") and (jobs.report(at.path) or {}).get("pruned"):
            out.append(at.name)
        elif (at.path / sweep.FILE).is_file():
            out += [f"{at.name}/{cell.name}" for cell in sweep.cells_in(at.path) if cell.state == "done"]
    return out


def folder_of(runs: Path, name: str) -> Path:
    """The folder of a run, or of a sweep's cell (SWEEP/CELL). Raises ResourceError where there is none of that name."""
    whole, _, cell = name.partition("/")
    path = jobs.find(runs, whole)
    return jobs.find(path / sweep.CELLS, cell) if cell else path


def read(runs: Path, names: Sequence[str]) -> tuple[list[Side], list[str]]:
    """(the sides that can be compared, sentences on those that cannot). Raises ResourceError for an unknown name and for too many."""
    return compare.sides([(name, folder_of(runs, name)) for name in names])


def report(found: Sequence[Side]) -> str:
    """The path of a report on these runs, written where the page may hand files out. Raises ResourceError."""
    return str(comparison_page.write(found, Path(os.environ["GRADIO_TEMP_DIR"]) / "reports"))
