"""The screen's side of the interactive worker: starts `python -m core.serve` at the first question, asks, and starts it anew when it died.

Switching models ends the process, which gives its memory back. What was open is remembered, and opened again when next needed.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections import deque
from pathlib import Path
from typing import Any

from core.errors import PrunariumError, ResourceError

ROOT = Path(__file__).resolve().parent.parent


class WorkerDied(ResourceError):
    """The process ended while it was asked."""


class Worker:
    """One worker process, or none yet. Thread-safe: one question at a time."""

    def __init__(self, cache: Path | None = None) -> None:
        self.cache = cache
        self._one = threading.RLock()
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._log: deque[str] = deque(maxlen=200)
        self._number = 0
        self._wanted: dict[str, dict[str, Any]] = {}  # the last successful opening of each kind
        self._held: dict[str, dict[str, Any]] = {}  # what this process has open
        self._notice, self._died = "", False

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def busy(self) -> bool:
        """Is a question being answered at this moment?"""
        if self._one.acquire(blocking=False):
            self._one.release()
            return False
        return True

    @property
    def log(self) -> str:
        """The last lines that the worker and its libraries printed."""
        return "\n".join(self._log)

    def take_notice(self) -> str:
        """What the person should be told about the worker since the last call, or an empty string."""
        said, self._notice = self._notice, ""
        return said

    def ask(self, name: str, /, timeout_s: float = 60.0, **args: Any) -> Any:
        """Ask and wait. Raises the worker's problem as PrunariumError; ResourceError where it died or took longer than `timeout_s`."""
        with self._one:
            self._ready(name, args, timeout_s)
            try:
                answer = self._exchange(name, args, timeout_s)
            except WorkerDied:
                if name.startswith("open_"):
                    raise  # what was too big for the memory once is not tried again unasked
                self._ready(name, args, timeout_s)
                answer = self._exchange(name, args, timeout_s)
            if name.startswith("open_"):
                self._wanted[name] = self._held[name] = args
            return answer

    def about(self, source: str, name: str, /, timeout_s: float = 60.0, **args: Any) -> Any:
        """Ask about a model, which is opened first where another one, or none, is open."""
        with self._one:
            if self._wanted.get("open_model", {}).get("source") != source:
                self.ask("open_model", timeout_s=max(timeout_s, 600.0), source=source)
            return self.ask(name, timeout_s, **args)

    def close(self) -> None:
        """End the process, if there is one. What was open is opened again at the next question."""
        with self._one:
            self._end()

    def forget(self, opening: str) -> None:
        """Do not open this again after a restart."""
        with self._one:
            self._wanted.pop(opening, None)

    def _ready(self, name: str, args: dict[str, Any], timeout_s: float) -> None:
        """A living process with everything open that the question may be about."""
        if self._process is not None and not self.alive:
            self._died = True
            self._end()
        if name == "open_model" and self._held.get(name, args) != args:
            self._end()
        if not self.alive:
            self._start()
        again: list[str] = []
        for opening, had in self._wanted.items():
            if opening == name or self._held.get(opening) == had or (name.startswith("open_") and opening == "open_model"):
                continue
            self._exchange(opening, had, max(timeout_s, 120.0))
            self._held[opening] = had
            again.append(str(had.get("source", "What was open")))
        if self._died:
            self._died = False
            self._notice = " ".join(
                ["The worker had stopped and was started again.", *(f"{source} was opened again." for source in again)]
            )

    def _start(self) -> None:
        # -P leaves the working folder off the path: a stranger's folder may hold a torch.py
        environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"}
        if self.cache is not None:
            self.cache.mkdir(parents=True, exist_ok=True)
            environment["PRUNARIUM_WORKER_CACHE"] = str(self.cache)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "core.serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=tempfile.gettempdir(),
            encoding="utf-8",
            errors="replace",
        )
        self._answers, self._held = queue.SimpleQueue(), {}
        for stream, sink in ((self._process.stdout, self._answers.put), (self._process.stderr, self._log.append)):
            threading.Thread(target=_drain, args=(stream, sink, self._answers), daemon=True).start()

    def _exchange(self, name: str, args: dict[str, Any], timeout_s: float) -> Any:
        self._number += 1
        question = json.dumps({"id": self._number, "ask": name, "args": args})
        try:
            assert self._process is not None and self._process.stdin is not None
            self._process.stdin.write(question + "\n")
            self._process.stdin.flush()
            answer = self._answer_to(self._number, timeout_s)
        except (BrokenPipeError, OSError):
            answer = None
        except queue.Empty:
            self._end()
            raise ResourceError(
                f"The worker did not answer within {timeout_s:g} s and was ended.", "Ask again; it starts anew by itself."
            ) from None
        if answer is None:
            raise self._death()
        if "problem" in answer:
            raise PrunariumError(answer["problem"], answer["remedy"])
        return answer["answer"]

    def _answer_to(self, number: int, timeout_s: float) -> dict[str, Any] | None:
        while (line := self._answers.get(timeout=timeout_s)) is not None:
            answer = json.loads(line)
            if answer["id"] == number:
                return answer
        return None

    def _death(self) -> WorkerDied:
        code = self._process.wait() if self._process else 0
        self._end()
        self._died = True
        why = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        cause = " Most often the memory ran out." if code == -9 else ""
        return WorkerDied(f"The worker {why} while it answered.{cause}", "Ask again; it starts anew by itself.")

    def _end(self) -> None:
        process, self._process, self._held = self._process, None, {}
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                try:
                    stream.close()
                except OSError:
                    continue  # a pipe with an unsent question breaks once more at closing


def _drain(stream: Any, sink: Any, answers: queue.SimpleQueue[str | None]) -> None:
    """Pass a pipe's lines on; the end of the answers is told as None."""
    try:
        for line in stream:
            sink(line.rstrip("\n"))
    except ValueError:
        return  # the pipe was closed under the reader: this process was ended on purpose
    if sink == answers.put:
        answers.put(None)
