"""A data set as vectors, kept in the cache by content, so that the same rows are never embedded twice, and a stopped embedding goes on."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from core import folder
from core.builtins import cache_dir
from core.catalogue import embedding_method
from core.data.arrow_cache import evict
from core.data.dataset import Dataset
from core.data.methods import get
from core.errors import DataError, RecipeError
from core.events import Progress, Watcher
from core.method import Method
from core.recipe import Embedding

STAGE = "embed"
_CACHE_BYTES = 20_000_000_000  # the embeddings that were used longest ago go when the cache grows beyond this


def embed(dataset: Dataset, embedding: Embedding, loaded: Any, watcher: Watcher, seed: int = 0) -> np.ndarray:
    """The rows as float32 (rows, features), memory-mapped from the cache where they have been embedded before.

    `loaded`: the opened LoadedModel, for `model@BLOCK`; else None. What a method hands over piece by piece is written as it comes: after a stop the same
    embedding goes on where it was. Raises DataError where the method cannot embed this kind of data or a vector is not finite, RecipeError for
    an unknown method.
    """
    method = get("embedding", embedding_method(embedding.source))
    _check_kind(dataset, method, embedding.source)
    file = cache_file(dataset, embedding, loaded, seed)
    watcher.check()
    watcher.say(Progress(STAGE, 0, len(dataset)))
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with _alone(file, watcher):
            if not file.exists():
                _write(file, dataset, method, embedding, loaded, watcher, seed)
    watcher.say(Progress(STAGE, len(dataset), len(dataset)))
    file.touch()
    return np.load(file, mmap_mode="r")


def argument(source: str) -> str:
    """What follows the method's name: `model@3` -> "3", `column:vector` -> "vector"."""
    source = source.removeprefix("builtin:")
    return source[len(embedding_method(source)) + 1 :]


def cache_file(dataset: Dataset, embedding: Embedding, loaded: Any, seed: int) -> Path:
    """Where this embedding lies or would lie: its name is a hash of the rows, the method, its version and all that it depends on."""
    method = get("embedding", embedding_method(embedding.source))
    says: list[Any] = [
        dataset.fingerprint,
        method.card.name,
        method.card.version,
        argument(embedding.source),
        embedding.params,
        seed,
    ]
    if loaded is not None and method.card.name == "model":
        from core.model.files.source import fingerprint

        says += [fingerprint(loaded.location), str(next(loaded.model.parameters()).dtype)]
    key = hashlib.sha256(json.dumps(says, sort_keys=True, default=str).encode()).hexdigest()[:32]
    return cache_dir() / "embeddings" / f"{key}.npy"


def _check_kind(dataset: Dataset, method: Method, source: str) -> None:
    takes = method.card.structures
    if "any" in takes or "columns" in takes:
        return
    if (dataset.kind == "images" and "images" in takes) or (dataset.texts is not None and "text" in takes):
        return
    held = {"images": "images", "text": "text", "columns": f"the columns {', '.join(dataset.columns)}"}[dataset.kind]
    remedy = {
        "images": "Use pixels, or model@BLOCK with an image classifier.",
        "text": "Use tfidf, builtin:minilm, or model@BLOCK with a language model.",
        "columns": "Use tabular, column:NAME for a column of vectors, or say `text:` with the name of a text column.",
    }[dataset.kind]
    raise DataError(f"{source} embeds {' or '.join(takes)}, and {dataset.name} has {held}.", remedy)


@contextmanager
def _alone(file: Path, watcher: Watcher) -> Iterator[None]:
    """Hold this embedding: two processes that want it at once do not both make it. The one that waits hears a stop."""
    lock = FileLock(file.with_suffix(".lock"))
    while not lock.is_locked:
        watcher.check()
        try:
            lock.acquire(timeout=0.5)
        except Timeout:
            continue
    try:
        yield
    finally:
        lock.release()


def _write(file: Path, dataset: Dataset, method: Method, embedding: Embedding, loaded: Any, watcher: Watcher, seed: int) -> None:
    """Make the vectors and put them into `file`, by way of one beside it that a stop leaves for the next time."""
    part, told = file.with_suffix(".part"), file.with_suffix(".json")
    names = inspect.signature(method.function).parameters
    done = _done(part, told) if "start" in names else 0
    have = {
        "images": dataset.images,
        "texts": dataset.texts,
        "dataset": dataset,
        "frame": dataset.frame if "frame" in names else None,
        "argument": argument(embedding.source),
        "loaded": loaded,
        "watcher": watcher,
        "seed": seed,
        "start": done,
    }
    if done:
        watcher.say(
            Progress(
                STAGE, kind="note", text=f"{done:,} of {len(dataset):,} rows were embedded before the stop; the rest follow."
            )
        )
    try:
        _fill(part, told, method(have, embedding.params), dataset, embedding.source, done, watcher)
        part.replace(file)
    except OSError as error:
        raise folder.disk_error(error, file) from None
    except (DataError, RecipeError):
        part.unlink(missing_ok=True)
        raise
    told.unlink(missing_ok=True)
    evict(file.parent, "*.[np][pa]*", _CACHE_BYTES, file)


def _done(part: Path, told: Path) -> int:
    """How many rows an embedding that was stopped has written."""
    return int(folder.read_json(told)["rows"]) if part.exists() and told.exists() else 0


def _fill(part: Path, told: Path, made: Any, dataset: Dataset, source: str, done: int, watcher: Watcher) -> None:
    """Write what the method gives, an array of all rows or pieces of rows in order, and after each piece how far it is."""
    pieces = [made] if isinstance(made, np.ndarray) else made
    out = np.lib.format.open_memmap(part, mode="r+") if done else None
    at, broken = done, []
    for piece in pieces:
        piece = np.ascontiguousarray(piece, dtype=np.float32)
        if piece.ndim != 2 or piece.shape[1] == 0 or at + len(piece) > len(dataset):
            raise _wrong_shape(source, (at + len(piece), *piece.shape[1:]), dataset)
        if out is None:
            out = np.lib.format.open_memmap(part, mode="w+", dtype=np.float32, shape=(len(dataset), piece.shape[1]))
        if piece.shape[1] != out.shape[1]:
            raise _wrong_shape(source, (at + len(piece), piece.shape[1]), dataset)
        broken += dataset.row[at : at + len(piece)][~np.isfinite(piece).all(axis=1)].tolist()
        out[at : at + len(piece)] = piece
        at += len(piece)
        out.flush()
        folder.write_json(told, {"rows": at if not broken else done})
        watcher.say(Progress(STAGE, at, len(dataset)))
        if at < len(dataset):
            watcher.check()
    if at != len(dataset):
        raise _wrong_shape(source, (at, *(out.shape[1:] if out is not None else (0,))), dataset)
    if broken:
        rows = ", ".join(map(str, broken[:5])) + (" ..." if len(broken) > 5 else "")
        raise DataError(
            f"{source} gives no finite vector for {len(broken)} rows (the first: {rows}).",
            "Correct or remove those rows, or embed otherwise.",
        )


def _wrong_shape(source: str, shape: tuple[int, ...], dataset: Dataset) -> RecipeError:
    return RecipeError(f"{source} gave vectors of shape {shape} for {len(dataset)} rows.", "Mend the method, or choose another.")
