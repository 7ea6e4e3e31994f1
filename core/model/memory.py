"""How much memory this machine can still give. Torch-free."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from core.errors import ResourceError

_CGROUP = Path("/sys/fs/cgroup")


def available_bytes() -> int:
    """Bytes that can still be used: what the system says, the container's limit, and PRUNARIUM_MEMORY_GB (10^9 bytes), whichever is least."""
    found = [psutil.virtual_memory().available]
    with suppress(OSError):  # no container, or not Linux: the system's own figure holds
        limit = (_CGROUP / "memory.max").read_text().strip()
        if limit.isdigit():
            cache = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines()).get("inactive_file", "0")
            found.append(int(limit) - int((_CGROUP / "memory.current").read_text()) + int(cache))
    if own := os.environ.get("PRUNARIUM_MEMORY_GB"):
        try:
            found.append(int(float(own) * 1e9))
        except ValueError:
            raise ResourceError(
                f"PRUNARIUM_MEMORY_GB is {own!r}, which is not a number.", "Set it to a number of gigabytes, or unset it."
            ) from None
    return max(min(found), 0)


def check_fits(needed_bytes: int, what: str, remedy: str) -> None:
    """Raise ResourceError, with both figures, where `needed_bytes` are not to be had."""
    have = available_bytes()
    if needed_bytes > have:
        raise ResourceError(f"{what} needs {_size(needed_bytes)} of memory, and this machine has {_size(have)} left.", remedy)


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def peak_bytes() -> int:
    """The most resident memory that this process has had. (On Linux ru_maxrss also remembers the process that started this one.)"""
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
    import resource  # Windows has none

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def give_back() -> None:
    """Ask the C library to return freed pages, so that a torn heap does not grow from block to block. musl has no such call."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def be_frugal() -> None:
    """Ask the C library to give every large piece back the moment it is freed: slower, and right where a model is larger than memory."""
    option = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if option is not None:
        option(-3, 1 << 20)  # M_MMAP_THRESHOLD in bytes; naming it also stops glibc from raising it
