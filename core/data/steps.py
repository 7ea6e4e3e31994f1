"""The data half of a run: load, embed, cluster, project, score and select, prove; and what it leaves in the run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from core import folder
from core.catalogue import embedding_method
from core.data import cross as crossing
from core.data import prove as proving
from core.data.clusters import Clusters, cluster
from core.data.dataset import Dataset
from core.data.embedding import argument, embed
from core.data.evidence import Beside
from core.data.exporting import save_rows
from core.data.loading import load
from core.data.projection import drawn, project
from core.data.selection import Selection, decide, write_frame, write_selection
from core.events import Progress, Watcher
from core.recipe import Projection, Recipe


def run_data(recipe: Recipe, path: Path, watcher: Watcher, loaded: Any = None) -> dict[str, Any]:
    """Do what a resolved recipe says about data, write selection.parquet, selection.csv and points.parquet, and return report fields.

    `loaded`: the opened LoadedModel, for `model@BLOCK`. Returns {"data": {...}, "prove": [...]}. The same recipe, seed, versions and thread
    count give the same files, byte for byte. Raises what its parts raise; what was written before stays.
    """
    assert recipe.data is not None
    dataset = open_rows(recipe, watcher)
    if recipe.prove:
        proving.check(dataset, recipe)  # said now, not after minutes of embedding
    if recipe.cross:
        crossing.check(dataset, recipe)
    vectors = embed(dataset, recipe.embedding, loaded, watcher, recipe.seed)
    clusters = cluster(vectors, recipe.clusters, recipe.seed, watcher)
    places, trust = project(vectors, recipe.projection or Projection(), recipe.seed, watcher, clusters.assignment)
    _write_points(path, dataset, clusters, places, trust)
    selection = None
    if recipe.cross:
        return {
            "data": _facts(recipe, dataset, vectors, clusters, None),
            "cross": crossing.cross(dataset, vectors, recipe, watcher, path, loaded),
        }
    if recipe.select:
        watcher.check()
        watcher.say(Progress("select", 0, 1))
        beside = Beside(recipe.data, recipe.embedding, loaded, watcher)
        selection = decide(dataset, vectors, clusters, recipe.select, recipe.seed, beside=beside)
        write_selection(selection, path)
        if recipe.save.data:
            save_rows(dataset, selection, recipe, path / folder.DATA, watcher)
        watcher.say(Progress("select", 1, 1))
    lines = proving.prove(dataset, vectors, recipe, watcher, path, loaded) if recipe.prove and recipe.select else []
    told = _facts(recipe, dataset, vectors, clusters, selection)
    return {"data": {**told, **proving.facts(recipe, dataset, lines)}, "prove": lines}


def open_rows(recipe: Recipe, watcher: Watcher) -> Dataset:
    """The recipe's rows; says how many bad ones were skipped."""
    assert recipe.data is not None
    watcher.check()
    watcher.say(Progress("load", 0, 1))
    column = argument(recipe.embedding.source) if embedding_method(recipe.embedding.source) == "column" else None
    dataset = load(recipe.data, column)
    if dataset.bad_rows:
        watcher.say(Progress("load", kind="note", text=f"{len(dataset.bad_rows)} bad rows were skipped, as asked."))
    for note in dataset.notes:
        watcher.say(Progress("load", kind="note", text=note))
    watcher.say(Progress("load", 1, 1))
    return dataset


def _write_points(path: Path, dataset: Dataset, clusters: Clusters, places: np.ndarray, trust: np.ndarray) -> None:
    frame = pd.DataFrame(
        {"row": dataset.row, "x": places[:, 0], "y": places[:, 1], "cluster": clusters.assignment, "trust": trust}
    )
    write_frame(frame, path / folder.POINTS)


def _facts(
    recipe: Recipe, dataset: Dataset, vectors: np.ndarray, clusters: Clusters, selection: Selection | None
) -> dict[str, Any]:
    """What report.json says about the data."""
    return {
        "name": dataset.name,
        "rows": len(dataset),
        "kept": int(selection.kept.sum()) if selection else None,
        "bad_rows": len(dataset.bad_rows),
        "classes": len(dataset.label_names),
        "fingerprint": dataset.fingerprint,
        "embedding": recipe.embedding.source,
        "features": int(vectors.shape[1]),
        "clusters": len(clusters),
        "cluster_sizes": clusters.sizes.tolist(),
        "unclustered": clusters.unclustered,
        "projection": (recipe.projection or Projection()).method,
        "projected_rows": _projected(recipe, clusters),
        "notes": list(dataset.notes),
        "protocol": None,
    }


def _projected(recipe: Recipe, clusters: Clusters) -> int:
    """How many rows the projection itself laid out: fewer than all where they are too many for it."""
    rows = len(clusters.assignment)
    some = drawn(rows, recipe.projection or Projection(), recipe.seed, clusters.assignment)
    return rows if some is None else len(some)
