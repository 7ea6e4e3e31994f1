"""Vectors that the data brings along."""

from __future__ import annotations

import numpy as np
import pandas as pd

from core.data.table import nearest_column
from core.errors import DataError
from core.method import embedding


@embedding("column", label="Ready vectors", of=("any",), place="ready")
def column(frame: pd.DataFrame, argument: str) -> np.ndarray:
    """Take the vectors of a column as they are: for embeddings made elsewhere.

    Source `column:NAME`; the column holds a list of numbers in each row, or numbers alone (one feature). Returns float32 (rows, features).

    When it lies: nothing here knows what made the vectors, nor whether cosine is their distance.
    """
    if argument not in frame:
        raise DataError(f"There is no column {argument!r} of vectors.", nearest_column(frame.columns, argument))
    try:
        vectors = np.stack([np.atleast_1d(np.asarray(item, dtype=np.float32)) for item in frame[argument]])
    except (TypeError, ValueError):
        raise DataError(
            f"The column {argument!r} does not hold vectors of one length.", "Give each row a list of as many numbers."
        ) from None
    return vectors.reshape(len(vectors), -1)
