"""Pictures of a column or a folder as one array of grey values: the sizes are looked at first, then each picture is decoded into its place."""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from core.data.arrow_cache import IN_MEMORY_BYTES, file_of, key_of
from core.data.mapped import ROW
from core.errors import DataError
from core.folder import disk_error, write_json

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
LONGEST_SIDE = 512
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")
_MOST_PIXELS = 50_000_000  # of one picture, by its header: more is refused before it is decoded
_SHOWN = 5
Read = Callable[[int], bytes | None]


@dataclass(frozen=True)
class Pictures:
    """`images` float32 (rows, height, width) in 0..1, memory-mapped where they are many; 0 where a row's picture is among the `bad`."""

    images: np.ndarray | None
    bad: tuple[tuple[int, str], ...] = ()
    notes: tuple[str, ...] = ()


def column_of(table: pa.Table) -> str | None:
    """The column that holds pictures, as `datasets` keeps them: a struct of bytes and path."""
    for field in table.schema:
        if pa.types.is_struct(field.type) and {part.name for part in field.type} == {"bytes", "path"}:
            return field.name
    return None


def of_column(name: str, table: pa.Table, column: str, key: str) -> Pictures:
    """The pictures whose files lie in a column, in the table's order; bad ones by their row numbers."""
    held, numbers = table.column(column), table.column(ROW).to_numpy()
    return _pictures(name, lambda at: (held[at].as_py() or {}).get("bytes"), numbers, key_of(key, "pictures"))


def of_folder(folder: Path) -> tuple[pa.Table, Pictures]:
    """(rows, pictures) of a folder: a row a picture in the order of their names; `file`, and where pictures lie in folders `label`, the folder's name
    (and `split`, that of the folder around it)."""
    files, others = _listed(folder)
    if not files:
        raise DataError(f"{folder} holds no pictures.", f"Choose a folder with files that end in {', '.join(ENDINGS)}.")
    columns: dict[str, Any] = {ROW: pa.array(range(len(files)), pa.int64()), "file": ["/".join(parts) for parts in files]}
    if any(len(parts) > 1 for parts in files):
        columns["label"] = pa.array([parts[-2] if len(parts) > 1 else None for parts in files], pa.large_string())
    if all(len(parts) > 2 for parts in files):
        columns["split"] = [parts[0] for parts in files]
    stamps = _stamps(folder, files)
    found = _pictures(
        folder.name,
        lambda at: folder.joinpath(*files[at]).read_bytes(),
        np.arange(len(files)),
        key_of(str(folder.resolve()), stamps),
    )
    if _stamps(folder, files) != stamps:
        raise DataError(f"{folder} changed while it was being read.", "Open it again once nothing writes to it.")
    notes = found.notes
    if others:
        notes = (
            *notes,
            f"{len(others)} files of {folder.name} are no pictures by their names and are no rows (the first: {others[0]}).",
        )
    return pa.table(columns), Pictures(found.images, found.bad, notes)


def _listed(folder: Path) -> tuple[list[tuple[str, ...]], list[str]]:
    """(parts of the path of each picture, names of other files), sorted; what begins with a dot is left aside."""
    files, others = [], []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inside = Path(root).relative_to(folder).parts
        for name in sorted(name for name in names if not name.startswith(".")):
            if name.lower().endswith(ENDINGS):
                files.append((*inside, name))
            else:
                others.append("/".join((*inside, name)))
    return sorted(files), others


def _stamps(folder: Path, files: list[tuple[str, ...]]) -> tuple[Any, ...]:
    try:
        found = [folder.joinpath(*parts).stat() for parts in files]
    except OSError:
        return ()
    return tuple((parts, each.st_mtime_ns, each.st_size) for parts, each in zip(files, found, strict=True))


