"""Records of a text file as arrow: kinds of columns are found over the whole file, while only a chunk of it is in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from core.data.arrow_cache import Made, renamed
from core.data.mapped import ROW, blank, is_text
from core.data.records import Records
from core.errors import DataError

_LONG_NUMBER = r"^[+-]?\d{19,}$"  # an id, a card number: digits that a float would lose


@dataclass
class _Chunks:
    """Tables, the first in memory, later ones as files of a scratch folder."""

    folder: Path
    first: list[pa.Table] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    def add(self, table: pa.Table) -> None:
        if not self.first:
            self.first.append(table)
            return
        self.files.append(self.folder / f"{len(self.files)}.arrow")
        with pa.OSFile(str(self.files[-1]), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)

    def __iter__(self) -> Iterator[pa.Table]:
        yield from self.first
        for file in self.files:
            with pa.memory_map(str(file)) as source:
                yield pa.ipc.open_file(source).read_all()


def table_of(name: str, chunks: Iterable[Records], *, typed: bool) -> Made:
    """All records as one table: `typed` False for fields of a csv, which become whole numbers or numbers where all of a column's are; a blank one is
    missing. Bad rows are in what is `said`. Raises DataError where there is no row."""
    scratch = tempfile.TemporaryDirectory(prefix="prunarium-rows-")
    kept, bad, schema = _Chunks(Path(scratch.name)), [], None
    for chunk in chunks:
        bad += chunk.bad
        if chunk.good:
            table = _typed(chunk, bad) if typed else _fields(chunk)
            kinds = table.schema if typed else _narrowest(table)
            schema = kinds if schema is None else _joined(name, schema, kinds, typed)
            kept.add(table)
    if schema is None:
        if not bad:
            raise DataError(f"{name} has a header and no rows.", "Choose a file with at least one row.")
        schema = pa.schema([(ROW, pa.int64())])
    batches = _cast(name, kept, schema, scratch)
    return Made(schema, batches, {"bad": sorted(bad)})


def _fields(chunk: Records) -> pa.Table:
    """Fields of a csv as they are written, blank ones missing."""
    numbers = pa.array([row for row, _ in chunk.good], pa.int64())
    columns = [pa.array(fields, pa.large_string()) for fields in zip(*[fields for _, fields in chunk.good], strict=True)]
    empty = [pa.array(blank(pa.chunked_array([column]))) for column in columns]
    filled = [pc.if_else(none, pa.scalar(None, pa.large_string()), each) for none, each in zip(empty, columns, strict=True)]
    return pa.table([numbers, *filled], names=[ROW, *map(renamed, chunk.header)])


def _narrowest(table: pa.Table) -> pa.Schema:
    """The narrowest kind that holds each column's fields: nothing, whole numbers, numbers, words."""
    return pa.schema([pa.field(name, pa.int64() if name == ROW else _kind(table.column(name))) for name in table.column_names])


def _kind(column: pa.ChunkedArray) -> pa.DataType:
    if column.null_count == len(column):
        return pa.null()
    trimmed = pc.utf8_trim_whitespace(column)
    for kind in (pa.int64(), pa.float64()):
        try:
            trimmed.cast(kind)
            return kind
        except pa.ArrowInvalid:
            if kind == pa.int64() and pc.any(pc.match_substring_regex(trimmed, _LONG_NUMBER)).as_py():
                break
    return pa.large_string()


def _typed(chunk: Records, bad: list[tuple[int, str]]) -> pa.Table:
    """Values of JSON as arrow; a number too large for a column of whole numbers makes its row a bad one."""
    good = [(row, value) for row, value in chunk.good if not _too_large(row, value, bad)]
    names = dict.fromkeys(name for _, value in good for name in value)
    try:
        arrays = [pa.array([value.get(name) for _, value in good]) for name in names]
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        rows = f"rows {chunk.good[0][0]} to {chunk.good[-1][0]}"
        raise DataError(f"{rows} do not make a table: {_first_line(error)}", "Give every column values of one kind.") from None
    return pa.table([pa.array([row for row, _ in good], pa.int64()), *arrays], names=[ROW, *map(renamed, names)])


def _too_large(row: int, value: dict[str, Any], bad: list[tuple[int, str]]) -> bool:
    name = next((n for n, item in value.items() if isinstance(item, int) and not -(2**63) <= item < 2**63), None)
    if name is not None:
        bad.append((row, f"holds a whole number of more than 64 bits in {name!r}"))
    return name is not None


def _joined(name: str, one: pa.Schema, other: pa.Schema, typed: bool) -> pa.Schema:
    """The schema that holds both chunks: of a csv, numbers beside words are words."""
    if typed:
        try:
            return pa.unify_schemas([one, other], promote_options="permissive")
        except pa.ArrowException as error:
            raise DataError(
                f"{name} does not make a table: {_first_line(error)}", "Give every column values of one kind."
            ) from None
    order = {pa.null(): 0, pa.int64(): 1, pa.float64(): 2, pa.large_string(): 3}
    return pa.schema([max(pair, key=lambda each: order[each.type]) for pair in zip(one, other, strict=True)])


def _cast(name: str, kept: _Chunks, schema: pa.Schema, scratch: tempfile.TemporaryDirectory[str]) -> Iterator[pa.Table]:
    """Each chunk with all columns, in their final kinds."""
    with scratch:
        for chunk in kept:
            try:
                columns = [_as(chunk, each) for each in schema]
            except pa.ArrowException as error:
                raise DataError(
                    f"{name} does not make a table: {_first_line(error)}", "Give every column values of one kind."
                ) from None
            yield pa.table(columns, schema=schema)


def _as(chunk: pa.Table, wanted: pa.Field) -> Any:
    if wanted.name not in chunk.column_names or pa.types.is_null(wanted.type):
        return pa.nulls(len(chunk), wanted.type)
    column = chunk.column(wanted.name)
    if is_text(column.type) and not is_text(wanted.type):
        column = pc.utf8_trim_whitespace(column)
    return column.cast(wanted.type)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:160]
