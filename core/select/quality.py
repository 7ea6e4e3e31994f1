"""A column that says how good each row is."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import pandas as pd

from core.errors import DataError
from core.method import Param, data_score

_FAR = 1e9


@data_score("quality", label="Quality column", needs={"frame"}, place="column", decides=True)
def quality(
    frame: pd.DataFrame,
    row: np.ndarray,
    *,
    prefer: Annotated[str, Param("Keep first", choices=("high", "low"))] = "high",
    column: Annotated[str, Param("Column of numbers", longest=200, grammar="column")] = "",
    low: Annotated[float, Param("From", -_FAR, _FAR)] = -_FAR,
    high: Annotated[float, Param("To", -_FAR, _FAR)] = _FAR,
) -> np.ndarray:
    """Keep rows whose quality signal, a column of numbers that came with the data, lies in a range; the best of them first.

    frame: a line a row. `column` left empty is the only column of numbers there is. Returns float32 (rows,): inside low..high (ends
    included) the share of rows that are worse, 0..1; outside -1 - how far out, in standard deviations of the column. Where the recipe
    says no share to keep, the rows inside stay.

    When it lies: it is as good as whoever made the column; a classifier's "quality" is mostly likeness to its training text. What few
    rows a range leaves may be of one kind only.
    """
    name = _column(frame, column)
    values = pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    broken = np.flatnonzero(~np.isfinite(values))
    if len(broken):
        shown = ", ".join(str(one) for one in row[broken[:5]])
        raise DataError(
            f"{len(broken)} rows have no number in {name!r} (row numbers {shown}).",
            "Correct or remove those rows, or choose another column.",
        )
    if values.min() == values.max():
        raise DataError(f"Every row has the same value in {name!r}, so it tells none apart.", "Choose another column.")
    outside = np.maximum(np.maximum(low - values, values - high), 0)
    if (outside > 0).all():
        raise DataError(
            f"No row's {name!r} lies between {low:g} and {high:g}; its values are {values.min():g} to {values.max():g}.",
            "Widen the range.",
        )
    ordered = np.sort(values if prefer == "high" else -values)
    better_than = np.searchsorted(ordered, values if prefer == "high" else -values, side="left") / len(values)
    return np.where(outside > 0, -1 - outside / values.std(), better_than).astype(np.float32)


def _column(frame: pd.DataFrame, wanted: str) -> str:
    numbers = [str(one) for one in frame.columns if one != "row" and frame[one].dtype.kind in "iuf"]
    if wanted in frame and wanted != "row":
        return wanted
    if not wanted and len(numbers) == 1:
        return numbers[0]
    said = f"There is no column {wanted!r}." if wanted else "The quality column is not named."
    listed = f"Columns of numbers: {', '.join(numbers)}." if numbers else "The data has no column of numbers."
    raise DataError(said, f"Say params: {{column: ...}}. {listed}")