def _pictures(name: str, read: Read, numbers: np.ndarray, key: str) -> Pictures:
    file, told = file_of(key, "npy"), file_of(key, "json")
    if file.exists() and told.exists():
        heard = json.loads(told.read_text(encoding="utf-8"))
        return Pictures(np.load(file, mmap_mode="r"), tuple((row, why) for row, why in heard["bad"]), tuple(heard["notes"]))
    sizes, bad = _sizes(read, numbers)
    height, width, notes = _usual(name, sizes, numbers)
    if len(numbers) * height * width * 4 < IN_MEMORY_BYTES:
        images = np.zeros((len(numbers), height, width), np.float32)
        _fill(images, read, sizes, numbers, bad)
        return Pictures(images, tuple(sorted(bad.items())), notes)
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        images = np.lib.format.open_memmap(beside, mode="w+", dtype=np.float32, shape=(len(numbers), height, width))
        _fill(images, read, sizes, numbers, bad)
        images.flush()
        write_json(told, {"bad": sorted(bad.items()), "notes": notes})
        beside.replace(file)
    except OSError as error:
        raise disk_error(error, file) from None
    finally:
        beside.unlink(missing_ok=True)
    return Pictures(np.load(file, mmap_mode="r"), tuple(sorted(bad.items())), notes)


def _sizes(read: Read, numbers: np.ndarray) -> tuple[list[tuple[int, int] | None], dict[int, str]]:
    """(height, width) of each picture by its header, None where it has none, and why."""
    from PIL import Image

    sizes: list[tuple[int, int] | None] = []
    bad: dict[int, str] = {}
    for at, row in enumerate(numbers):
        size = None
        try:
            with Image.open(io.BytesIO(read(at) or b""), formats=_FORMATS) as image:
                size = image.height, image.width
            if size[0] * size[1] > _MOST_PIXELS:
                bad[int(row)], size = f"has an image of {size[1]} x {size[0]} pixels, too large to read", None
        except (OSError, TypeError, ValueError, SyntaxError, Image.DecompressionBombError):
            bad[int(row)] = "has no image that can be read"
        sizes.append(size)
    return sizes, bad


def _usual(name: str, sizes: list[tuple[int, int] | None], numbers: np.ndarray) -> tuple[int, int, tuple[str, ...]]:
    """The size most pictures have (of equals the smaller), its longer side at most LONGEST_SIDE, and what is said where others are scaled to it."""
    count = Counter(size for size in sizes if size is not None)
    if not count:
        return 1, 1, ()
    height, width = min(count, key=lambda size: (-count[size], size))
    scale = min(1.0, LONGEST_SIDE / max(height, width))
    height, width = max(1, round(height * scale)), max(1, round(width * scale))
    scaled = [int(row) for row, size in zip(numbers, sizes, strict=True) if size is not None and size != (height, width)]
    if not scaled:
        return height, width, ()
    rows = ", ".join(map(str, scaled[:_SHOWN])) + (" ..." if len(scaled) > _SHOWN else "")
    pictures = f"{len(scaled)} pictures of {name} have" if len(scaled) > 1 else f"One picture of {name} has"
    return (
        height,
        width,
        (f"{pictures} another size than {width} x {height} and was scaled to it, whatever its shape (rows {rows}).",),
    )


def _fill(images: np.ndarray, read: Read, sizes: list[tuple[int, int] | None], numbers: np.ndarray, bad: dict[int, str]) -> None:
    """Decode each picture into its place, grey, scaled where its size is another. Adds to `bad` what breaks off."""
    from PIL import Image

    height, width = images.shape[1:]
    for at, row in enumerate(numbers):
        if sizes[at] is None:
            continue
        try:
            with Image.open(io.BytesIO(read(at) or b""), formats=_FORMATS) as opened:
                grey = opened.convert("L")
            if grey.size != (width, height):
                grey = grey.resize((width, height), Image.Resampling.BILINEAR)
            images[at] = np.asarray(grey, dtype=np.float32) / 255
        except (OSError, TypeError, ValueError, SyntaxError):
            bad[int(row)] = "has no image that can be read"
