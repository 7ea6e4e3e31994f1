"""The run folder: the only file that knows artefact names. Torch-free.

Writes are atomic (a neighbour file, fsync, rename). `report.json` comes last: without it a run is unfinished. A run is alive while its
process holds the lock file; a run without a terminal state whose lock nobody holds reads `interrupted`.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from core.errors import PrunariumError, ResourceError, Stopped
from core.events import Progress

RECIPE, ENVIRONMENT, EVENTS, LOG = "recipe.yaml", "environment.json", "events.jsonl", "log.txt"
SCORES, MASK, SELECTION, LAYERS = "scores.safetensors", "mask.safetensors", "selection.parquet", "layers.parquet"
OBSERVATIONS, POINTS, REPORT, MODEL = "observations.json", "points.parquet", "report.json", "model"
DATA = "data"  # the rows that a selection keeps, in the forms asked for, with a manifest
PROOF = "proof.jsonl"  # of a proof: a line for each fit that is done
GEOMETRY, PLACES = (
    "geometry.json",
    "geometry.parquet",
)  # a data set in every block of a model: measures; where each row lies and goes
DAMAGE = "damage.json"  # what each group of rows loses by each layer
FORMULAS = "formulas.json"  # of a genetic search: grows with every generation
RESUME = "resume.safetensors"  # what a run has finished so far; gone when it is done
CHANGED = ".changed"  # blocks of a model larger than memory, as they are after pruning; gone when the run has ended
_SAVING = f".{MODEL}.saving-*"  # a model half saved (core.model.files.export)
_LOCK, _WATCH, _STOP = "lock", "watch", "stop"
STOPPED = ("The run was stopped.", "What it had finished is in its folder; start it again to do the rest.")
TERMINAL = ("done", "failed", "stopped", "interrupted")


class Busy(ResourceError):
    """Another process works in the run's folder."""


@dataclass(frozen=True)
class Status:
    """What a run is doing, read from disk. `state`: waiting | running | one of TERMINAL. `seconds_left`: None where unknown."""

    path: Path
    state: str
    stage: str = ""
    done: int = 0
    total: int = 0
    seconds_left: float | None = None
    problem: str = ""
    remedy: str = ""
    started_s: float = 0.0
    ended_s: float | None = None
    values: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def ended(self) -> bool:
        return self.state in TERMINAL


def create(path: Path) -> Path:
    """Make an empty run folder. Raises ResourceError where it holds another run already, or cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any((path / name).exists() for name in (RECIPE, REPORT, EVENTS)):
            left = "finished work is never overwritten." if (path / REPORT).exists() else "or remove it: that run did not finish."
            raise ResourceError(f"The folder {path} already holds a run.", f"Choose another --out; {left}")
        (path / _LOCK).touch()
    except OSError as error:
        raise disk_error(error, path) from None
    return path


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the run's lock: the sign of life that ends with the process, however it ends."""
    try:
        with FileLock(path / _LOCK, timeout=1):  # whoever reads the state holds it for a moment: `is_held`
            yield
    except Timeout:
        raise Busy(f"Another process is working in {path}.", "Wait for it, or choose another --out.") from None


@contextmanager
def watched(path: Path) -> Iterator[None]:
    """Hold the place of the one who starts and watches the run in this folder, from before the run itself can take its lock: of two started at once
    for one folder, the second is refused. Ends with the process, however it ends."""
    try:
        with FileLock(path / _WATCH, timeout=1):  # whoever reads the state holds it for a moment: `status`
            yield
    except Timeout:
        raise Busy(f"Another run has just been started in {path}.", "Wait for it, or choose another --out.") from None


def clear_scratch(path: Path) -> None:
    """Remove what a run that was killed left half written in its folder. Nothing happens where a living process holds the run."""
    left = [*path.glob(_SAVING), *path.glob(CHANGED)]
    if not left:
        return
    with suppress(Busy), held(path):
        for scratch in left:
            shutil.rmtree(scratch, ignore_errors=True)


def is_held(path: Path) -> bool:
    """Does a living process hold this run?"""
    return _taken(path / _LOCK)


def _taken(lock: Path) -> bool:
    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file or nothing. Raises ResourceError where the disk is full or the folder cannot be written."""
    write_chunks(path, (content,))


def write_chunks(path: Path, chunks: Iterable[bytes]) -> None:
    """`write_bytes` for what need not be in memory all at once."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise disk_error(error, path) from None


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Strict JSON: what is not a number (NaN, infinity) becomes null."""
    write_text(path, json.dumps(finite(value), indent=1, allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """The value with NaN and infinities as None, tuples as lists, numpy scalars as Python's, so that any JSON reader can read it."""
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def disk_error(error: OSError, path: Path) -> PrunariumError:
    """An operating system's refusal to write as a sentence with a remedy."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(
            f"The disk is full: {path} was not written.", "Free some space and run it again; finished work is kept."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return ResourceError(f"{path} may not be written.", "Choose a folder that you may write to, with --out.")
    return ResourceError(f"{path} cannot be written: {error.strerror}.", "Check the path and the disk.")


def append_event(path: Path, progress: Progress) -> None:
    """Add one line to the run's events."""
    append_line(path / EVENTS, asdict(progress))


