"""A second data set that a selection aims at: its rows, and both sets as vectors of one space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from core.catalogue import embedding_method
from core.data.dataset import Dataset
from core.data.embedding import argument, embed
from core.data.loading import load
from core.data.methods import get
from core.errors import DataError
from core.events import Watcher
from core.recipe import Data, Embedding


@dataclass(frozen=True)
class Target:
    """`dataset`: its rows. `embedded()`: (vectors of the rows to choose from, vectors of the target), of one space; made when asked for."""

    dataset: Dataset
    embedded: Callable[[], tuple[np.ndarray, np.ndarray]]

    def texts(self, why: str) -> list[str]:
        if self.dataset.texts is None:
            raise DataError(
                f"The target {self.dataset.name} has no text, and {why} reads it.", "Name a target with a text column."
            )
        return self.dataset.texts


def open_target(
    source: str,
    dataset: Dataset,
    vectors: np.ndarray,
    data: Data | None,
    embedding: Embedding,
    loaded: Any,
    watcher: Watcher,
    seed: int,
    why: str,
) -> Target:
    """The rows of `source`: builtin:NAME, a file or a hub id. A file's text column is called as in `data`, or `text`.

    An embedding that fits itself to the rows it sees (tfidf) embeds both sets together anew; any other embeds the target alone.
    """
    if not source.strip():
        raise DataError(
            f"{why} aims at a target, and none is named.", "Add params: {target: ...}, with builtin:NAME, a file or a hub id."
        )
    text = data.text if data and not source.startswith("builtin:") else None
    column = argument(embedding.source) if embedding_method(embedding.source) == "column" else None
    asked = source if source.startswith("builtin:") or "/" in source else str(Path(source))
    target = load(Data(source=asked, text=text, skip_bad_rows=bool(data and data.skip_bad_rows)), column)

    def embedded() -> tuple[np.ndarray, np.ndarray]:
        if get("embedding", embedding_method(embedding.source)).extra.get("fits"):
            both = embed(_joined(dataset, target), embedding, loaded, watcher, seed)
            return np.asarray(both[: len(dataset)]), np.asarray(both[len(dataset) :])
        aimed = np.asarray(embed(target, embedding, loaded, watcher, seed))
        if aimed.shape[1] != vectors.shape[1]:
            raise DataError(
                f"The target {target.name} gives vectors of {aimed.shape[1]} numbers, the rows have {vectors.shape[1]}.",
                "Name a target of the same kind, or embed otherwise.",
            )
        return vectors, aimed

    return Target(target, embedded)


def _joined(dataset: Dataset, target: Dataset) -> Dataset:
    """The texts of both, one after the other: all that an embedding that fits itself reads."""
    texts = [*(dataset.texts or []), *(target.texts or [])]
    if len(texts) != len(dataset) + len(target):
        raise DataError(f"{dataset.name} and {target.name} do not both have text.", "Name a target of the same kind.")
    frame = pd.DataFrame({"row": np.arange(len(texts), dtype=np.int64), "text": texts})
    return Dataset(f"{dataset.name} and {target.name}", frame, texts)
