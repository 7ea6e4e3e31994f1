"""Decide which rows to keep, and write the decision."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from core import folder
from core.data import dynamics
from core.data.clusters import Clusters
from core.data.dataset import Dataset
from core.data.draws import generator as generator
from core.data.evidence import Beside, Evidence
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


def score_rows(
    dataset: Dataset, vectors: np.ndarray, clusters: Clusters, select: Select, seed: int, beside: Beside | None = None
) -> np.ndarray:
    """The scores that `select` asks for, float32 (rows,); NaN where it chooses without a score. Raises DataError on a broken score.

    `beside`: for scores that read the rows with a model, or aim at a target.
    """
    if select.score is None:
        return np.full(len(dataset), np.nan, dtype=np.float32)
    method, params = get("data_score", select.score), _params(select, "data_score")
    have = Evidence(dataset, vectors, clusters, seed, select.score, method, params, beside)
    scores = np.asarray(method(have, params))
    if scores.shape != (len(dataset),) or np.isnan(scores).any():
        raise DataError(
            f"{select.score} gave no score for some rows.", "Choose another score, or look for broken rows in the data."
        )
    return scores.astype(np.float32)


def seconds_to_score(dataset: Dataset, vectors: np.ndarray, select: Select, seed: int, loaded: Any = None) -> float:
    """About how long `score_rows` trains or reads with a model: 0 for other scores, and for what lies in the cache already."""
    if select.score is None:
        return 0.0
    needs, params = get("data_score", select.score).needs, _params(select, "data_score")
    if "dynamics" in needs and dataset.labels is not None:
        return dynamics.seconds(vectors, dataset.labels, *(params[name] for name in ("learner", "seeds", "epochs")), seed)
    if "loaded" in needs and loaded is not None and dataset.texts is not None:
        from core.data import documents

        return documents.seconds(dataset.texts, loaded, params["tokens"])
    return 0.0


def decide(
    dataset: Dataset,
    vectors: np.ndarray,
    clusters: Clusters,
    select: Select,
    seed: int,
    share: float | None = None,
    scores: np.ndarray | None = None,
    beside: Beside | None = None,
) -> Selection:
    """Keep `share` of the rows (by default the recipe's `keep`): the nearest whole number of rows, exactly. `scores`: where they are known already.

    Where no share is said and the score decides by itself, the rows of a score of 0 or more stay. `select` is resolved (core.catalogue.resolve). The
    same rows, vectors, recipe and seed give the same selection.
    """
    share = select.keep if share is None else share
    scores = score_rows(dataset, vectors, clusters, select, seed, beside) if scores is None else scores
    if share is not None:
        kept = _chosen(dataset, vectors, clusters, select, seed, kept_count(len(dataset), share), scores, beside)
    elif select.score and get("data_score", select.score).card.decides:
        kept = scores >= 0
        share = float(kept.mean())
    else:
        raise DataError("The selection does not say what share to keep.", "Add keep, such as keep: 0.3.")
    frame = pd.DataFrame({"row": dataset.row, "score": scores, "kept": kept, "cluster": clusters.assignment})
    return Selection(frame, share)


def _chosen(
    dataset: Dataset,
    vectors: np.ndarray,
    clusters: Clusters,
    select: Select,
    seed: int,
    count: int,
    scores: np.ndarray,
    beside: Beside | None,
) -> np.ndarray:
    """What the selector keeps, bool (rows,): exactly `count` rows."""
    method, params = get("selector", select.selector or "top"), _params(select, "selector")
    have = Evidence(dataset, vectors, clusters, seed, "select", method, params, beside, scores=scores, count=count)
    kept = np.asarray(method(have, params), dtype=bool)
    if int(kept.sum()) != count:
        raise DataError(
            f"The selector {select.selector} kept {int(kept.sum())} rows instead of {count}.", "Choose another selector."
        )
    return kept


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


def _params(select: Select, kind: str) -> dict[str, object]:
    name = select.score if kind == "data_score" else select.selector or "top"
    known = {param.name for param in get(kind, name or "").card.params}
    return {key: value for key, value in select.params.items() if key in known}
