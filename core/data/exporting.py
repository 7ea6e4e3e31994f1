"""Leave the kept rows of a selection as files that other programs read, with a manifest that says where they come from."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core.data.dataset import Dataset
from core.data.selection import Selection
from core.errors import DataError
from core.events import Progress, Watcher
from core.folder import disk_error, write_json
from core.recipe import Recipe, to_dict

MANIFEST = "manifest.json"
STAGE = "save rows"
_BATCH_ROWS = 8192


def save_rows(dataset: Dataset, selection: Selection, recipe: Recipe, folder: Path, watcher: Watcher) -> None:
    """Write the kept rows in each of recipe.save.data's forms into a folder, and last manifest.json.

    Every row keeps its number in the source (`row`) and gets its `score`. Pictures go into parquet and datasets as PNG, and not into csv and jsonl, as
    the manifest says. Equal selections of equal data are equal files. Memory holds some thousand rows at a time. Raises what the disk
    refuses, DataError where the kept rows have a column of a kind that a form cannot hold.
    """
    forms = tuple(dict.fromkeys(recipe.save.data))
    kept = np.flatnonzero(selection.kept)
    part = dataset.mapped.take(kept)
    scores = selection.frame["score"].to_numpy()[kept]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for done, form in enumerate(forms):
            watcher.check()
            watcher.say(Progress(STAGE, done, len(forms)))
            _WRITERS[form](folder, lambda: _tables(part, scores, dataset, kept, watcher), dataset)
    except pa.ArrowException as error:
        raise DataError(f"The kept rows cannot be saved as {form}: {str(error)[:160]}", "Save them in another form.") from None
    except OSError as error:
        raise disk_error(error, folder) from None
    write_json(folder / MANIFEST, _manifest(dataset, selection, recipe, folder, forms))
    watcher.say(Progress(STAGE, len(forms), len(forms)))


def _tables(part: Any, scores: np.ndarray, dataset: Dataset, kept: np.ndarray, watcher: Watcher) -> Iterator[pa.Table]:
    """The kept rows some thousand at a time, with their scores and, where they have pictures, these as PNG."""
    score = "score" if "score" not in part.names else "score_"
    for at, table in enumerate(part.batches(rows=_BATCH_ROWS)):
        watcher.check()
        here = slice(at * _BATCH_ROWS, (at + 1) * _BATCH_ROWS)
        if not np.isnan(scores).all():
            table = table.append_column(score, pa.array(scores[here], pa.float32()))
        if dataset.images is not None:
            pictures = [{"bytes": _png(dataset.images[row]), "path": None} for row in kept[here]]
            kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
            table = table.append_column("image", pa.array(pictures, kind))
        yield table.combine_chunks().replace_schema_metadata(_features(dataset))


def _features(dataset: Dataset) -> dict[str, str] | None:
    """What `datasets` reads in a schema to show pictures as pictures."""
    if dataset.images is None:
        return None
    return {"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}}}})}


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray((np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)).save(out, format="PNG")
    return out.getvalue()


Tables = Callable[[], Iterator[pa.Table]]


def _parquet(folder: Path, tables: Tables, dataset: Dataset) -> None:
    _written(tables, lambda schema: pq.ParquetWriter(folder / "kept.parquet", schema, compression="zstd"))


def _datasets(folder: Path, tables: Tables, dataset: Dataset) -> None:
    """A folder for datasets.load_from_disk: written as one arrow stream first, which the library maps and saves in its own way."""
    import datasets

    datasets.disable_progress_bars()
    stream = folder / ".kept.arrow"
    try:
        _written(_plain_lists(tables), lambda schema: pa.ipc.new_stream(str(stream), schema))
        held = datasets.table.MemoryMappedTable.from_file(str(stream))
        whole = datasets.Dataset(held, fingerprint=dataset.fingerprint[:16])
        if dataset.images is not None:
            whole = whole.cast_column("image", datasets.Image())
        shutil.rmtree(folder / "datasets", ignore_errors=True)
        whole.save_to_disk(str(folder / "datasets"))
    finally:
        stream.unlink(missing_ok=True)


def _plain_lists(tables: Tables) -> Tables:
    """Without metadata of ours: the library infers its own kinds."""
    return lambda: (table.replace_schema_metadata(None) for table in tables())


def _written(tables: Tables, opened: Callable[[pa.Schema], AbstractContextManager[Any]]) -> None:
    every = tables()
    first = next(every)
    with opened(first.schema) as writer:
        writer.write_table(first)
        for table in every:
            writer.write_table(table)


def _csv(folder: Path, tables: Tables, dataset: Dataset) -> None:
    """Lists and other nested values as JSON; a column of pictures is left away."""
    import csv

    with (folder / "kept.csv").open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        for at, table in enumerate(tables()):
            flat = _flat(table)
            if at == 0:
                out.writerow(flat.column_names)
            columns = [_fields(column) for column in flat.columns]
            out.writerows(zip(*columns, strict=True))


def _fields(column: pa.ChunkedArray) -> list[Any]:
    values = column.to_pylist()
    if pa.types.is_nested(column.type):
        return [None if value is None else json.dumps(value, default=str) for value in values]
    return values


def _jsonl(folder: Path, tables: Tables, dataset: Dataset) -> None:
    with (folder / "kept.jsonl").open("w", encoding="utf-8", newline="\n") as file:
        for table in tables():
            file.writelines(
                json.dumps(_strict(line), ensure_ascii=False, default=str) + "\n" for line in _flat(table).to_pylist()
            )


def _strict(value: Any) -> Any:
    """JSON has no NaN and no infinity: null stands for them."""
    if isinstance(value, dict):
        return {name: _strict(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_strict(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _flat(table: pa.Table) -> pa.Table:
    return (
        table.drop_columns(["image"])
        if "image" in table.column_names and pa.types.is_struct(table.column("image").type)
        else table
    )


def _ids(folder: Path, tables: Tables, dataset: Dataset) -> None:
    with (folder / "kept_ids.txt").open("w", encoding="ascii", newline="\n") as file:
        for table in tables():
            file.writelines(f"{row}\n" for row in table.column("row").to_pylist())


_WRITERS: dict[str, Callable[[Path, Tables, Dataset], None]] = {
    "parquet": _parquet,
    "csv": _csv,
    "jsonl": _jsonl,
    "ids": _ids,
    "datasets": _datasets,
}


def _manifest(dataset: Dataset, selection: Selection, recipe: Recipe, folder: Path, forms: tuple[str, ...]) -> dict[str, Any]:
    """What was kept of what, by which recipe and seed, where the line was drawn, and a hash of every file."""
    scores = selection.frame["score"].to_numpy()
    kept = selection.kept
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {
        "made_with": {"prunarium_recipe": recipe.recipe, "pyarrow": importlib.metadata.version("pyarrow")},
        "data": {
            "source": recipe.data.source if recipe.data else None,
            "name": dataset.name,
            "sha256": dataset.fingerprint,
            "rows": len(dataset),
        },
        "bad_rows": [list(pair) for pair in dataset.bad_rows],
        "notes": list(dataset.notes),
        "kept": {
            "rows": int(kept.sum()),
            "share": selection.share,
            "rows_sha256": hashlib.sha256(np.ascontiguousarray(dataset.row[kept], dtype="<i8")).hexdigest(),
        },
        "scores": {
            "method": recipe.select.score if recipe.select else None,
            "selector": recipe.select.selector if recipe.select else None,
            "sha256": hashlib.sha256(np.ascontiguousarray(scores, dtype="<f4")).hexdigest(),
            "lowest_kept": _extreme(scores[kept], np.min),
            "highest_left_out": _extreme(scores[~kept], np.max),
        },
        "seed": recipe.seed,
        "pictures": "PNG, grey, in parquet and datasets; left out of csv, jsonl and ids" if dataset.images is not None else None,
        "forms": list(forms),
        "files": {str(path.relative_to(folder).as_posix()): _sha256(path) for path in files},
        "recipe": to_dict(recipe, full=True),
    }


def _extreme(scores: np.ndarray, which: Callable[[np.ndarray], Any]) -> float | None:
    finite = scores[np.isfinite(scores)]
    return float(which(finite)) if len(finite) else None


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
