"""From a raw table to a Dataset: which column is text, which the label, and which rows cannot be used."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import numpy as np
import pandas as pd

from core.data.dataset import Dataset
from core.errors import BadRows, DataError
from core.recipe import Data

TEXT, LABEL = "text", "label"
_SHOWN = 5
Bad = tuple[tuple[int, str], ...]


def dataset_of(
    name: str, frame: pd.DataFrame, data: Data, *, images: np.ndarray | None = None, bad: Bad = (), vectors: str | None = None
) -> Dataset:
    """Check a raw table and make it a Dataset.

    `frame`: a line a row, in order; a column `row` holds row numbers where some rows are missing already, because they are in `bad`. `images`
    belong to the frame's lines. Raises DataError (a column that is not there, no rows) and BadRows (unless data.skip_bad_rows).
    """
    frame = frame if "row" in frame else frame.assign(row=np.arange(len(frame), dtype=np.int64))
    text = _column(frame, data.text, TEXT, "text")
    label = _column(frame, data.label, LABEL, "label")
    if vectors is not None:
        _column(frame, vectors, vectors, "vectors")
    problems = {**_problems(frame, text, label, vectors), **dict(bad)}
    if problems and not data.skip_bad_rows:
        raise bad_rows_error(name, problems, len(frame) + len(bad))
    keep = np.flatnonzero(~frame["row"].isin(list(problems)).to_numpy())
    if len(keep) == 0:
        raise DataError(
            f"{name} has no row that can be used.", _first_reasons(problems) or "Choose a file with at least one row."
        )
    sound = frame.iloc[keep].reset_index(drop=True)
    labels, names = _classes(sound[label]) if label else (None, ())
    texts = [str(value) for value in sound[text]] if text else None
    first = sound[["row", *[column for column in sound.columns if column != "row"]]]
    return Dataset(name, first, texts, None if images is None else images[keep], labels, names, tuple(sorted(problems.items())))


def bad_rows_error(name: str, problems: dict[int, str], rows: int) -> BadRows:
    """The first five with their reasons, and how many there are."""
    count = len(problems)
    what = f"{count} of {name}'s {rows} rows cannot be used" if count > 1 else f"One of {name}'s {rows} rows cannot be used"
    return BadRows(
        f"{what}: {_first_reasons(problems)}",
        "Correct them, or set skip_bad_rows to leave them out.",
        tuple(sorted(problems.items())),
    )


def nearest_column(columns: Iterable[str], wanted: str) -> str:
    """The remedy for a column that is not there."""
    known = [str(column) for column in columns if column != "row"]
    near = difflib.get_close_matches(wanted, known, 1)
    listed = ", ".join(known[:20]) + (" ..." if len(known) > 20 else "")
    return (f"Did you mean {near[0]!r}? " if near else "") + f"It has: {listed}."


def _first_reasons(problems: dict[int, str]) -> str:
    first = [f"row {row} {reason}" for row, reason in sorted(problems.items())[:_SHOWN]]
    return "; ".join(first) + (" ..." if len(problems) > _SHOWN else ".") if first else ""


def _column(frame: pd.DataFrame, wanted: str | None, usual: str, role: str) -> str | None:
    """The column of that role: the one that was asked for, or the usual one where there is one."""
    if wanted is None:
        return usual if usual in frame and not _is_list(frame[usual]) else None
    if wanted not in frame or wanted == "row":
        raise DataError(f"There is no column {wanted!r} for {role}.", nearest_column(frame.columns, wanted))
    return wanted


def _is_list(column: pd.Series) -> bool:
    return column.dtype == object and column.map(lambda item: isinstance(item, (list, dict, np.ndarray))).any()


def _problems(frame: pd.DataFrame, text: str | None, label: str | None, vectors: str | None) -> dict[int, str]:
    """What is wrong with the values of the columns in use: {row number: reason}; the first reason of each row."""
    found: dict[int, str] = {}
    rows = frame["row"].to_numpy()
    if vectors is not None:
        found |= _vector_problems(frame[vectors], rows, vectors)
    if label is not None:
        missing = frame[label].isna() | frame[label].map(lambda item: isinstance(item, str) and not item.strip())
        found |= {int(row): "has no label" for row in rows[missing.to_numpy(dtype=bool)]}
    if text is not None:
        none = frame[text].isna()
        empty = none | frame[text].map(lambda item: isinstance(item, str) and not item.strip())
        found |= {int(row): "has no text" for row in rows[empty.to_numpy(dtype=bool)]}
    return found


def _vector_problems(column: pd.Series, rows: np.ndarray, name: str) -> dict[int, str]:
    """Rows without a finite vector of the usual length."""
    lengths: dict[int, int] = {}
    found: dict[int, str] = {}
    for row, item in zip(rows, column, strict=True):
        try:
            vector = np.asarray(item, dtype=np.float64)
        except (TypeError, ValueError):
            vector = np.empty((0, 0))
        if vector.ndim != 1 or len(vector) == 0:
            found[int(row)] = f"holds no list of numbers in {name!r}"
        elif not np.isfinite(vector).all():
            found[int(row)] = f"holds NaN or infinity in {name!r}"
        else:
            lengths[int(row)] = len(vector)
    usual = max(set(lengths.values()), key=lambda n: (list(lengths.values()).count(n), -n)) if lengths else 0
    return found | {row: f"holds {n} numbers in {name!r}, most rows hold {usual}" for row, n in lengths.items() if n != usual}


def _classes(column: pd.Series) -> tuple[np.ndarray, tuple[str, ...]]:
    """Class numbers and names: numbers in numerical order, words in alphabetical order."""
    values = column.to_numpy()
    if column.dtype.kind == "f" and np.array_equal(values, np.floor(values)):
        values = values.astype(np.int64)
    if values.dtype.kind not in "iufb":
        values = np.array([str(value) for value in values], dtype=object)
    names, numbers = np.unique(values, return_inverse=True)
    return numbers.astype(np.int64), tuple(str(name) for name in names)
