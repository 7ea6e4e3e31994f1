"""Built-in models that are made from another one here: smollm2-moe, the experts of which are parts of smollm2-135m's MLPs. Torch-free."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from filelock import FileLock

from core import builtins
from core.errors import ModelError

EXPERTS = 4


def made(folder: Path, source: str) -> Path:
    """Make `folder` from the built-in model `source`, in a process of its own so that its memory is given back. Nothing where it is there.

    Raises ModelError where that fails, ResourceError where the source cannot be fetched.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f"{folder.name}.lock"):
        if not folder.is_dir():
            _split(builtins.prepare(source), folder, source)
    return folder


def _split(place: Path, folder: Path, source: str) -> None:
    command = [sys.executable, "-m", "core.model.files.split_experts", str(place), str(folder), str(EXPERTS), f"builtin:{source}"]
    done = subprocess.run(command, cwd=builtins.ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        reason = said[-1].removeprefix("error: ").rstrip(". ") if said else f"it ended with code {done.returncode}"
        raise ModelError(f"{folder.name} could not be made from {source} ({reason[:300]}).", f"Check {place}, or fetch it again.")
