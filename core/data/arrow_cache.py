"""Turn a source into an arrow table once: in memory where it is small, else as a file of the cache that is memory-mapped ever after."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from core.builtins import cache_dir
from core.data.mapped import BATCH_ROWS, ROW, in_normal_form, normal
from core.errors import DataError
from core.folder import disk_error

IN_MEMORY_BYTES = 32_000_000  # a source of fewer bytes is not worth a file
_CACHE_BYTES = 20_000_000_000  # the tables that were used longest ago go when the cache grows beyond this
_SAID = b"prunarium"
_FORM = 1  # of the tables in the cache


@dataclass(frozen=True)
class Made:
    """What a reader makes of a source: a schema, batches that fit it or can be cast to it, and what is `said` of it (bad rows, notes) as JSON can hold."""

    schema: pa.Schema
    batches: Iterable[pa.RecordBatch | pa.Table]
    said: dict[str, Any]


Stamp = tuple[int, int, int]


def stamp(path: Path) -> Stamp:
    """What changes when a file is written: time, size, inode."""
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


def key_of(*says: Any) -> str:
    return hashlib.sha256(repr((_FORM, *says)).encode()).hexdigest()[:32]


def file_of(key: str, ending: str = "arrow") -> Path:
    return cache_dir() / "tables" / f"{key}.{ending}"


def opened(key: str, size_bytes: int, make: Callable[[], Made]) -> pa.Table:
    """The table of that key, made by `make` where it is not there yet; columns in normal form, the source's `row` renamed `row_`.

    What was said of it is given by `said`. Whoever is interrupted leaves nothing behind that counts.
    """
    if size_bytes < IN_MEMORY_BYTES:
        sink = pa.BufferOutputStream()
        _write(sink, make())
        return pa.ipc.open_file(sink.getvalue()).read_all()
    file = file_of(key)
    if not file.exists():
        _keep(file, make())
    os.utime(file)
    return pa.ipc.open_file(pa.memory_map(str(file))).read_all()


def said(table: pa.Table) -> dict[str, Any]:
    return json.loads((table.schema.metadata or {}).get(_SAID, b"{}"))


def unchanged(path: Path, before: Stamp) -> None:
    """Raise DataError where the file was written to since `before`."""
    try:
        same = stamp(path) == before
    except OSError:
        same = False
    if not same:
        raise DataError(f"{path.name} changed while it was being read.", "Open it again once nothing writes to it.")


def evict(folder: Path, pattern: str, most_bytes: int, keep: Path) -> None:
    """Remove the files that were touched longest ago until the rest fits."""
    total = 0
    for path in sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime, reverse=True):
        total += path.stat().st_size
        if total > most_bytes and path != keep:
            path.unlink(missing_ok=True)


def _keep(file: Path, made: Made) -> None:
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with pa.OSFile(str(beside), "wb") as sink:
            _write(sink, made)
        beside.replace(file)
    except OSError as error:
        if isinstance(error, pa.ArrowException):
            raise
        raise disk_error(error, file) from None
    finally:
        beside.unlink(missing_ok=True)
    evict(file.parent, "*", _CACHE_BYTES, file)


def _write(sink: Any, made: Made) -> None:
    schema = pa.schema([pa.field(field.name, normal(field.type)) for field in made.schema])
    schema = schema.with_metadata({_SAID: json.dumps(made.said).encode()})
    with pa.ipc.new_file(sink, schema) as writer:
        for batch in _even(made.batches, schema):
            writer.write_table(batch)


def _even(batches: Iterable[pa.RecordBatch | pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
    """The same rows in batches of exactly BATCH_ROWS (but the last), in the schema's kinds."""
    waiting: list[pa.Table] = []
    rows = 0
    for batch in batches:
        table = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch
        waiting.append(in_normal_form(table.replace_schema_metadata(None)).cast(schema))
        rows += table.num_rows
        while rows >= BATCH_ROWS:
            whole = pa.concat_tables(waiting)
            yield whole.slice(0, BATCH_ROWS).combine_chunks()
            waiting, rows = [whole.slice(BATCH_ROWS)], rows - BATCH_ROWS
    if rows:
        yield pa.concat_tables(waiting).combine_chunks()


def numbered(batches: Iterable[pa.RecordBatch | pa.Table], first: int = 0) -> Iterator[pa.Table]:
    """Each batch with its rows' numbers before it, a column of the source called `row` renamed."""
    for batch in batches:
        table = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch
        names = [renamed(name) for name in table.column_names]
        numbers = pa.array(range(first, first + table.num_rows), pa.int64())
        yield table.rename_columns(names).add_column(0, ROW, numbers)
        first += table.num_rows


def renamed(name: str) -> str:
    return "row_" if name == ROW else name
