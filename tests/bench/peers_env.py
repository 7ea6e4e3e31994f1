"""An environment of its own for a peer that a benchmark stands beside: never a dependency of ours."""

from __future__ import annotations

import subprocess
import venv
from pathlib import Path

from core import builtins


def environment(peer: str, *more: str) -> Path:
    """The peer's python. Installs it where it is missing. peer: name==version."""
    folder = builtins.cache_dir() / f"bench-{peer.replace('==', '-')}"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        print(f"  (installing {peer} into {folder})", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", peer, *more], check=True)
        (folder / "ready").touch()
    return python
