"""Open a data set: a built-in one, a file, a folder, or one from the hub. Nothing is asked of a network for the first three."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from core import builtins
from core.data import glove
from core.data.arrow_cache import numbered
from core.data.dataset import Dataset
from core.data.files import FILES, open_file, open_folder, open_hub
from core.data.mapped import in_normal_form
from core.data.table import dataset_of
from core.errors import DataError
from core.recipe import Data

__all__ = ["FILES", "load"]


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
    if Path(data.source).expanduser().is_dir():
        return open_folder(data, vectors)
    if "/" in data.source and not data.source.startswith((".", "/", "~")):
        return open_hub(data, vectors)
    raise DataError(
        f"{data.source} is not a data set that can be opened.",
        f"Use builtin:NAME, a file that ends in {', '.join(FILES)}, a folder of pictures, or a hub id such as owner/name.",
    )


def _builtin(data: Data) -> Dataset:
    """Rows that are built in; a blank text among them is a bad row that is skipped without asking."""
    data = data.model_copy(update={"skip_bad_rows": True})
    if builtins.find(data.source)[0].name == glove.NAME:
        return dataset_of(data.source, glove.table(), data)
    table = builtins.read_table(data.source)
    rows = pa.Table.from_pandas(table.frame, preserve_index=False).replace_schema_metadata(None)
    rows = in_normal_form(pa.concat_tables(numbered([rows])))
    return dataset_of(data.source, rows, data, images=table.images, names={"label": table.label_names})
