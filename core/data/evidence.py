"""What data scores and selectors may ask for, made when it is first asked for: a method that names none of the dear things pays for none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from core.data import dynamics, neighbours
from core.data.clusters import Clusters
from core.data.dataset import Dataset, need_labels
from core.data.draws import generator
from core.data.target import open_target
from core.errors import DataError, ModelError
from core.events import Silent, Watcher
from core.method import Method
from core.recipe import Data, Embedding

_SHOWN = 5
_CHUNK_ROWS = 65_536


@dataclass(frozen=True)
class Beside:
    """What lies beside the rows: how they were opened and embedded, the opened LoadedModel (or None), who watches, and what rows lose by pruning
    (core.data.damaged.Damaged, of these rows and maybe more; None where nothing is pruned)."""

    data: Data | None = None
    embedding: Embedding = field(default_factory=Embedding)
    loaded: Any = None
    watcher: Watcher = field(default_factory=Silent)
    damaged: Any = None


class Evidence(Mapping[str, Any]):
    """The names that a data score or selector may give its parameters, each made at its first use and held."""

    def __init__(
        self,
        dataset: Dataset,
        vectors: np.ndarray,
        clusters: Clusters,
        seed: int,
        purpose: str,
        method: Method,
        params: Mapping[str, Any],
        beside: Beside | None = None,
        **known: Any,
    ):
        beside = beside or Beside()
        why = method.card.label
        self._held: dict[str, Any] = dict(known)
        self._make: dict[str, Callable[[], Any]] = {
            "rows": lambda: len(dataset),
            "row": lambda: dataset.row,
            "vectors": lambda: _finite(vectors, dataset),
            "clusters": lambda: clusters.assignment,
            "centroids": lambda: clusters.centroids,
            "labels": lambda: need_labels(dataset, why) if "labels" in method.needs else dataset.labels,
            "texts": lambda: _texts(dataset, why),
            "frame": lambda: dataset.frame,
            "generator": lambda: generator(seed, purpose),
            "neighbours": lambda: partial(neighbours.nearest, self["vectors"]),
            "dynamics": lambda: partial(
                dynamics.record, self["vectors"], need_labels(dataset, why), seed=seed, watcher=beside.watcher
            ),
            "loaded": lambda: _model(beside.loaded, why),
            "watcher": lambda: beside.watcher,
            "damaged": lambda: _damaged(beside.damaged, dataset, why),
        }
        for param in method.card.params:
            if param.grammar == "data":
                source = str(dict(params).get(param.name, param.default))
                self._make[f"{param.name}_rows"] = lambda source=source: open_target(
                    source, dataset, self["vectors"], beside.data, beside.embedding, beside.loaded, beside.watcher, seed, why
                )

    def __getitem__(self, name: str) -> Any:
        if name not in self._held:
            self._held[name] = self._make[name]()
        return self._held[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self._make, **self._held})

    def __len__(self) -> int:
        return len({**self._make, **self._held})


def _finite(vectors: np.ndarray, dataset: Dataset) -> np.ndarray:
    sound = [np.isfinite(vectors[at : at + _CHUNK_ROWS]).all(axis=1) for at in range(0, len(vectors), _CHUNK_ROWS)]
    broken = np.flatnonzero(~np.concatenate(sound))
    if len(broken):
        raise DataError(
            f"The vectors of {len(broken)} rows hold NaN or infinity (row numbers {_numbers(dataset, broken)}).",
            "Correct or remove those rows, or embed otherwise.",
        )
    return vectors


def _texts(dataset: Dataset, why: str) -> list[str]:
    if dataset.texts is None:
        raise DataError(
            f"{dataset.name} has no text, and {why} reads it.",
            f"Say which column holds it with `text:`; there are: {', '.join(dataset.columns)}.",
        )
    empty = np.flatnonzero([not text.strip() for text in dataset.texts])
    if len(empty):
        raise DataError(
            f"{len(empty)} rows of {dataset.name} have an empty text (row numbers {_numbers(dataset, empty)}).",
            "Correct them, or set skip_bad_rows to leave them out.",
        )
    return dataset.texts


def _numbers(dataset: Dataset, places: np.ndarray) -> str:
    return ", ".join(str(row) for row in dataset.row[places[:_SHOWN]]) + (" ..." if len(places) > _SHOWN else "")


def _model(loaded: Any, why: str) -> Any:
    if loaded is None:
        raise ModelError(f"{why} reads the rows with a model, and none is open.", "Add model: to the recipe, or open one.")
    return loaded


def _damaged(damaged: Any, dataset: Dataset, why: str) -> Any:
    if damaged is None:
        raise ModelError(
            f"{why} sets a pruned model beside the dense one, and nothing is pruned here.", "Use it with heal in a recipe."
        )
    return damaged.of(dataset.row)
