"""Rows from files, folders and the hub, after every row has been looked at. A large source becomes a table of the cache once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from core.data import pictures
from core.data.arrow_cache import Made, key_of, numbered, opened, renamed, said, stamp, unchanged
from core.data.columns import table_of
from core.data.dataset import Dataset
from core.data.mapped import BATCH_ROWS, ROW
from core.data.records import read_csv, read_jsonl
from core.data.table import dataset_of
from core.errors import DataError, ResourceError
from core.recipe import Data

TEXT_FILES = (".csv", ".tsv", ".jsonl", ".csv.gz", ".tsv.gz", ".jsonl.gz")
FILES = (*TEXT_FILES, ".parquet", ".arrow", ".feather")
_HUB_READERS = ("arrow", "csv", "imagefolder", "json", "parquet", "text")


def open_file(data: Data, vectors: str | None) -> Dataset:
    """A .csv, .tsv or .jsonl file (plain or .gz), a .parquet or .arrow file as a Dataset. Row numbers count from 0 and leave out the header."""
    path = Path(data.source).expanduser()
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not there"
        raise DataError(f"{path} {what}.", f"Give the path of a file that ends in {', '.join(FILES)}.")
    try:
        before = stamp(path)
        table = opened(key_of(str(path.resolve()), before), before[1], lambda: _read(path, before))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.", "Check the file and who may read it.") from None
    return _dataset(path.name, table, data, vectors, key_of(str(path.resolve()), before))


def _read(path: Path, before: tuple[int, int, int]) -> Made:
    """What the file holds; raises where it was written to meanwhile, at the latest when the last batch has been taken."""
    name, ending = path.name, path.name.lower().removesuffix(".gz")
    if ending.endswith((".csv", ".tsv", ".jsonl")):
        lined = ending.endswith(".jsonl")
        made = table_of(name, read_jsonl(path) if lined else read_csv(path), typed=lined)
    elif ending.endswith(".parquet"):
        made = _parquet(path)
    else:
        made = _arrow(path)
    unchanged(path, before)

    def batches() -> Iterator[Any]:
        yield from made.batches
        unchanged(path, before)

    return Made(made.schema, batches(), made.said)


def _parquet(path: Path) -> Made:
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path, memory_map=True)
        schema = file.schema_arrow
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
        raise _broken(path.name, "parquet", error) from None

    def batches() -> Iterator[pa.RecordBatch]:
        first = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            try:
                yield from file.iter_batches(BATCH_ROWS, row_groups=[group], use_threads=False)
            except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
                raise DataError(
                    f"{path.name} cannot be read in its rows {first} to {first + rows - 1}: {_first_line(error)}",
                    "Write it again, or fetch it again.",
                ) from None
            first += rows

    return _made(schema, batches())


def _arrow(path: Path) -> Made:
    """An arrow file, or a stream as `datasets` writes it."""
    with path.open("rb") as start:
        stream = start.read(6) != b"ARROW1"
    try:
        source = pa.memory_map(str(path))
        reader = pa.ipc.open_stream(source) if stream else pa.ipc.open_file(source)
        schema = reader.schema
    except (pa.ArrowException, OSError) as error:
        raise _broken(path.name, "arrow", error) from None

    def batches() -> Iterator[pa.RecordBatch]:
        first = 0
        try:
            for batch in reader if stream else (reader.get_batch(at) for at in range(reader.num_record_batches)):
                yield batch
                first += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path.name} cannot be read from row {first} on: {_first_line(error)}", "Write it again.") from None

    return _made(schema, batches())


def _made(schema: pa.Schema, batches: Iterator[Any]) -> Made:
    """Rows without numbers of their own: they count from 0. Class names and pictures that `datasets` wrote into the schema are kept in `said`."""
    features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features") or {}
    names = {renamed(name): kind["names"] for name, kind in features.items() if isinstance(kind, dict) and "names" in kind}
    fields = [pa.field(ROW, pa.int64()), *(pa.field(renamed(field.name), field.type) for field in schema)]
    return Made(pa.schema(fields), numbered(batches), {"names": names})


def _dataset(name: str, table: pa.Table, data: Data, vectors: str | None, key: str) -> Dataset:
    told = said(table)
    bad = tuple((row, reason) for row, reason in told.get("bad", ()))
    column = pictures.column_of(table)
    found = pictures.of_column(name, table, column, key) if column else pictures.Pictures(None)
    table = table.drop_columns([column]) if column else table
    return dataset_of(
        name,
        table,
        data,
        images=found.images,
        bad=(*bad, *found.bad),
        vectors=vectors,
        names=told.get("names", {}),
        notes=found.notes,
    )


def open_folder(data: Data, vectors: str | None) -> Dataset:
    """A folder of pictures (in folders named by their class, or all in one), or one that `datasets` has saved."""
    path = Path(data.source).expanduser()
    if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        return _saved(path, data, vectors)
    table, found = pictures.of_folder(path)
    return dataset_of(path.name, table, data, images=found.images, bad=found.bad, vectors=vectors, notes=found.notes)


def _saved(path: Path, data: Data, vectors: str | None) -> Dataset:
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise DataError(f"{path} is not a whole `datasets` folder: {_first_line(error)}", "Save it again.") from None
    return _of_datasets(path.name, _one_split(loaded), data, vectors)


def open_hub(data: Data, vectors: str | None) -> Dataset:
    """A data set of the Hugging Face hub: `owner/name`, `owner/name@revision`; its split `train`, or the first one.

    Only tables, texts and pictures are read: no script is run and nothing is unpickled.
    """
    import datasets

    name, _, revision = data.source.partition("@")
    datasets.disable_progress_bars()
    try:
        builder = datasets.load_dataset_builder(name, revision=revision or None)
        reader = type(builder).__module__.rpartition(".")[2]
        if reader not in _HUB_READERS:
            raise DataError(
                f"{data.source} is kept as {reader}, which is not read here.", "Give it as parquet, csv or jsonl files."
            )
        builder.download_and_prepare()
        loaded = _one_split(builder.as_dataset())
    except (OSError, ValueError, RuntimeError, LookupError) as error:  # offline, a wrong name, a broken repository
        raise ResourceError(
            f"{data.source} cannot be had from the hub: {_first_line(error)}", "Check the name and the network, or use a file."
        ) from None
    return _of_datasets(data.source, loaded, data, vectors)


def _one_split(loaded: Any) -> Any:
    """A data set of its own, or of several splits the one called `train`, or the first."""
    if not hasattr(loaded, "values"):
        return loaded
    return loaded["train"] if "train" in loaded else next(iter(loaded.values()))


def _of_datasets(name: str, loaded: Any, data: Data, vectors: str | None) -> Dataset:
    """A data set of the `datasets` library, which keeps its rows in arrow files already: they are copied into one table of ours once."""
    key = key_of("datasets", loaded._fingerprint)

    def make() -> Made:
        schema = loaded.features.arrow_schema
        plain = loaded.with_format("arrow")
        return _made(schema, (batch.cast(schema) for batch in plain.iter(BATCH_ROWS)))

    return _dataset(name, opened(key, loaded.data.nbytes, make), data, vectors, key)


def _broken(name: str, kind: str, error: Exception) -> DataError:
    return DataError(
        f"{name} is not {_a(kind)} file that can be read: {_first_line(error)}", "Write it again, or choose another."
    )


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:160]
