"""From a raw table to a Dataset: which column is text, which the label, which rows cannot be used, and what else should be known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from core.data.dataset import Dataset
from core.data.mapped import ROW, Mapped, Texts, blank, is_number, is_text
from core.errors import BadRows, DataError
from core.recipe import Data

TEXT, LABEL = "text", "label"
_SHOWN = 5
_NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"
Bad = tuple[tuple[int, str], ...]


def dataset_of(
    name: str,
    table: pa.Table,
    data: Data,
    *,
    images: np.ndarray | None = None,
    bad: Bad = (),
    vectors: str | None = None,
    names: Mapping[str, Sequence[str]] | None = None,
    notes: tuple[str, ...] = (),
) -> Dataset:
    """Check a raw table and make it a Dataset.

    `table`: columns in normal form (core.data.mapped); its column `row` holds row numbers; some may be missing, because they are in `bad`.
    `images` belong to its lines. `names`: of a column of class numbers, the classes. Raises DataError (a column that is not there, no rows) and
    BadRows (unless data.skip_bad_rows).
    """
    text = _column(table, data.text, TEXT, "text")
    label = _column(table, data.label, LABEL, "label")
    if vectors is not None:
        _column(table, vectors, vectors, "vectors")
    rows = table.column(ROW).to_numpy()
    problems = {**_problems(table, rows, text, label, vectors), **dict(bad)}
    if problems and not data.skip_bad_rows:
        raise bad_rows_error(name, problems, len(np.union1d(rows, np.array(list(problems), np.int64))))
    keep = np.flatnonzero(~np.isin(rows, np.array(list(problems), np.int64))) if problems else np.arange(len(rows))
    if len(keep) == 0:
        raise DataError(
            f"{name} has no row that can be used.", _first_reasons(problems) or "Choose a file with at least one row."
        )
    table = _named_classes(table, names or {})
    mapped = Mapped(table, keep if len(keep) < len(rows) else None)
    labels, classes = _classes(mapped.column(label), (names or {}).get(label)) if label else (None, ())
    if label:
        notes = (*notes, *_label_notes(name, mapped, label, classes))
    return Dataset(
        name,
        mapped,
        Texts(mapped, text) if text else None,
        images if images is None or len(keep) == len(images) else images[keep],
        labels,
        classes,
        tuple(sorted(problems.items())),
        text,
        label,
        notes,
    )


def bad_rows_error(name: str, problems: dict[int, str], rows: int) -> BadRows:
    """The first five with their reasons, and how many there are."""
    count = len(problems)
    what = f"{count} of {name}'s {rows} rows cannot be used" if count > 1 else f"One of {name}'s {rows} rows cannot be used"
    encoding = any("UTF-8" in reason for reason in problems.values())
    return BadRows(
        f"{what}: {_first_reasons(problems)}",
        f"{'Save it again in UTF-8' if encoding else 'Correct them'}, or set skip_bad_rows to leave them out.",
        tuple(sorted(problems.items())),
    )


def nearest_column(columns: Iterable[str], wanted: str) -> str:
    """The remedy for a column that is not there."""
    known = [str(column) for column in columns if column != ROW]
    near = difflib.get_close_matches(wanted, known, 1)
    listed = ", ".join(known[:20]) + (" ..." if len(known) > 20 else "")
    return (f"Did you mean {near[0]!r}? " if near else "") + f"It has: {listed}."


def row_list(rows: Sequence[int] | np.ndarray) -> str:
    """The first row numbers: `rows 3, 5, 8 ...`."""
    first = ", ".join(str(int(row)) for row in rows[:_SHOWN])
    return f"row{'s' if len(rows) > 1 else ''} {first}" + (" ..." if len(rows) > _SHOWN else "")


def _first_reasons(problems: dict[int, str]) -> str:
    first = [f"row {row} {reason}" for row, reason in sorted(problems.items())[:_SHOWN]]
    return "; ".join(first) + (" ..." if len(problems) > _SHOWN else ".") if first else ""


def _column(table: pa.Table, wanted: str | None, usual: str, role: str) -> str | None:
    """The column of that role: the one that was asked for, or the usual one where there is one."""
    if wanted is None:
        return usual if usual in table.column_names and not pa.types.is_nested(table.column(usual).type) else None
    if wanted not in table.column_names or wanted == ROW:
        raise DataError(f"There is no column {wanted!r} for {role}.", nearest_column(table.column_names, wanted))
    return wanted


def _problems(table: pa.Table, rows: np.ndarray, text: str | None, label: str | None, vectors: str | None) -> dict[int, str]:
    """What is wrong with the values of the columns in use: {row number: reason}; the first reason of each row."""
    found: dict[int, str] = {}
    if vectors is not None:
        found |= _vector_problems(table.column(vectors), rows, vectors)
    if label is not None:
        found |= {int(row): "has no label" for row in rows[blank(table.column(label))]}
    if text is not None:
        found |= {int(row): "has no text" for row in rows[blank(table.column(text))]}
    return found


def _vector_problems(column: pa.ChunkedArray, rows: np.ndarray, name: str) -> dict[int, str]:
    """Rows without a finite vector of the usual length. One number a row is a vector of one."""
    kind = column.type
    if is_number(kind):
        broken = [not_finite(chunk.cast(pa.float64())) for chunk in column.chunks]
        return {int(row): f"holds NaN or infinity in {name!r}" for row in rows[np.concatenate(broken)]}
    if not pa.types.is_large_list(kind) or not is_number(kind.value_type):
        return {int(row): f"holds no list of numbers in {name!r}" for row in rows}
    parts = [_vector_facts(chunk) for chunk in column.chunks]
    lengths, broken = (np.concatenate(part) for part in zip(*parts, strict=True))
    whole = lengths[(lengths > 0) & ~broken]
    usual = int(np.bincount(whole).argmax()) if len(whole) else 0
    found = {
        int(row): f"holds {n} numbers in {name!r}, most rows hold {usual}"
        for row, n in _pairs(rows, lengths, (lengths != usual) & ~broken)
    }
    found |= {int(row): f"holds NaN or infinity in {name!r}" for row in rows[broken]}
    return found | {int(row): f"holds no list of numbers in {name!r}" for row in rows[lengths <= 0]}


def _pairs(rows: np.ndarray, lengths: np.ndarray, where: np.ndarray) -> Iterable[tuple[int, int]]:
    return zip(rows[where].tolist(), lengths[where].tolist(), strict=True)


def _vector_facts(chunk: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(length, holds something that is not finite) of each vector of a chunk; a missing one has length 0."""
    lengths = pc.fill_null(pc.list_value_length(chunk), 0).to_numpy(zero_copy_only=False)
    bad = np.flatnonzero(not_finite(chunk.flatten()))
    owner = np.searchsorted(np.cumsum(lengths), bad, side="right")
    broken = np.zeros(len(chunk), bool)
    broken[owner] = True
    return lengths, broken


