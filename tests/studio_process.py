"""A real studio for tests: its own process, workspace, runs and port."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Studio:
    address: str
    folder: Path
    process: subprocess.Popen[str]

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def workspace(self) -> Path:
        return self.folder / "workspace"

    @property
    def opened(self) -> Path:
        """A folder to open to the page: `running(folder, "--open", ...)` does so."""
        return self.folder / "opened"


def command(folder: Path, *more: str) -> tuple[list[str], dict[str, str]]:
    """The words and the environment that start a studio whose every file lies under `folder`."""
    around = {
        **os.environ,
        "PYTHONPATH": str(CHECKOUT),
        "PYTHONUNBUFFERED": "1",
        "GRADIO_IS_E2E_TEST": "1",
        "PRUNARIUM_WORKSPACE": str(folder / "workspace"),
    }
    words = [sys.executable, "-m", "studio.app", "--port", "0", "--no-browser", "--runs", str(folder / "runs"), *more]
    return words, around


@contextmanager
def running(folder: Path, *more: str, **variables: str) -> Iterator[Studio]:
    """A studio from its first line to its end. It must end in order: an exit code other than 0 fails the test that left it."""
    words, around = command(folder, *more)
    (folder / "here").mkdir(parents=True, exist_ok=True)
    with (folder / "studio.log").open("w") as log:
        process = subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**around, **variables},
            cwd=folder / "here",
            start_new_session=True,
        )
    try:
        line = process.stdout.readline()
        assert "http://" in line, f"{line}{(folder / 'studio.log').read_text()[-2000:]}"
        yield Studio(next(word for word in line.split() if word.startswith("http")), folder, process)
    finally:
        code = _end(process)
    assert code == 0, (folder / "studio.log").read_text()[-3000:]


def _end(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGTERM)
    try:
        return process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
    finally:
        process.stdout.close()
