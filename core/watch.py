"""One run's process: start it, watch what it uses, end it in order, and write the end that it could not write itself. Torch-free."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

import psutil

from core import folder
from core.errors import ResourceError
from core.model.memory import available_bytes

CHECKOUT = Path(__file__).resolve().parent.parent
GRACE_S = 2.0  # a run has this long to obey a stop, then again after SIGTERM
_LOOK_S, _WEIGH_S = 0.1, 0.5


@dataclass(frozen=True)
class Limits:
    """What a run may use: resident bytes of its whole process tree; minutes on the clock (infinite where nobody said)."""

    memory_bytes: float
    minutes: float = math.inf


def limits(minutes: float | None = None) -> Limits:
    """PRUNARIUM_MEMORY_GB, or 90 % of what this machine or container has left. Raises ResourceError where it is no amount of memory."""
    own = os.environ.get("PRUNARIUM_MEMORY_GB")
    try:
        memory_bytes = float(own) * 1e9 if own else 0.9 * available_bytes()
    except ValueError:
        memory_bytes = -1.0
    if own and not memory_bytes > 0:
        problem = f"PRUNARIUM_MEMORY_GB is {own!r}, which is no amount of memory."
        raise ResourceError(problem, "Set it to a number such as 8, or unset it.")
    return Limits(memory_bytes, math.inf if minutes is None else minutes)


def spawn(words: list[str], output: IO[bytes] | int, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    """Start `python WORDS` as the leader of its own session, so that it can be ended with all its children, and only by us."""
    around = {**os.environ, "OMP_WAIT_POLICY": "passive", "PYTHONPATH": str(CHECKOUT), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, *words]
    return subprocess.Popen(command, stdin=stdin, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, env=around)


def resident_bytes(pid: int) -> int:
    """Resident memory of a process and all its descendants; those that end while we look count as nothing."""
    try:
        top = psutil.Process(pid)
        tree = [top, *top.children(recursive=True)]
    except psutil.Error:
        return 0
    total = 0
    for process in tree:
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue
    return total


def watch(child: subprocess.Popen[bytes], out: Path, allowed: Limits, heard: Callable[[dict[str, Any]], None]) -> None:
    """Follow the run until it ends, by itself or ended here. Always leaves a terminal state in `out` and no process behind."""
    try:
        _follow(child, out, allowed, heard)
    finally:
        if child.poll() is None:  # the disk is full, or nobody reads what we tell: a run must not go on unwatched
            stop(child, out)
        close(child, out)


def _follow(child: subprocess.Popen[bytes], out: Path, allowed: Limits, heard: Callable[[dict[str, Any]], None]) -> None:
    started_s, weighed_s, asked_s, offset = time.monotonic(), 0.0, math.inf, 0
    while not ended(child, _LOOK_S):
        events, offset = folder.read_events(out, offset)
        for event in events:
            heard(event)
        now = time.monotonic()
        if now - weighed_s > _WEIGH_S:
            weighed_s = now
            if resident_bytes(child.pid) > allowed.memory_bytes:
                _end_for_memory(child, out, allowed)
        if now - started_s > allowed.minutes * 60:
            problem = f"The run was stopped after {allowed.minutes:g} minutes, the time it was given."
            folder.end(out, "stopped", problem, "What was finished is kept; give it more with --minutes.")
            stop(child, out)
        asked_s = min(asked_s, now) if folder.stop_asked(out) else math.inf
        if now - asked_s > GRACE_S:
            stop(child, out, grace_s=0.0)
    for event in folder.read_events(out, offset)[0]:
        heard(event)


def stop(child: subprocess.Popen[bytes], out: Path, grace_s: float = GRACE_S) -> None:
    """End a run in order: ask, then SIGTERM, then SIGKILL."""
    with suppress(OSError):  # a full disk must not keep a run alive
        folder.ask_stop(out)
    if not ended(child, grace_s):
        _signal(child, "terminate")
        if not ended(child, GRACE_S):
            _signal(child, "kill")
            child.wait()


def _end_for_memory(child: subprocess.Popen[bytes], out: Path, allowed: Limits) -> None:
    folder.end(
        out,
        "failed",
        f"The run needed more than the {allowed.memory_bytes / 1e9:.1f} GB of memory that it may use.",
        "Take fewer or shorter samples or a smaller model, close other programs, or set PRUNARIUM_MEMORY_GB higher.",
    )
    _signal(child, "kill")  # at once: memory that grows for another two seconds can take the whole machine down
    child.wait()


def ended(child: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _signal(child: subprocess.Popen[bytes], action: str) -> None:
    """`terminate` or `kill` the run and every descendant."""
    try:
        top = psutil.Process(child.pid)
        tree = [*top.children(recursive=True), top]
    except psutil.Error:
        return
    for process in tree:
        try:
            getattr(process, action)()
        except psutil.Error:
            continue


def close(child: subprocess.Popen[bytes], out: Path) -> None:
    """After the run's death: end children it left, and write the end where it wrote none."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):  # nobody of its session is left
            os.killpg(child.pid, signal.SIGKILL)
    folder.clear_scratch(out)
    if folder.status(out).state in ("done", "failed", "stopped"):
        return
    with suppress(folder.Busy), folder.held(out):  # where another process lives there, the end of that one is not ours to write
        _say_how_it_ended(child.returncode, out)


def _say_how_it_ended(code: int, out: Path) -> None:
    log = out / folder.LOG
    if folder.stop_asked(out):
        folder.end(out, "stopped", *folder.STOPPED)
    elif code in (-9, -15):
        often = ", often for lack of memory" if code == -9 else ""
        remedy = "Take fewer or shorter samples or a smaller model, close other programs, and run it again."
        folder.end(
            out, "failed", f"The run was ended from outside (signal {-code}){often}.", remedy if often else "Run it again."
        )
    elif code < 0:
        folder.end(out, "failed", f"The run crashed (signal {-code}).", f"Run it again; if it repeats, report it with {log}.")
    else:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] if log.exists() else []
        problem = f"The run ended early, without saying how it ended: {lines[-1].strip()[:300] if lines else f'exit code {code}'}"
        folder.end(out, "failed", problem.rstrip(".") + ".", f"All it said is in {log}.")


def endings() -> tuple[int, ...]:
    """What Ctrl-C, a machine that shuts down, and a terminal that closes send. Whoever was started to outlive its terminal (nohup) is left to."""
    hangup = getattr(signal, "SIGHUP", None)
    kept = hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN
    return (signal.SIGINT, signal.SIGTERM, *([hangup] if kept else ()))


@contextmanager
def signals_mean_stop(out: Path, child: subprocess.Popen[bytes] | None = None, *signals: int) -> Iterator[list[int]]:
    """The first of `signals`, or of `endings`, asks the run or sweep in `out` to stop, as the page does; a second one ends `child` at once. Yields the
    signals heard."""
    heard: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        if child is not None and len(heard) > 1:
            child.kill()
        with suppress(OSError):  # a full disk: the second Ctrl-C ends it
            folder.ask_stop(out)

    before = {number: signal.signal(number, hear) for number in signals or endings()}
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
