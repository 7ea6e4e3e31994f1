"""A data set as vectors, kept in the cache by content, so that the same rows are never embedded twice."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from core import folder
from core.builtins import cache_dir
from core.catalogue import embedding_method
from core.data.dataset import Dataset
from core.data.methods import get
from core.errors import DataError, RecipeError
from core.events import Progress, Watcher
from core.method import Method
from core.recipe import Embedding

STAGE = "embed"
_CACHE_BYTES = 4_000_000_000  # the oldest embeddings go when the cache grows beyond this


def embed(dataset: Dataset, embedding: Embedding, loaded: Any, watcher: Watcher, seed: int = 0) -> np.ndarray:
    """The rows as float32 (rows, features), memory-mapped from the cache where they have been embedded before.

    `loaded`: the opened LoadedModel, for `model@BLOCK`; else None. Raises DataError where the method cannot embed this kind of data or a
    vector is not finite, RecipeError for an unknown method.
    """
    method = get("embedding", embedding_method(embedding.source))
    _check_kind(dataset, method, embedding.source)
    file = cache_file(dataset, embedding, loaded, seed)
    watcher.check()
    watcher.say(Progress(STAGE, 0, len(dataset)))
    if not file.exists():
        have = {"images": dataset.images, "texts": dataset.texts, "frame": dataset.frame, "argument": argument(embedding.source)}
        vectors = method({**have, "loaded": loaded, "watcher": watcher, "seed": seed}, embedding.params)
        _keep(file, _checked(np.ascontiguousarray(vectors, dtype=np.float32), dataset, embedding.source))
    watcher.say(Progress(STAGE, len(dataset), len(dataset)))
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
    if "any" in takes or (dataset.kind == "images" and "images" in takes) or (dataset.texts is not None and "text" in takes):
        return
    held = {"images": "images", "text": "text", "columns": f"the columns {', '.join(dataset.columns)}"}[dataset.kind]
    remedy = {
        "images": "Use pixels, or model@BLOCK with an image classifier.",
        "text": "Use tfidf, builtin:minilm, or model@BLOCK with a language model.",
        "columns": "Say `text:` with the name of a text column, or use column:NAME for a column of vectors.",
    }[dataset.kind]
    raise DataError(f"{source} embeds {' or '.join(takes)}, and {dataset.name} has {held}.", remedy)


def _checked(vectors: np.ndarray, dataset: Dataset, source: str) -> np.ndarray:
    if vectors.ndim != 2 or len(vectors) != len(dataset) or vectors.shape[1] == 0:
        raise RecipeError(
            f"{source} gave vectors of shape {vectors.shape} for {len(dataset)} rows.", "Mend the method, or choose another."
        )
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        rows = ", ".join(str(row) for row in dataset.row[broken[:5]])
        raise DataError(
            f"{source} gives no finite vector for {len(broken)} rows (the first: {rows}).",
            "Correct or remove those rows, or embed otherwise.",
        )
    return vectors


def _keep(file: Path, vectors: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    np.save(content, vectors)
    folder.write_bytes(file, content.getvalue())
    kept = sorted(file.parent.glob("*.npy"), key=lambda path: path.stat().st_mtime, reverse=True)
    total = 0
    for path in kept:
        total += path.stat().st_size
        if total > _CACHE_BYTES and path != file:
            path.unlink(missing_ok=True)
