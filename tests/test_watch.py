"""Watching a run, with real processes and real signals: small programs that keep a run folder as core.run does, and end in every way there is."""

from __future__ import annotations

import math
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from core import folder
from core.errors import ResourceError
from core.watch import Limits, limits, resident_bytes, spawn, watch

START = """
import sys, signal, subprocess
from pathlib import Path
from core import folder
from core.errors import Stopped
from core.events import Progress
out = Path(sys.argv[1])
watcher = folder.FolderWatcher(out)
def up(text=""):
    folder.append_event(out, Progress("working", 1, 9, kind="note", text=text))
with folder.held(out):
"""
OBEYS = """
    up()
    try:
        while True:
            watcher.check()
    except Stopped:
        folder.end(out, "stopped", "by itself")
"""
IGNORES = """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.signal(15, signal.SIG_IGN); signal.pause()"])
    up(str(child.pid))
    signal.pause()
"""
EATS = """
    eaten = bytearray(300_000_000)
    up()
    signal.pause()
"""
WAITS = "    up()\n    signal.pause()\n"
FAILS = "    up()\n    raise ValueError('the shape is wrong')\n"
FREE = Limits(math.inf)

Heard = Callable[[subprocess.Popen[bytes], dict[str, Any]], None]


def watched(out: Path, program: str, allowed: Limits = FREE, heard: Heard = lambda child, event: None) -> folder.Status:
    """Run a program under `watch`, letting `heard` act at each of its events, and read the state it left."""
    folder.create(out)
    with (out / folder.LOG).open("ab") as log:
        child = spawn(["-c", START + program, str(out)], log)
    watch(child, out, allowed, lambda event: heard(child, event))
    assert child.poll() is not None and not folder.is_held(out)
    return folder.status(out)


def test_a_run_killed_from_outside_reads_failed_with_the_signal_and_a_remedy(tmp_path: Path):
    at = watched(tmp_path / "run", WAITS, heard=lambda child, event: child.kill())
    assert (at.state, at.problem) == ("failed", "The run was ended from outside (signal 9), often for lack of memory.")
    assert "smaller model" in at.remedy


def test_a_crashed_run_reads_failed_with_the_signal_and_the_log(tmp_path: Path):
    at = watched(tmp_path / "run", WAITS, heard=lambda child, event: child.send_signal(signal.SIGSEGV))
    assert (at.state, at.problem) == ("failed", "The run crashed (signal 11).")
    assert str(tmp_path / "run/log.txt") in at.remedy


def test_a_run_that_dies_of_its_own_error_reads_failed_with_its_last_words(tmp_path: Path):
    at = watched(tmp_path / "run", FAILS)
    assert at.state == "failed" and at.problem.endswith("ValueError: the shape is wrong.")


def test_a_run_that_needs_too_much_memory_is_ended_and_says_how_much_it_might_use(tmp_path: Path):
    at = watched(tmp_path / "run", EATS, Limits(200e6))
    assert (at.state, at.problem) == ("failed", "The run needed more than the 0.2 GB of memory that it may use.")


def test_a_run_within_its_memory_is_left_alone(tmp_path: Path):
    at = watched(tmp_path / "run", EATS, Limits(2e9), heard=lambda child, event: folder.ask_stop(tmp_path / "run"))
    assert at.state == "stopped"


def test_memory_counts_the_children(tmp_path: Path):
    program = "import subprocess, sys; bytearray(1); subprocess.run([sys.executable, '-c', sys.argv[1]])"
    inner = "x = bytearray(300_000_000); print(flush=True); import signal; signal.pause()"
    with subprocess.Popen(
        [psutil.Process().exe(), "-c", program, inner], stdout=subprocess.PIPE, start_new_session=True
    ) as child:
        child.stdout.readline()
        assert resident_bytes(child.pid) > 300e6
        for process in [*psutil.Process(child.pid).children(), child]:
            process.kill()
    assert resident_bytes(child.pid) == 0


def test_time_that_has_run_out_reads_stopped_and_names_the_time(tmp_path: Path):
    at = watched(tmp_path / "run", OBEYS, Limits(math.inf, minutes=0))
    assert (at.state, at.problem) == ("stopped", "The run was stopped after 0 minutes, the time it was given.")


def test_a_run_that_obeys_the_stop_writes_its_own_end(tmp_path: Path):
    at = watched(tmp_path / "run", OBEYS, heard=lambda child, event: folder.ask_stop(tmp_path / "run"))
    assert (at.state, at.problem) == ("stopped", "by itself")


def test_a_run_that_ignores_the_stop_is_ended_with_its_children(tmp_path: Path):
    children: list[int] = []

    def ask(child: subprocess.Popen[bytes], event: dict[str, Any]) -> None:
        if event["kind"] == "note":
            children.append(int(event["text"]))
            folder.ask_stop(tmp_path / "run")

    at = watched(tmp_path / "run", IGNORES, heard=ask)
    assert (at.state, at.problem) == ("stopped", "The run was stopped.")
    assert not psutil.pid_exists(children[0]) or psutil.Process(children[0]).status() == psutil.STATUS_ZOMBIE


@pytest.mark.quick
def test_the_memory_limit_comes_from_the_person_or_from_what_is_free(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PRUNARIUM_MEMORY_GB", "1.5")
    assert limits(3) == Limits(1.5e9, 3)
    monkeypatch.delenv("PRUNARIUM_MEMORY_GB")
    assert 0 < limits().memory_bytes < psutil.virtual_memory().total
    for wrong in ("lots", "0", "-1", "nan"):
        monkeypatch.setenv("PRUNARIUM_MEMORY_GB", wrong)
        with pytest.raises(ResourceError, match="PRUNARIUM_MEMORY_GB"):
            limits()
