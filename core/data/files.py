"""Tables from files and from the hub, through the `datasets` library, after every row has been looked at."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from core.data.dataset import Dataset
from core.data.records import Records, read_csv, read_jsonl
from core.data.table import Bad, dataset_of
from core.errors import DataError, ResourceError
from core.recipe import Data

_MOST_PIXELS = 512 * 512


def open_file(data: Data, vectors: str | None) -> Dataset:
    """A .csv, .tsv, .jsonl or .parquet file as a Dataset. Row numbers count from 0 and leave out the header."""
    path = Path(data.source).expanduser()
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not there"
        raise DataError(f"{path} {what}.", "Give the path of a .csv, .jsonl or .parquet file.")
    try:
        if path.suffix.lower() == ".parquet":
            return _dataset(path.name, _parquet(path), data, (), np.array([], dtype=np.int64), vectors)
        records = read_jsonl(path) if path.suffix.lower() == ".jsonl" else read_csv(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.", "Check the file and who may read it.") from None
    rows = np.array([row for row, _ in records.good], dtype=np.int64)
    if not records.good and not records.bad:
        raise DataError(f"{path.name} has a header and no rows.", "Choose a file with at least one row.")
    return _dataset(path.name, _from_columns(path.name, _columns(records)), data, records.bad, rows, vectors)


def open_hub(data: Data, vectors: str | None) -> Dataset:
    """A data set of the Hugging Face hub: `owner/name`, `owner/name@revision`; its split `train`, or the first one."""
    import datasets

    name, _, revision = data.source.partition("@")
    datasets.disable_progress_bars()
    try:
        splits = datasets.get_dataset_split_names(name, revision=revision or None)
        split = "train" if "train" in splits else splits[0]
        table = datasets.load_dataset(name, revision=revision or None, split=split)
    except (
        OSError,
        ValueError,
        RuntimeError,
    ) as error:  # what the library raises offline, for a wrong name, and for a broken repository
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise ResourceError(
            f"{data.source} cannot be had from the hub: {first}", "Check the name and the network, or use a file."
        ) from None
    return _dataset(data.source, table, data, (), np.array([], dtype=np.int64), vectors)


def _dataset(name: str, table: Any, data: Data, bad: Bad, rows: np.ndarray, vectors: str | None) -> Dataset:
    """A table of the `datasets` library -> Dataset. `rows`: their numbers, where some are missing."""
    import datasets

    rows = rows if len(rows) or bad else np.arange(len(table), dtype=np.int64)
    image = next((column for column, kind in table.features.items() if isinstance(kind, datasets.Image)), None)
    images, broken = _images(name, table, image, rows) if image else (None, ())
    frame = table.remove_columns([image] if image else []).to_pandas()
    frame = _named_classes(frame, table.features).rename(columns={"row": "row_"}).assign(row=rows)
    return dataset_of(name, frame, data, images=images, bad=(*bad, *broken), vectors=vectors)


def _named_classes(frame: pd.DataFrame, features: Any) -> pd.DataFrame:
    """Class numbers that come with names become those names."""
    named = {column: kind.names for column, kind in features.items() if hasattr(kind, "names") and column in frame}
    return frame.assign(**{column: frame[column].map(dict(enumerate(names))) for column, names in named.items()})


def _parquet(path: Path) -> Any:
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return datasets.Dataset(datasets.table.InMemoryTable(pq.read_table(path, use_threads=False)))
    except (pa.ArrowException, ValueError, TypeError, KeyError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{path.name} is not a parquet file that can be read: {first[:160]}", "Write it again, or choose another."
        ) from None


def _from_columns(name: str, columns: dict[str, list[Any]]) -> Any:
    import datasets
    import pyarrow as pa

    try:
        return datasets.Dataset.from_dict(columns)
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{name} does not make a table: {first[:160]}", "Give every column values of one kind.") from None


def _columns(records: Records) -> dict[str, list[Any]]:
    """Values by column. Fields of a csv become whole numbers or numbers where all of a column's are; a blank one is missing."""
    values = [value for _, value in records.good]
    if records.header:
        return {name: _typed([fields[at] for fields in values]) for at, name in enumerate(records.header)}
    names = dict.fromkeys(name for value in values for name in value)
    return {name: [value.get(name) for value in values] for name in names}


def _typed(fields: list[str]) -> list[Any]:
    for kind in (int, float):
        try:
            return [kind(field) if field.strip() else None for field in fields]
        except (ValueError, OverflowError):
            continue
    return [field if field.strip() else None for field in fields]


def _images(name: str, table: Any, column: str, rows: np.ndarray) -> tuple[np.ndarray, Bad]:
    """The images of a column as grey values float32 (rows, height, width) in 0..1, and the rows whose image cannot be read."""
    import datasets
    from PIL import Image

    stored, found, bad = table.cast_column(column, datasets.Image(decode=False))[column], [], []
    for row, item in zip(rows, stored, strict=True):
        try:
            image = Image.open(io.BytesIO(item["bytes"]), formats=("PNG", "JPEG", "BMP", "GIF", "WEBP"))
            if image.width * image.height > _MOST_PIXELS:
                raise DataError(
                    f"{name} holds images of {image.width} x {image.height} pixels.", "At most 512 x 512 are read so far."
                )
            found.append(np.asarray(image.convert("L"), dtype=np.float32) / 255)
        except (OSError, TypeError, ValueError, SyntaxError):
            found.append(None)
            bad.append((int(row), "has no image that can be read"))
    shapes = {image.shape for image in found if image is not None}
    if len(shapes) > 1:
        raise DataError(f"{name} holds images of {len(shapes)} different sizes.", "Scale them to one size first.")
    blank = np.zeros(shapes.pop() if shapes else (1, 1), dtype=np.float32)
    return np.stack([blank if image is None else image for image in found]) if found else np.zeros((0, 1, 1), np.float32), tuple(
        bad
    )
