"""Carry out a sweep: its cells one after another, each a run in a process of its own. Torch-free. What is done is never done again: a sweep that was
stopped, killed or cut off goes on where it was when it is started once more in the same folder.
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from core import folder
from core.errors import ResourceError
from core.events import Progress
from core.recipe import to_yaml as recipe_yaml
from core.report import final
from core.sweep import CELLS, FILE, Cell, CellState, Sweep, cells_in, loaded, read, to_yaml
from core.views import slug
from core.watch import Limits, limits, signals_mean_stop, spawn, watch

_ASKED = ".asked"
_LOOK_S = 0.3
Tell = Callable[[str], None]


def run_sweep(file: Path, out: Path | None, runs: Path, minutes: float | None, *, as_json: bool) -> int:
    """Run, or go on with, the sweep in `file`. Exit codes: 0 all cells done; 1 a cell failed, or all was stopped; 130 stopped by Ctrl-C.

    minutes: for each cell.
    """
    sweep = read(file)
    allowed = limits(minutes)
    out = out or runs / f"{slug(sweep.name)}-{time.strftime('%Y%m%d-%H%M%S')}"
    prepare(sweep, out)
    with folder.watched(out), folder.held(out), signals_mean_stop(out) as heard:
        begin(sweep, out)
        carry_out(sweep, out, allowed, lambda words: print(words, file=sys.stderr, flush=True))
    if heard:
        print(f"Stopped. Go on with the same command and --out {out}", file=sys.stderr)
        return 130
    return _say_the_end(out, as_json=as_json)


def prepare(sweep: Sweep, out: Path) -> None:
    """Make the folder, or see that it holds this very sweep, unfinished. Raises ResourceError: two sweeps never share a folder."""
    if not (out / FILE).exists():
        folder.create(out)
        return
    if _plain(loaded((out / FILE).read_text(encoding="utf-8"))) != _plain(sweep.whole):
        raise ResourceError(
            f"The folder {out} already holds another sweep.",
            "Choose another --out; to go on with that one, run its own sweep.yaml.",
        )
    if (out / folder.REPORT).exists():
        raise ResourceError(
            f"The sweep in {out} is finished.", "Its table is in report.json; choose another --out to run it again."
        )


def begin(sweep: Sweep, out: Path) -> None:
    """Leave what the sweep is. What was said before a stop is forgotten: it is alive again."""
    for name in (folder.EVENTS, "stop"):
        (out / name).unlink(missing_ok=True)
    folder.append_event(out, Progress("start", kind="note", text=sweep.name))
    folder.write_text(out / FILE, to_yaml(sweep.whole))
    (out / CELLS / _ASKED).mkdir(parents=True, exist_ok=True)


def carry_out(sweep: Sweep, out: Path, allowed: Limits, tell: Tell) -> None:
    """Every cell that is not done yet, then the report and the end. Called with the folder's lock held."""
    total = len(sweep.cells)
    folder.append_event(out, Progress("sweep", 0, total))
    for number, cell in enumerate(sweep.cells, 1):
        if folder.stop_asked(out):
            break
        at = _run_cell(cell, out, allowed)
        tell(f"{number} of {total}: {cell.name}: {at.state}{': ' + at.problem if at.problem and at.state != 'done' else ''}")
        if at.state == "stopped" and folder.stop_asked(out):
            break
        folder.append_event(out, Progress("sweep", number, total, text=cell.name))
    found = cells_in(out)
    if folder.stop_asked(out):
        left = sum(at.state not in ("done", "failed") for at in found)
        folder.end(
            out,
            "stopped",
            f"The sweep was stopped with {left} of {total} cells to go.",
            "Start it again: what is done stays done.",
        )
        return
    folder.write_json(
        out / folder.REPORT, {"name": sweep.name, "sweep": {"fields": sweep.fields, "cells": [_row(at) for at in found]}}
    )
    failed = [at for at in found if at.state != "done"]
    if len(failed) == total:
        folder.end(
            out, "failed", f"Every cell of the sweep failed. The first: {failed[0].problem}", "Correct that and start anew."
        )
    else:
        folder.end(out, "done", f"{len(failed)} of {total} cells failed." if failed else "", "")


def _row(at: CellState) -> dict[str, Any]:
    report = at.report or {}
    moments = {name: _figures(report.get(name)) for name in ("dense", "pruned", "recovered")}
    return {"name": at.name, "values": at.values, "state": at.state, "problem": at.problem, **moments}


def _figures(metrics: dict[str, Any] | None) -> dict[str, Any] | None:
    """The single figures of a model, without what is there for comparing window by window."""
    return {name: value for name, value in metrics.items() if isinstance(value, (int, float))} if metrics else None


def _run_cell(cell: Cell, out: Path, allowed: Limits) -> CellState:
    """The cell's end: as it was where it is done already, else after its run."""
    path = out / CELLS / cell.name
    while folder.is_held(path):  # the sweep was killed and this cell's run lives on: let it finish
        if folder.stop_asked(out):
            folder.ask_stop(path)
        time.sleep(_LOOK_S)
    at = next(one for one in cells_in(out) if one.name == cell.name)
    if cell.recipe is None or at.state == "done":
        return at
    shutil.rmtree(path, ignore_errors=True)
    asked = out / CELLS / _ASKED / f"{cell.name}.yaml"
    folder.write_text(asked, recipe_yaml(cell.recipe))
    folder.create(path)
    with _stop_handed_on(out, path), (path / folder.LOG).open("ab") as log:
        child = spawn(["-m", "core.run", str(asked), "--out", str(path)], log)
        watch(child, path, allowed, lambda event: None)
    return next(one for one in cells_in(out) if one.name == cell.name)


@contextmanager
def _stop_handed_on(out: Path, cell: Path) -> Iterator[None]:
    """While this lasts, a stop asked of the sweep is asked of the cell too."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(_LOOK_S):
            if folder.stop_asked(out):
                with suppress(OSError):
                    folder.ask_stop(cell)
                return

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _say_the_end(out: Path, *, as_json: bool) -> int:
    at = folder.status(out)
    found = cells_in(out)
    if as_json and (out / folder.REPORT).exists():
        print(json.dumps(folder.read_json(out / folder.REPORT), ensure_ascii=False, separators=(",", ":")))
    else:
        print(f"{table(found)}\n\n{out}")
    if at.state != "done":
        print(f"{at.problem} {at.remedy}".strip(), file=sys.stderr)
    return 0 if at.state == "done" and all(one.state == "done" for one in found) else 1


def table(found: list[CellState]) -> str:
    """The cells as lines for a terminal."""
    rows = [["cell", "state", "quality", "non-zero"]]
    for at in found:
        end = final(at.report or {})[1]
        quality = next((f"{name} {end[name]:.4g}" for name in ("perplexity", "accuracy") if end.get(name) is not None), "")
        rows.append([at.name, at.state, quality or at.problem[:80], f"{end['nonzero']:,}" if end.get("nonzero") else ""])
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, sort_keys=True, default=str))