def append_line(file: Path, value: Any) -> None:
    """Add one line of strict JSON; a single write, so that readers never see half a line from it."""
    line = json.dumps(finite(value), allow_nan=False) + "\n"
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            torn = (
                os.lseek(descriptor, 0, os.SEEK_END)
                and os.pread(descriptor, 1, os.lseek(descriptor, 0, os.SEEK_END) - 1) != b"\n"
            )
            os.write(descriptor, b"\n" * bool(torn) + line.encode())  # a line torn by a full disk must not swallow this one
        finally:
            os.close(descriptor)
    except OSError as error:
        raise disk_error(error, file) from None


def read_lines(file: Path) -> list[Any]:
    """The whole lines of such a file, torn ones left out; none where there is no file."""
    found = []
    for line in file.read_bytes().split(b"\n") if file.exists() else ():
        with suppress(ValueError):
            found.append(json.loads(line))
    return found


def read_events(path: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """The events from byte `offset` on, and the offset to go on from. A half-written last line is left for the next call."""
    file = path / EVENTS
    if not file.exists():
        return [], offset
    with file.open("rb") as stream:
        stream.seek(offset)
        whole, newline, _ = stream.read().rpartition(b"\n")
    if not newline:
        return [], offset
    events = []
    for line in whole.split(b"\n"):
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            continue  # a line torn by a full disk: the others still tell the story
    return events, offset + len(whole) + 1


def end(path: Path, state: str, problem: str = "", remedy: str = "") -> None:
    """Write the terminal state. Called by the run itself or its supervisor, by nobody else; the first one written stands."""
    if state not in TERMINAL:
        raise ValueError(f"{state!r} is not a terminal state")
    append_event(path, Progress(state, kind="state", text=json.dumps({"problem": problem, "remedy": remedy})))


def ask_stop(path: Path) -> None:
    """Ask the run to stop between two items."""
    (path / _STOP).touch()


def stop_asked(path: Path) -> bool:
    return (path / _STOP).exists()


def status(path: Path) -> Status:
    """Read a run's state from disk alone. Raises FileNotFoundError where there is no run."""
    if not path.is_dir():
        raise FileNotFoundError(path)
    events, seen = read_events(path)
    started = events[0]["time_s"] if events else path.stat().st_mtime
    at = Status(path, "running", started_s=started)
    for event in events:
        if event["kind"] == "state":
            said = json.loads(event["text"] or "{}")
            return replace(at, state=event["stage"], ended_s=event["time_s"], seconds_left=None, **said)
        at = replace(at, values={**at.values, **(event.get("values") or {})})
        if event["kind"] == "progress":
            at = replace(at, stage=event["stage"], done=event["done"], total=event["total"])
    if is_held(path):
        return replace(at, seconds_left=_seconds_left(events))
    if read_events(path, seen)[0]:
        return status(path)  # it began or ended between the two looks
    if not events and (
        time.time() - path.stat().st_mtime < 60 or _taken(path / _WATCH)
    ):  # a busy machine takes long over the imports
        return replace(at, state="waiting")
    ended = events[-1]["time_s"] if events else started
    return replace(
        at, state="interrupted", ended_s=ended, problem="The run was cut off before it finished.", remedy="Start it again."
    )


def _seconds_left(events: list[dict[str, Any]]) -> float | None:
    """Time left in the current stage at the pace it has kept so far; None before its first item is done."""
    progress = [event for event in events if event["kind"] == "progress"]
    if not progress:
        return None
    last = progress[-1]
    first = next(event for event in progress if event["stage"] == last["stage"])
    items, seconds = last["done"] - first["done"], last["time_s"] - first["time_s"]
    return (last["total"] - last["done"]) * seconds / items if items > 0 else None


def runs(root: Path) -> list[Path]:
    """Every run folder under `root`, newest first."""
    if not root.is_dir():
        return []
    found = [path for path in root.iterdir() if path.is_dir() and ((path / RECIPE).exists() or (path / EVENTS).exists())]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


@dataclass
class FolderWatcher:
    """Writes progress to the run's events (at most ten lines a second a stage, first and last always) and hears its stop file."""

    path: Path
    _last_s: float = 0.0

    def say(self, progress: Progress) -> None:
        edge = progress.done in (0, progress.total) or progress.kind != "progress" or progress.values
        if edge or progress.time_s - self._last_s >= 0.1:
            self._last_s = progress.time_s
            append_event(self.path, progress)

    def check(self) -> None:
        if stop_asked(self.path):
            raise Stopped
