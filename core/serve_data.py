"""The data part of the interactive worker: open rows, map them, order them, show them, find what is near. See core/serve.py.

Numbers for thousands of rows travel as a parquet file in the worker's cache folder; pictures of a few rows as data: URIs made here.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from core.catalogue import embedding_method, resolve
from core.data.clusters import Clusters, cluster, unit
from core.data.dataset import Dataset
from core.data.embedding import cache_file, embed
from core.data.evidence import Beside
from core.data.loading import load
from core.data.mapped import is_vector
from core.data.methods import cards
from core.data.projection import pca, trust
from core.data.selection import generator, score_rows, seconds_to_score, write_frame
from core.errors import DataError
from core.events import Silent
from core.recipe import Data, Recipe, parse
from core.serve_points import ASKS as POINT_ASKS
from core.serve_points import Plane, position, words_column

# Rows that an embedding makes in a second here, in float32 on one slow core: beyond ten seconds it is a run, with progress and Stop.
ROWS_A_SECOND = {"minilm": 80, "model": 40}
LONGEST_WAIT_S = 10
# Of more rows than MOST_CLUSTERED, k-means sees CLUSTERED_FROM drawn by chance, and the others join the nearest centre.
MOST_CLUSTERED, CLUSTERED_FROM = 100_000, 10_000
_TEXT_SHOWN = 300


@dataclass(frozen=True)
class Laid:
    """An embedding's rows on PCA's map: another order of the rows does not move them."""

    places: np.ndarray
    trust: np.ndarray
    plane: Plane


@dataclass
class OpenData:
    """The data set that is open, and what has been made of it so far."""

    dataset: Dataset
    asked: tuple[Any, ...] = ()
    made: dict[str, tuple[np.ndarray, Clusters]] = field(default_factory=dict)
    last: str = ""
    laid: dict[str, Laid] = field(default_factory=dict)
    planes: dict[str, Plane] = field(default_factory=dict)  # of the map that was drawn last and of runs' maps, by their files
    lengths: dict[str, np.ndarray] = field(default_factory=dict)
    wrong: dict[str, np.ndarray] = field(default_factory=dict)


def open_data(
    session: Any,
    source: str,
    text: str | None = None,
    label: str | None = None,
    skip_bad_rows: bool = False,
    vectors: str | None = None,
) -> dict[str, Any]:
    """Open rows and say what they are; nothing is read again where they are open already and the file is unchanged.

    The data set held before is given up first. Raises BadRows, DataError as core.data.loading.load.
    """
    asked = (source, text, label, skip_bad_rows, vectors, _stamp(source))
    held = session.parts.get("data")
    if held is None or held.asked != asked:
        session.parts.pop("data", None)
        session.parts["data"] = OpenData(
            load(Data(source=source, text=text, label=label, skip_bad_rows=skip_bad_rows), vectors), asked
        )
    dataset = session.parts["data"].dataset
    counts = np.bincount(dataset.labels, minlength=len(dataset.label_names)) if dataset.labels is not None else []
    return {
        "name": dataset.name,
        "kind": dataset.kind,
        "words": words_column(dataset),
        "rows": len(dataset),
        "columns": list(dataset.columns),
        "label_names": list(dataset.label_names),
        "class_counts": [int(count) for count in counts],
        "bad_rows": [[row, reason] for row, reason in dataset.bad_rows],
        "embeddings": _suiting(dataset),
        "vector_columns": [name for name in dataset.columns if _is_vector(dataset.mapped.table.column(name))],
        "notes": list(dataset.notes),
        "image_shape": list(dataset.images.shape[1:]) if dataset.images is not None else None,
    }


def map_data(session: Any, recipe: dict[str, Any]) -> dict[str, Any]:
    """Embed, cluster, lay out (PCA) and order the open rows as a recipe says (embedding, clusters, select, seed).

    Answers {"ready": True, "points": path of a parquet file with row, x, y, trust, cluster, label, score, rank; "sizes", "features",
    "trust": mean, "of": the embedding's name for `neighbours` and `mistakes`, "unclustered": the number of the cluster that holds the noise, or None,
    "clustered_from": rows that clusters were made of}, or
    {"ready": False, "seconds": estimate} where the embedding or the score is too long for a question and has to be a run.
    `rank` 0 is kept first.
    """
    opened, whole = opened_of(session), resolve(parse(recipe), cards())
    wait_s = seconds_to_embed(opened.dataset, whole, session.loaded)
    if wait_s > LONGEST_WAIT_S:
        return {"ready": False, "seconds": wait_s}
    vectors, clusters = grouped(opened, whole, session.loaded)
    wait_s = seconds_to_score(opened.dataset, vectors, whole.select, whole.seed, session.loaded) if whole.select else 0.0
    if wait_s > LONGEST_WAIT_S:
        return {"ready": False, "seconds": wait_s}
    beside = Beside(whole.data, whole.embedding, session.loaded)
    score, rank = _order(opened.dataset, vectors, clusters, whole, beside)
    if opened.last not in opened.laid:
        places = pca(vectors)
        opened.laid[opened.last] = Laid(places, trust(vectors, places, whole.seed), Plane.of(places[:, 0], places[:, 1]))
    laid = opened.laid[opened.last]
    frame = pd.DataFrame(
        {
            "row": opened.dataset.row,
            "x": laid.places[:, 0],
            "y": laid.places[:, 1],
            "trust": laid.trust,
            "cluster": clusters.assignment,
        }
    )
    labels = opened.dataset.labels if opened.dataset.labels is not None else np.full(len(vectors), -1)
    frame = frame.assign(label=labels.astype(np.int32), score=score, rank=rank)
    file = _write(session.cache, frame)
    opened.planes = {str(file): laid.plane}
    return {
        "ready": True,
        "points": str(file),
        "of": opened.last,
        "sizes": clusters.sizes.tolist(),
        "unclustered": clusters.unclustered,
        "features": int(vectors.shape[1]),
        "trust": float(laid.trust.mean()),
        "clustered_from": min(len(vectors), CLUSTERED_FROM) if len(vectors) > MOST_CLUSTERED else len(vectors),
    }


def rows(session: Any, rows: list[int], pixels: int = 56) -> list[dict[str, Any]]:
    """These rows (by their numbers) as a table shows them: label, text (its first 300 signs) or `picture` (a data: URI), and other columns."""
    dataset = opened_of(session).dataset
    found = [position(dataset, row) for row in rows]
    if None in found:
        unknown = rows[found.index(None)]
        raise DataError(f"{dataset.name} has no row {unknown}.", f"Its rows are numbered {dataset.row[0]} to {dataset.row[-1]}.")
    return [_shown(dataset, at, pixels) for at in found if at is not None]


ASKS: dict[str, Callable[..., Any]] = {"open_data": open_data, "map_data": map_data, "rows": rows, **POINT_ASKS}


def opened_of(session: Any) -> OpenData:
    if "data" not in session.parts:
        raise DataError("No data set is open.", "Open one in the Data room.")
    return session.parts["data"]


def _is_vector(column: Any) -> bool:
    """Does the column hold lists of more than one number, judged by its first row?"""
    return is_vector(column.type) and len(column[0].as_py() or ()) > 1


def _stamp(source: str) -> tuple[int, int] | None:
    """When the file was written, and its size; None for what is not a file."""
    try:
        found = Path(source).expanduser().stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _suiting(dataset: Dataset) -> list[dict[str, str]]:
    """The embeddings that can read this kind of data."""
    found = [card for card in cards() if card.kind == "embedding"]
    kinds = {"any", dataset.kind, "text" if dataset.texts is not None else ""}
    return [{"name": card.name, "label": card.label, "summary": card.summary} for card in found if kinds & set(card.structures)]


def seconds_to_embed(dataset: Dataset, recipe: Recipe, loaded: Any) -> float:
    """How long the embedding will take at the most: 0 where it lies in the cache."""
    name = embedding_method(recipe.embedding.source)
    if name not in ROWS_A_SECOND or cache_file(dataset, recipe.embedding, loaded, recipe.seed).exists():
        return 0.0
    return len(dataset) / ROWS_A_SECOND[name]


def grouped(opened: OpenData, recipe: Recipe, loaded: Any) -> tuple[np.ndarray, Clusters]:
    """Vectors and clusters, kept while the data set is open."""
    file = cache_file(opened.dataset, recipe.embedding, loaded, recipe.seed)
    key = f"{file.stem} {recipe.clusters!r} {recipe.seed}"
    if key not in opened.made:
        vectors = embed(opened.dataset, recipe.embedding, loaded, Silent(), recipe.seed)
        opened.made[key] = vectors, _clustered(vectors, recipe)
    opened.last = key
    return opened.made[key]


def _clustered(vectors: np.ndarray, recipe: Recipe) -> Clusters:
    """Clusters of all rows; of very many, of some of them drawn by chance, as a question has to be answered in seconds: the rest join the nearest."""
    if len(vectors) <= MOST_CLUSTERED:
        return cluster(vectors, recipe.clusters, recipe.seed)
    some = np.sort(generator(recipe.seed, "clusters").permutation(len(vectors))[:CLUSTERED_FROM])
    few = cluster(vectors[some], recipe.clusters, recipe.seed)
    nearest = [(unit(vectors[at : at + 16_384]) @ few.centroids.T).argmax(axis=1) for at in range(0, len(vectors), 16_384)]
    assignment = np.concatenate(nearest).astype(np.int32)
    return Clusters(assignment, few.centroids, np.bincount(assignment, minlength=len(few)))


def _order(
    dataset: Dataset, vectors: np.ndarray, clusters: Clusters, recipe: Recipe, beside: Beside
) -> tuple[np.ndarray, np.ndarray]:
    """Score and rank of each row. Where the selection has no score, its rank is the order in which chance would take the rows."""
    assert recipe.select is not None
    scores = score_rows(dataset, vectors, clusters, recipe.select, recipe.seed, beside)
    if recipe.select.score is None:
        order = generator(recipe.seed, "select").permutation(len(dataset))
    else:
        order = np.lexsort((np.arange(len(scores)), -scores.astype(np.float64)))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return scores, rank


def _write(cache: Path, frame: pd.DataFrame) -> Path:
    """The frame under a name made from its content: an equal map is an equal file."""
    content = hashlib.sha256(json.dumps(list(frame)).encode())
    for name in frame:
        content.update(np.ascontiguousarray(frame[name].to_numpy()))
    file = cache / f"points-{content.hexdigest()[:24]}.parquet"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        write_frame(frame, file)
    return file


def _shown(dataset: Dataset, at: int, pixels: int) -> dict[str, Any]:
    line: dict[str, Any] = {"row": int(dataset.row[at])}
    if dataset.labels is not None:
        line["label"] = dataset.label_names[dataset.labels[at]]
    if dataset.texts is not None:
        line["text"] = dataset.texts[at][:_TEXT_SHOWN]
    if dataset.images is not None:
        line["picture"] = picture(dataset.images[at], pixels)
    elif dataset.texts is None:
        values = dataset.mapped.take(np.array([at]))
        line["text"] = ", ".join(f"{name}: {str(values.column(name)[0])[:40]}" for name in dataset.columns)[:_TEXT_SHOWN]
    return line


def picture(image: np.ndarray, pixels: int) -> str:
    """A grey image as a data: URI of a PNG, dark on light as ink on paper, enlarged without smoothing."""
    from PIL import Image

    grey = Image.fromarray((255 - np.clip(image, 0, 1) * 255).astype(np.uint8))
    out = io.BytesIO()
    grey.resize((pixels, pixels), Image.Resampling.NEAREST).save(out, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
