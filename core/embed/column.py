"""Vectors that the data brings along."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from core.data.dataset import Dataset
from core.data.mapped import is_number, is_vector
from core.data.table import nearest_column, row_list
from core.errors import DataError
from core.method import embedding

_CHUNK_ROWS = 65_536


@embedding("column", label="Ready vectors", of=("any",), place="ready", version=2)
def column(dataset: Dataset, argument: str, start: int) -> Iterator[np.ndarray]:
    """Take the vectors of a column as they are: for embeddings made elsewhere.

    Source `column:NAME`; the column holds a list of numbers in each row, or numbers alone (one feature). Gives float32 (rows, features).

    When it lies: nothing here knows what made the vectors, nor whether cosine is their distance.
    """
    if argument not in dataset.columns:
        raise DataError(f"There is no column {argument!r} of vectors.", nearest_column(dataset.columns, argument))
    length = None
    for batch in dataset.mapped.batches(["row", argument], _CHUNK_ROWS, start):
        values: Any = batch.column(argument)
        if not is_vector(values.type):
            if not is_number(values.type):
                raise _unequal(argument, batch.column("row").to_numpy())
            yield values.cast(pa.float32()).to_numpy().reshape(-1, 1)
            continue
        lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy()
        length = int(np.bincount(lengths).argmax()) if length is None else length
        odd = (lengths != length) | (lengths == 0)
        if odd.any():
            raise _unequal(argument, batch.column("row").to_numpy()[odd])
        yield pc.list_flatten(values).cast(pa.float32()).to_numpy().reshape(-1, length)


def _unequal(argument: str, rows: np.ndarray) -> DataError:
    return DataError(
        f"The column {argument!r} does not hold vectors of one length ({len(rows)} rows differ: {row_list(rows)}).",
        "Give each row a list of as many numbers.",
    )
