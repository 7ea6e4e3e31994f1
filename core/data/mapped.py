"""Rows as an arrow table that most often lies memory-mapped on disk: a million of them are opened without being read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

ROW = "row"
BATCH_ROWS = 65_536


@dataclass(frozen=True)
class Mapped:
    """Some lines of an arrow table. `table` has a column `row` (numbers in the source) before the source's own; `places`: which of its lines, in
    order, None = all of them. Only what is asked for is read."""

    table: pa.Table
    places: np.ndarray | None = None

    def __len__(self) -> int:
        return self.table.num_rows if self.places is None else len(self.places)

    @property
    def names(self) -> tuple[str, ...]:
        """The source's columns."""
        return tuple(name for name in self.table.column_names if name != ROW)

    def column(self, name: str) -> pa.ChunkedArray:
        """One column of these lines; a copy where they are not all of the table's."""
        whole = self.table.column(name)
        return whole if self.places is None else whole.take(pa.array(self.places))

    def take(self, positions: np.ndarray) -> Mapped:
        """The lines at these positions, in that order: an array of places, nothing is copied."""
        positions = np.asarray(positions)
        if positions.dtype == bool:
            positions = np.flatnonzero(positions)
        return Mapped(self.table, positions.astype(np.int64) if self.places is None else self.places[positions])

    def batches(self, names: Sequence[str] | None = None, rows: int = BATCH_ROWS, start: int = 0) -> Iterator[pa.Table]:
        """The lines from `start` on, `rows` at a time; of all columns, or of these."""
        table = self.table if names is None else self.table.select(list(names))
        for at in range(start, len(self), rows):
            if self.places is None:
                yield table.slice(at, rows)
            else:
                yield table.take(pa.array(self.places[at : at + rows]))

    def frame(self) -> pd.DataFrame:
        """All of it as pandas: texts stay where they lie, numbers and lists are copied."""
        return (self.table if self.places is None else self.table.take(pa.array(self.places))).to_pandas()

    def digest(self) -> bytes:
        """sha256 over the columns' names, kinds and values, however they are cut into batches."""
        found = hashlib.sha256(repr([(field.name, str(field.type)) for field in self.table.schema]).encode())
        for batch in self.batches():
            for column in batch.columns:
                _hash(found, _whole(column))
        return found.digest()


class Texts(Sequence[str]):
    """A column of texts that are read one by one where they lie: as a list of strings to its reader, without being one."""

    def __init__(self, mapped: Mapped, name: str) -> None:
        self._column, self._places = mapped.table.column(name), mapped.places

    def __len__(self) -> int:
        return len(self._column) if self._places is None else len(self._places)

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            start, stop, step = at.indices(len(self))
            if step != 1:
                return [self[one] for one in range(start, stop, step)]
            return _strings(self.arrow(start, max(stop, start)))
        at = at + len(self) if at < 0 else at
        if not 0 <= at < len(self):
            raise IndexError(at)
        value = self._column[int(at if self._places is None else self._places[at])].as_py()
        return value if isinstance(value, str) else str(value)

    def __iter__(self) -> Iterator[str]:
        for at in range(0, len(self), BATCH_ROWS):
            yield from self[at : at + BATCH_ROWS]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Texts({len(self)} rows)"

    def arrow(self, start: int, stop: int) -> pa.ChunkedArray:
        """The texts of these positions as arrow."""
        if self._places is None:
            return self._column.slice(start, stop - start)
        return self._column.take(pa.array(self._places[start:stop]))


def of_frame(frame: pd.DataFrame) -> Mapped:
    """A pandas frame with a column `row` as arrow, held in memory."""
    return Mapped(in_normal_form(pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)))


def in_normal_form(table: pa.Table) -> pa.Table:
    """The few kinds of column that the engine knows: see `normal`."""
    return table.cast(pa.schema([pa.field(field.name, normal(field.type)) for field in table.schema]))


def normal(kind: pa.DataType) -> pa.DataType:
    """The kind that a column of `kind` is kept as: texts with 64-bit places, lists with them too, dictionaries as their values."""
    if pa.types.is_dictionary(kind):
        return normal(kind.value_type)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind) or str(kind) == "string_view":
        return pa.large_string()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.large_list(normal(kind.value_type))
    if pa.types.is_float16(kind):
        return pa.float32()
    return pa.float64() if pa.types.is_decimal(kind) else kind


def is_text(kind: pa.DataType) -> bool:
    return pa.types.is_large_string(kind) or pa.types.is_string(kind)


def is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def is_vector(kind: pa.DataType) -> bool:
    """A list of numbers a row."""
    return (pa.types.is_large_list(kind) or pa.types.is_list(kind)) and is_number(kind.value_type)


def blank(column: pa.ChunkedArray) -> np.ndarray:
    """bool (rows,): missing, NaN, or nothing but white space."""
    missing = pc.is_null(column, nan_is_null=pa.types.is_floating(column.type))
    if is_text(column.type):
        missing = pc.or_kleene(missing, pc.equal(pc.binary_length(pc.utf8_trim_whitespace(column)), 0))
    return pc.fill_null(missing, True).to_numpy()


def _strings(column: pa.ChunkedArray) -> list[str]:
    values = column.to_pylist()
    return values if is_text(column.type) else [str(value) for value in values]


def _whole(column: pa.ChunkedArray) -> pa.Array:
    joined = column.combine_chunks()
    return joined if isinstance(joined, pa.Array) else pa.concat_arrays(joined.chunks)


def _hash(found: Any, values: pa.Array) -> None:
    """Add the values of one batch of a column: gaps first, then lengths, then contents."""
    if values.null_count:
        found.update(np.packbits(pc.is_null(values).to_numpy(zero_copy_only=False)).tobytes())
    kind = values.type
    if pa.types.is_large_list(kind) or pa.types.is_list(kind):
        found.update(pc.fill_null(pc.list_value_length(values), -1).to_numpy(zero_copy_only=False).tobytes())
        _hash(found, values.flatten())
    elif is_text(kind) or pa.types.is_binary(kind):
        found.update(pc.fill_null(pc.binary_length(values), -1).to_numpy(zero_copy_only=False).tobytes())
        for value in pa.chunked_array([values.drop_null()]).chunks:
            found.update(_content(value))
    elif is_number(kind) or pa.types.is_boolean(kind):
        found.update(pc.fill_null(values, pa.scalar(0).cast(kind)).to_numpy(zero_copy_only=False).tobytes())
    else:
        found.update(repr(values.to_pylist()).encode())


def _content(values: pa.Array) -> memoryview | bytes:
    """The bytes of the texts of an array without gaps, one after the other."""
    if len(values) == 0:
        return b""
    wide = pa.types.is_large_string(values.type)
    places = np.frombuffer(values.buffers()[1], dtype=np.int64 if wide else np.int32)
    first, last = places[values.offset], places[values.offset + len(values)]
    return memoryview(values.buffers()[2])[first:last] if last > first else b""
