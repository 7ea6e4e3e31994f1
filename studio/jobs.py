"""Runs as seen from the screen: start, find, stop, follow. Each run is a process of its own that outlives the page and the studio.

Nothing is remembered here but the warm spare: what a run is doing is read from its folder, so a reload, a second tab and a restart see the same.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

from core import folder, sweep
from core.errors import ResourceError
from core.folder import Status
from core.recipe import Recipe, to_yaml
from core.views import slug

CHECKOUT = Path(__file__).resolve().parent.parent
ASKED = ".asked"  # recipes as they were asked for; a run writes its own resolved copy into its folder
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?$")


class Spare:
    """One warmed process with the slow imports done, so that a small run starts at once."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._given: list[subprocess.Popen[bytes]] = []

    def warm(self) -> None:
        """Start the spare where there is none."""
        with self._lock:
            self._given = [process for process in self._given if process.poll() is None]
            if self._process is None or self._process.poll() is not None:
                self._process = _spawn()

    def order(self, recipe: Path, out: Path) -> None:
        """Give the order to the spare, or to a fresh process where there is none."""
        self.warm()
        with self._lock:
            process, self._process = self._process, None
            if process is None or process.stdin is None:
                raise ResourceError("The run could not be started.", "Try again.")
            line = json.dumps({"recipe": str(recipe), "out": str(out)}) + "\n"
            try:
                process.stdin.write(line.encode())
                process.stdin.close()
            except OSError:
                raise ResourceError("The process for the run ended before it began.", "Start the run again.") from None
            self._given.append(process)

    def keep(self, process: subprocess.Popen[bytes]) -> None:
        """Remember a process that goes its own way, so that its end is noticed."""
        with self._lock:
            self._given.append(process)

    def close(self) -> None:
        """End the unused spare. Runs go on."""
        with self._lock:
            process, self._process = self._process, None
            if process is not None and process.stdin is not None:
                process.stdin.close()


SPARE = Spare()