def not_finite(values: pa.Array) -> np.ndarray:
    """bool: missing, NaN or infinite."""
    if not pa.types.is_floating(values.type):
        return pc.is_null(values).to_numpy(zero_copy_only=False)
    return ~np.isfinite(values.to_numpy(zero_copy_only=False))


def _named_classes(table: pa.Table, names: Mapping[str, Sequence[str]]) -> pa.Table:
    """Class numbers that come with names become those names; a number without one is missing."""
    for column in set(names) & set(table.column_names):
        known, at = pa.array(list(names[column]), pa.large_string()), table.schema.get_field_index(column)
        numbers = table.column(column)
        if is_text(numbers.type):
            continue
        valid = pc.and_(pc.greater_equal(numbers, 0), pc.less(numbers, len(known)))
        table = table.set_column(at, column, pc.take(known, pc.if_else(valid, numbers, None)))
    return table


def _classes(column: pa.ChunkedArray, named: Sequence[str] | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Class numbers and names: in the order the source names them, else numbers in numerical order, words in alphabetical order."""
    if is_number(column.type):
        values = column.to_numpy()
        if values.dtype.kind == "f" and np.array_equal(values, np.floor(values)):
            values = values.astype(np.int64)
        names, numbers = np.unique(values, return_inverse=True)
        return numbers.astype(np.int64), tuple(str(name) for name in names)
    words = (
        column if is_text(column.type) else pa.chunked_array([[str(value) for value in column.to_pylist()]], pa.large_string())
    )
    coded = words.dictionary_encode().unify_dictionaries().combine_chunks()
    coded = coded if isinstance(coded, pa.Array) else coded.chunk(0)
    found = [str(name) for name in coded.dictionary.to_pylist()]
    order = [name for name in named if name in set(found)] if named else sorted(found)
    place = {name: at for at, name in enumerate(order)}
    return np.array([place[name] for name in found])[coded.indices.to_numpy()].astype(np.int64), tuple(order)


def _label_notes(name: str, mapped: Mapped, label: str, classes: tuple[str, ...]) -> tuple[str, ...]:
    """What a person should hear of labels that can be used all the same: only one class, numbers among words."""
    notes = [f"Every label of {name} is {classes[0]!r}: nothing can be told apart by it."] if len(classes) == 1 else []
    column: Any = mapped.column(label)
    if is_text(column.type) and len(classes) > 1:
        numbers = pc.match_substring_regex(column, _NUMBER).to_numpy()
        few, kind = (numbers, "numbers") if numbers.mean() <= 0.5 else (~numbers, "words")
        if few.any():
            rows = mapped.column(ROW).to_numpy()[few]
            among = "words" if kind == "numbers" else "numbers"
            count = f"{len(rows):,} of {len(few):,} are {kind} among {among}"
            notes.append(f"The labels of {name} are mixed: {count} ({row_list(rows)}). All are read as words.")
    return tuple(notes)
