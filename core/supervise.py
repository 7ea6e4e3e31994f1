"""Run a recipe in a process of its own and watch over it: `python -m core.supervise RECIPE [--out DIR] [--json]`. Torch-free.

The run (`python -m core.run`) computes and writes its own end. This process follows its events, ends it in order when it needs more
memory or time than it may have or when somebody asked for a stop, and writes the end that a killed or crashed run could not write.

`--wait` is the warm spare: it starts `core.run --wait`, which has its imports done, and reads one line of JSON from standard input,
`{"recipe": path, "out": folder}`. End of input without an order ends both quietly. After an order it outlives whoever gave it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from core import catalogue, folder, summary
from core.errors import PrunariumError
from core.recipe import read
from core.sweep import is_sweep
from core.sweep_run import run_sweep
from core.views import slug
from core.watch import endings, limits, signals_mean_stop, spawn, watch

RUN = ("-m", "core.run")


@dataclass
class Teller:
    """Shows events on standard error: one line that renews itself on a terminal, else a line a stage and one every 10 s."""

    live: bool
    _stage: dict[str, Any] = field(default_factory=dict)
    _shown_s: float = 0.0

    def tell(self, event: dict[str, Any]) -> None:
        if event["kind"] != "progress":
            if event["kind"] == "note" and event["text"]:
                self._write(event["text"], keep=True)
            return
        fresh = event["stage"] != self._stage.get("stage")
        if fresh:
            self._stage = event
        if self.live or fresh or event["time_s"] - self._shown_s > 10:
            self._shown_s = event["time_s"]
            self._write(self._words(event), keep=not self.live)

    def clear(self) -> None:
        if self.live:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def _words(self, event: dict[str, Any]) -> str:
        count = f" {event['done']} of {event['total']}" if event["total"] else ""
        items, seconds = event["done"] - self._stage["done"], event["time_s"] - self._stage["time_s"]
        left = f", {(event['total'] - event['done']) * seconds / items:.0f} s left" if items > 0 and event["total"] else ""
        figures = "".join(f", {name} {value:.4g}" for name, value in (event.get("values") or {}).items() if value is not None)
        return f"{event['stage']}{count}{left}{figures}"

    def _write(self, words: str, *, keep: bool) -> None:
        start = "\r\033[K" if self.live else ""
        print(start + words, end="\n" if keep else "", file=sys.stderr, flush=True)


def run_recipe(recipe: Path, out: Path | None, runs: Path, minutes: float | None, *, as_json: bool) -> int:
    """Run a recipe to its end, telling standard error how it goes. Returns the exit code: 0 done, 1 failed, 130 stopped by Ctrl-C."""
    asked = read(recipe)
    if not os.environ.get("PRUNARIUM_METHODS"):
        catalogue.resolve(asked)  # what the file gets wrong is said now, not after the run's imports
    allowed = limits(minutes)
    out = folder.create(out or runs / f"{slug(asked.name)}-{time.strftime('%Y%m%d-%H%M%S')}")
    teller = Teller(sys.stderr.isatty())
    with folder.watched(out):
        folder.create(out)  # once more: another may have begun since, and let go
        with (out / folder.LOG).open("ab") as log:
            child = spawn([*RUN, str(recipe), "--out", str(out)], log)
        with signals_mean_stop(out, child) as heard:
            watch(child, out, allowed, teller.tell)
    teller.clear()
    if heard:
        print(f"Stopped. What was finished is in {out}", file=sys.stderr, flush=True)
        return 130
    return _say_the_end(out, as_json=as_json)


def wait_for_order() -> int:
    """The warm spare: hold a run whose imports are done until one line of JSON says what to run and where."""
    if hasattr(os, "setsid"):
        with suppress(PermissionError):  # whoever started us has made us the leader of a session already
            os.setsid()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    child = spawn([*RUN, "--wait"], subprocess.PIPE, subprocess.PIPE)
    line = sys.stdin.readline()
    if not line.strip():
        _dismiss(child)
        return 0
    order = json.loads(line)
    out = folder.create(Path(order["out"]))
    with folder.watched(out):
        return _obey(child, line, order, folder.create(out))


def _obey(child: subprocess.Popen[bytes], line: str, order: dict[str, Any], out: Path) -> int:
    """Let the spare do what the order says, and watch over it."""
    try:
        allowed = limits(order.get("minutes"))
    except PrunariumError as error:
        folder.end(out, "failed", error.problem, error.remedy)
        _dismiss(child)
        return 1
    if child.poll() is not None:  # the spare died while it waited: a fresh one does the work
        child = spawn([*RUN, order["recipe"], "--out", order["out"]], subprocess.PIPE)
    else:
        child.stdin.write(line.encode())
        child.stdin.close()
    threading.Thread(target=_copy, args=(child.stdout, out / folder.LOG), daemon=True).start()
    with signals_mean_stop(out, child, signal.SIGTERM):
        watch(child, out, allowed, lambda event: None)
    return 0 if folder.status(out).state == "done" else 1


def _dismiss(child: subprocess.Popen[bytes]) -> None:
    """End a spare that nobody needs: it has no order, so it has nothing to lose."""
    child.kill()
    child.wait()


def _copy(source: IO[bytes], target: Path) -> None:
    with target.open("ab", buffering=0) as file:
        while block := source.read1(65536):  # type: ignore[attr-defined]
            file.write(block)


def _say_the_end(out: Path, *, as_json: bool) -> int:
    at = folder.status(out)
    if at.state != "done":
        print(f"{at.problem} {at.remedy}".strip() or f"The run was stopped. What was finished is in {out}", file=sys.stderr)
        return 1
    report = folder.read_json(out / folder.REPORT)
    print(json.dumps(report, ensure_ascii=False, separators=(",", ":")) if as_json else f"{summary.text(report)}\n\n{out}")
    return 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main(arguments: list[str]) -> int:
    """Exit codes: 0 done; 1 failed or stopped, said in a sentence; 2 called wrongly; 130 Ctrl-C."""
    parser = argparse.ArgumentParser(prog="core.supervise", description="Run a recipe and watch over it.", allow_abbrev=False)
    parser.add_argument("recipe", nargs="?", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--wait", action="store_true")
    asked = parser.parse_args(arguments)
    if asked.wait == (asked.recipe is not None):
        parser.error("give either RECIPE or --wait")
    for number in endings()[1:]:  # Ctrl-C is Python's own
        signal.signal(number, _interrupt)
    try:
        if asked.wait:
            return wait_for_order()
        if is_sweep(asked.recipe):
            return run_sweep(asked.recipe, asked.out, asked.runs, asked.minutes, as_json=asked.json)
        return run_recipe(asked.recipe, asked.out, asked.runs, asked.minutes, as_json=asked.json)
    except PrunariumError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        with suppress(OSError):  # the terminal may be the one that closed
            print("Stopped.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
