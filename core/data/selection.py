"""Decide which rows to keep, and write the decision."""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from core import folder
from core.data.clusters import Clusters
from core.data.dataset import Dataset
from core.data.methods import get
from core.errors import DataError
from core.recipe import Select

_TYPES = {"row": pa.int64(), "score": pa.float32(), "kept": pa.bool_(), "cluster": pa.int32(), "x": pa.float32(), "y": pa.float32(),
          "trust": pa.float32()}  # fmt: skip


@dataclass(frozen=True)
class Selection:
    """`frame` has a line for each row of the data: `row` (number in the source), `score` (higher = keep first), `kept`, `cluster`."""

    frame: pd.DataFrame
    share: float

    @property
    def kept(self) -> np.ndarray:
        return self.frame["kept"].to_numpy()


def score_rows(dataset: Dataset, vectors: np.ndarray, clusters: Clusters, select: Select, seed: int) -> np.ndarray:
    """The scores that `select` asks for, float32 (rows,); NaN where it chooses without a score. Raises DataError on a broken score."""
    if select.score is None:
        return np.full(len(dataset), np.nan, dtype=np.float32)
    scores = np.asarray(
        get("data_score", select.score)(_have(dataset, vectors, clusters, select.score, seed), _params(select, "data_score"))
    )
    if scores.shape != (len(dataset),) or np.isnan(scores).any():
        raise DataError(
            f"{select.score} gave no score for some rows.", "Choose another score, or look for broken rows in the data."
        )
    return scores.astype(np.float32)


def decide(
    dataset: Dataset,
    vectors: np.ndarray,
    clusters: Clusters,
    select: Select,
    seed: int,
    share: float | None = None,
    scores: np.ndarray | None = None,
) -> Selection:
    """Keep `share` of the rows (by default the recipe's `keep`): the nearest whole number of rows, exactly. `scores`: where they are known already.

    `select` is resolved (core.catalogue.resolve). The same rows, vectors, recipe and seed give the same selection.
    """
    share = select.keep if share is None else share
    if share is None:
        raise DataError("The selection does not say what share to keep.", "Add keep, such as keep: 0.3.")
    count = kept_count(len(dataset), share)
    scores = score_rows(dataset, vectors, clusters, select, seed) if scores is None else scores
    chosen = get("selector", select.selector or "top")
    have = {**_have(dataset, vectors, clusters, "select", seed), "scores": scores, "count": count}
    kept = np.asarray(chosen(have, _params(select, "selector")), dtype=bool)
    if int(kept.sum()) != count:
        raise DataError(
            f"The selector {select.selector} kept {int(kept.sum())} rows instead of {count}.", "Choose another selector."
        )
    frame = pd.DataFrame({"row": dataset.row, "score": scores, "kept": kept, "cluster": clusters.assignment})
    return Selection(frame, share)


def kept_count(rows: int, share: float) -> int:
    """The share of the rows as a whole number, halves upwards, at least one."""
    return min(max(1, int(np.floor(rows * share + 0.5))), rows)


def write_selection(selection: Selection, path: Path) -> None:
    """selection.parquet and selection.csv into a folder. Equal selections are equal files, byte for byte."""
    write_frame(selection.frame, path / folder.SELECTION)
    text = selection.frame.to_csv(index=False, lineterminator="\n")
    folder.write_text((path / folder.SELECTION).with_suffix(".csv"), text)


def write_frame(frame: pd.DataFrame, file: Path) -> None:
    """A frame of rows as parquet without anything that changes from run to run (no pandas metadata, one row group)."""
    columns = {name: pa.array(frame[name].to_numpy(), type=_TYPES.get(str(name))) for name in frame.columns}
    content = io.BytesIO()
    pq.write_table(pa.table(columns), content, compression="zstd", row_group_size=max(len(frame), 1))
    folder.write_bytes(file, content.getvalue())


def generator(seed: int, purpose: str) -> np.random.Generator:
    """numpy's generator for one purpose, so that asking for one thing more never changes another."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])


def _have(dataset: Dataset, vectors: np.ndarray, clusters: Clusters, purpose: str, seed: int) -> dict[str, object]:
    return {
        "rows": len(dataset),
        "vectors": vectors,
        "clusters": clusters.assignment,
        "centroids": clusters.centroids,
        "labels": dataset.labels,
        "generator": generator(seed, purpose),
    }


def _params(select: Select, kind: str) -> dict[str, object]:
    name = select.score if kind == "data_score" else select.selector or "top"
    known = {param.name for param in get(kind, name or "").card.params}
    return {key: value for key, value in select.params.items() if key in known}