def _spawn(*words: str, output: IO[bytes] | int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    """`python -m WORDS`, detached; without words, the warm spare."""
    around = {**os.environ, "OMP_WAIT_POLICY": "passive", "PYTHONPATH": str(CHECKOUT), "PYTHONSAFEPATH": "1"}
    around.pop("PRUNARIUM_DUMP_MODULES", None)
    return subprocess.Popen(
        [sys.executable, "-m", *(words or ("core.supervise", "--wait"))],
        stdin=subprocess.DEVNULL if words else subprocess.PIPE,
        stdout=output,
        stderr=output,
        start_new_session=True,
        env=around,
    )


def start(recipe: Recipe, root: Path) -> Path:
    """Start a run in a new folder under `root` and return the folder. Raises ResourceError where the disk refuses."""
    name = _free_name(root, f"{slug(recipe.name)}-{time.strftime('%m%d-%H%M%S')}")
    out = folder.create(root / name)
    asked = root / ASKED / f"{name}.yaml"
    asked.parent.mkdir(exist_ok=True)
    folder.write_text(asked, to_yaml(recipe))
    SPARE.order(asked, out)
    threading.Thread(target=SPARE.warm, daemon=True).start()
    return out


def start_sweep(text: str, root: Path) -> Path:
    """Start a sweep (YAML) in a new folder under `root` and return the folder. Raises RecipeError, or ResourceError where the disk refuses."""
    asked = sweep.from_yaml(text)
    name = _free_name(root, f"{slug(asked.name)[:60]}-{time.strftime('%m%d-%H%M%S')}")
    file = root / ASKED / f"{name}.yaml"
    out = folder.create(root / name)
    file.parent.mkdir(exist_ok=True)
    folder.write_text(file, sweep.to_yaml(asked.whole))
    _supervise(file, out)
    return out


def resume_sweep(path: Path) -> None:
    """Go on with a sweep that did not finish."""
    _supervise(path / sweep.FILE, path)


def _supervise(file: Path, out: Path) -> None:
    """A process that outlives the page and the studio; what it says that is no event lands in the folder's log."""
    with (out / folder.LOG).open("ab") as log:
        SPARE.keep(_spawn("core.supervise", str(file), "--out", str(out), output=log))


def _free_name(root: Path, wanted: str) -> str:
    names = (wanted, *(f"{wanted}-{number}" for number in range(2, 1000)))
    return next(name for name in names if not (root / name).exists())


def find(root: Path, name: str) -> Path:
    """The folder of a run under `root`. Raises ResourceError where there is none of that name."""
    path = root / name
    if not name or Path(name).name != name or name.startswith(".") or not path.is_dir():
        raise ResourceError(f"There is no run called {name!r}.", "Choose one from the Runs room.")
    return path


def status(path: Path) -> Status | None:
    """What a run is doing; None where its folder is gone."""
    try:
        return folder.status(path)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


_ended: dict[Path, Status] = {}  # a terminal state never changes, so a long list of runs is read once


def all_runs(root: Path) -> list[Status]:
    """Every run under `root`, newest first."""
    found = [_ended.get(path) or status(path) for path in folder.runs(root)]
    for at in found:
        final = at is not None and at.state in ("done", "failed", "stopped")
        if final and (at.state == "done" or not (at.path / sweep.FILE).exists()):  # a stopped sweep may go on
            _ended[at.path] = at
    return [at for at in found if at is not None]


def running(root: Path) -> list[Status]:
    """The runs under `root` that have not ended, newest first."""
    return [at for at in all_runs(root) if not at.ended]


def stop(path: Path) -> None:
    """Ask the run to stop; its supervisor ends it where it does not obey. What it had already finished stays finished."""
    folder.ask_stop(path)


def curve(path: Path) -> dict[str, list[tuple[float, float]]]:
    """The figures a run has told so far: {figure: [(seconds since its start, value), ...]}."""
    events, _ = folder.read_events(path)
    out: dict[str, list[tuple[float, float]]] = {}
    for event in events:
        for name, value in (event.get("values") or {}).items():
            if isinstance(value, (int, float)):
                out.setdefault(name, []).append((event["time_s"] - events[0]["time_s"], float(value)))
    return out


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON artefact of a run, or None where it was not made (yet) or cannot be read."""
    try:
        value = folder.read_json(path)
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def report(path: Path) -> dict[str, Any] | None:
    return read_json(path / folder.REPORT)


def log_tail(path: Path, lines: int = 30) -> str:
    """The end of what the run and its libraries printed."""
    try:
        text = (path / folder.LOG).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def admit(source: str, folders: tuple[Path, ...]) -> str:
    """A source typed on the page. Names of built-ins and hub ids pass; a path must lie under one of `folders`, and comes back whole.

    Raises ResourceError: the page may not read what the person did not open to it.
    """
    text = source.strip()
    if not text:
        raise ResourceError("No source was given.", "Type builtin:tiny-llama, a folder, or a file.")
    if "\0" in text:
        raise ResourceError("The name holds a character that no path has.", "Type it again.")
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise ResourceError(f"There is no home folder for {text.split('/')[0]}.", "Give the whole path.") from None
    found = [path] if path.is_absolute() else [base / path for base in folders if (base / path).exists()]
    if text.startswith("builtin:") or (not found and _HUB_ID.match(text)):
        return text
    if not found:
        raise ResourceError(f"There is no {text!r} in the opened folders.", "Check the name, or give the whole path.")
    whole = found[0].resolve()
    if not any(whole.is_relative_to(base.resolve()) for base in folders):
        raise ResourceError(
            f"{whole} is outside the folders that this page may read.", f"Start the studio again with --open {whole.parent}."
        )
    if not whole.exists():
        raise ResourceError(f"There is nothing at {whole}.", "Check the path.")
    return str(whole)
