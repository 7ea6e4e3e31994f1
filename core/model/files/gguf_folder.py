"""A .gguf file as a folder of safetensors: converted once, in a process of its own, so that its memory is given back."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

from core import builtins
from core.errors import ModelError, ResourceError
from core.model.files.header import memory_estimate, preview
from core.model.files.source import Location, fingerprint


def converted(location: Location) -> Location:
    """The folder that a checked .gguf file becomes: beside a built-in's file, else in the cache by content. Made where it is not there yet.

    Raises ModelError where transformers cannot read the file as a language model, ResourceError where there is no room.
    """
    if location.name.startswith("builtin:"):
        folder = location.path.parent / "model"
    else:
        folder = builtins.cache_dir() / "gguf" / fingerprint(location)[:32] / "model"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / "convert.lock"):
        if not folder.is_dir():
            _check_room(location, folder)
            _convert(location.path, folder)
    return Location(location.name, "folder", folder, location.revision)


def _check_room(location: Location, folder: Path) -> None:
    needed, free = memory_estimate(preview(location.path)), shutil.disk_usage(folder.parent).free
    if needed > free:
        raise ResourceError(
            f"Converting {location.name} needs {needed / 1e9:.1f} GB of disk, and {folder.parent} has {free / 1e9:.1f} GB left.",
            "Free some room, or point PRUNARIUM_CACHE at another disk.",
        )


def _convert(gguf: Path, folder: Path) -> None:
    command = [sys.executable, "-m", "core.model.files.convert", str(gguf), str(folder)]
    done = subprocess.run(command, cwd=builtins.ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        reason = said[-1].removeprefix("error: ").rstrip(". ") if said else f"it ended with code {done.returncode}"
        raise ModelError(
            f"{gguf.name} could not be converted ({reason[:300]}).", "Use a complete GGUF file of a known architecture."
        )
