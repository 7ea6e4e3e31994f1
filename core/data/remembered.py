"""Arrays that take long to make, kept in the cache under a name made from all that they depend on."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from core.builtins import cache_dir

_MOST_BYTES = 4_000_000_000  # the oldest go when a folder grows beyond this

Make = Callable[[Callable[[str, tuple[int, ...], Any], np.ndarray]], None]


def remembered(folder: str, says: list[Any], make: Make) -> dict[str, np.ndarray]:
    """The arrays that `make` fills, memory-mapped, read-only; from the cache where the same `says` has been made before.

    `make(array)` asks for each array by array(name, shape, dtype) and fills it: it lies on disk at once, so memory holds what is touched. An
    interrupted make leaves nothing.
    """
    place = _place(folder, says)
    key = place.name
    if not place.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".making-") as making:
            scratch = Path(making) / key
            scratch.mkdir()

            def array(name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
                return np.lib.format.open_memmap(scratch / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)

            make(array)
            if not place.is_dir():  # another process may have been as quick
                scratch.replace(place)
        _make_room(place)
    os.utime(place)
    return {file.stem: np.load(file, mmap_mode="r") for file in sorted(place.glob("*.npy"))}


def is_remembered(folder: str, says: list[Any]) -> bool:
    """Has it been made before?"""
    return _place(folder, says).is_dir()


def _place(folder: str, says: list[Any]) -> Path:
    return cache_dir() / folder / hashlib.sha256(json.dumps(says, sort_keys=True, default=str).encode()).hexdigest()[:32]


def digest(array: np.ndarray) -> str:
    """A content hash of an array, its shape and its dtype."""
    array = np.ascontiguousarray(array)
    return hashlib.blake2b(array.data, digest_size=16).hexdigest() + repr((array.shape, array.dtype.str))


def _make_room(newest: Path) -> None:
    total = 0
    for place in sorted(newest.parent.glob("[!.]*"), key=lambda path: path.stat().st_mtime, reverse=True):
        files = list(place.glob("*.npy"))
        total += sum(file.stat().st_size for file in files)
        if total > _MOST_BYTES and place != newest:
            for file in files:
                file.unlink(missing_ok=True)
            place.rmdir()
