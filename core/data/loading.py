"""Open a data set: a built-in one, a .csv, .jsonl or .parquet file, or one from the hub. Nothing is asked of a network for the first two."""

from __future__ import annotations

import numpy as np
import pandas as pd

from core import builtins
from core.data.dataset import Dataset
from core.data.files import open_file, open_hub
from core.data.table import dataset_of
from core.errors import DataError
from core.recipe import Data

FILES = (".csv", ".tsv", ".jsonl", ".parquet")


def load(data: Data, vectors: str | None = None) -> Dataset:
    """The rows that `data` names, with their numbers.

    `vectors`: the column that holds ready vectors, where the recipe embeds with `column:NAME`; its broken rows are then bad rows too. Raises
    BadRows where rows cannot be used and `skip_bad_rows` is false; DataError for a missing column (with the nearest name), an empty or
    unreadable file; ResourceError where the hub cannot be reached.
    """
    if data.source.startswith("builtin:"):
        return _builtin(data)
    if data.source.lower().endswith(FILES):
        return open_file(data, vectors)
    if "/" in data.source and not data.source.startswith((".", "/", "~")):
        return open_hub(data, vectors)
    raise DataError(
        f"{data.source} is not a data set that can be opened.",
        "Use builtin:NAME, a .csv, .jsonl or .parquet file, or a hub id such as owner/name.",
    )


def _builtin(data: Data) -> Dataset:
    table = builtins.read_table(data.source)
    frame = table.frame.reset_index(drop=True)
    if data.label not in (None, "label") or data.text not in (None, "text"):
        return dataset_of(data.source, frame, data, images=table.images)
    frame = frame.assign(row=np.arange(len(frame), dtype=np.int64))
    number = {name: at for at, name in enumerate(table.label_names)}
    labels = frame["label"].map(number).to_numpy(dtype=np.int64)
    texts = [str(text) for text in frame["text"]] if "text" in frame else None
    bad = [at for at, text in enumerate(texts or []) if not text.strip()]
    whole = Dataset(data.source, _row_first(frame), texts, table.images, labels, table.label_names)
    return whole.part(np.setdiff1d(np.arange(len(frame)), bad)) if bad else whole


def _row_first(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[["row", *[name for name in frame.columns if name != "row"]]]
