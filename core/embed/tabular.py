"""Rows of a table by their numbers and their few-valued words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from core.data.dataset import Dataset
from core.data.mapped import ROW, is_number, is_text, is_vector
from core.errors import DataError
from core.method import Param, embedding

_CHUNK_ROWS = 16_384


@embedding("tabular", label="Columns of the table", of=("columns",), fits=True, place="raw")
def tabular(
    dataset: Dataset, start: int, *, most_values: Annotated[int, Param("Words a column may have", 2, 200)] = 32
) -> Iterator[np.ndarray]:
    """Describe each row by its columns: numbers on a common scale, words of columns with few different ones as a one for each.

    The label and the text are left out, so that what is learned from the vectors is not their answer. A column of numbers becomes (x - mean) / standard
    deviation, a missing one the mean, so 0; a column of at most `most_values` words (or true and false) becomes a feature a word, 1 over
    the square root of 2 where it holds, so that two rows that differ are at distance 1, and all 0 where it is missing. Gives float32 (rows, features).

    When it lies: every column weighs alike, whatever it means; heavy tails put a few rows far from all others; a number that is a code
    (a postcode) is taken for a quantity. Constant columns and columns of many different words tell nothing here and are left out.
    """
    told, left = [], []
    for name in dataset.columns:
        if name not in (dataset.text_column, dataset.label_column):
            found = _described(dataset, name, most_values)
            (left if found is None else told).append(name if found is None else found)
    if not told:
        names = f" ({', '.join(left)})" if left else ""
        raise DataError(
            f"No column of {dataset.name}{names} tells its rows apart: they are constant, or words that nearly all differ.",
            "Add columns of numbers, or say `text:` with the name of a text column.",
        )
    for batch in dataset.mapped.batches([ROW, *[name for name, *_ in told]], _CHUNK_ROWS, start):
        yield np.concatenate([_features(batch.column(name), *how) for name, *how in told], axis=1)


def _described(dataset: Dataset, name: str, most: int) -> tuple[Any, ...] | None:
    """(name, mean, spread) of a column of numbers, (name, its words) of another, None where it tells nothing."""
    column: Any = dataset.mapped.column(name)
    if is_number(column.type):
        finite = pc.if_else(pc.is_finite(column), column, None)
        spread, mean = pc.stddev(finite).as_py(), pc.mean(finite).as_py()
        return (name, mean, spread) if spread and np.isfinite(spread) and spread > 1e-12 * abs(mean) else None
    if is_vector(column.type) or not (is_text(column.type) or pa.types.is_boolean(column.type)):
        return None
    words = set()
    for chunk in column.chunks:
        words |= set(pc.unique(chunk).to_pylist()) - {None}
        if len(words) > most:
            return None
    return (name, pa.array(sorted(words), column.type)) if len(words) > 1 else None


def _features(column: Any, *how: Any) -> np.ndarray:
    """The float32 (rows, features) of one column of a batch."""
    if len(how) == 2:
        mean, spread = how
        values = column.cast(pa.float64()).to_numpy()
        return np.where(np.isfinite(values), (values - mean) / spread, 0).astype(np.float32)[:, None]
    place = pc.fill_null(pc.index_in(column, value_set=how[0]), -1).to_numpy()
    return ((place[:, None] == np.arange(len(how[0]))) / np.sqrt(2)).astype(np.float32)
