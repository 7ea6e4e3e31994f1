"""What the Data room shows of an open data set: asks the worker, keeps nothing but what it said, and makes words of it."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from core import folder
from core.errors import DataError
from core.recipe import to_dict
from studio.bench import Bench
from studio.charts.data import WAYS
from studio.parts import facts
from studio.rooms.data.dataplan import Choice, found_map, found_selection, needs_model, to_recipe

_OPEN_S, _MAP_S = 300.0, 300.0


@dataclass(frozen=True, eq=False)  # a State's change is heard where it can be hashed; each view is its own
class View:
    """An open data set as the page holds it: `facts` of open_data, `drawn` of map_data (`ready` False: its embedding has to be run first)."""

    choice: Choice
    facts: dict[str, Any]
    drawn: dict[str, Any]
    held: dict[str, Any] = field(
        default_factory=dict
    )  # "stays": of a selector that the order does not tell, the rows at the share asked last

    @property
    def ready(self) -> bool:
        return bool(self.drawn["ready"])

    @property
    def names(self) -> list[str]:
        return self.facts["label_names"]


def open_view(bench: Bench, choice: Choice) -> View:
    """Ask the worker for the rows and their map. Raises what it says: BadRows' sentence, a missing column, an unknown block."""
    about = _open(bench, choice)
    if choice.embedding == "auto":
        choice = Choice(**{**choice.to_dict(), "embedding": usual_embedding(about)})
    if needs_model(choice) and choice.model:
        bench.worker.ask("open_model", timeout_s=_OPEN_S, source=choice.model)
    drawn = bench.worker.ask("map_data", timeout_s=_MAP_S, recipe=to_dict(to_recipe(choice)))
    return View(choice, about, drawn)


def hold(bench: Bench, choice: Choice) -> None:
    """Have the worker hold these rows; nothing is read again where it does."""
    _open(bench, choice)
    if needs_model(choice) and choice.model:
        bench.worker.ask("open_model", timeout_s=_OPEN_S, source=choice.model)


def _open(bench: Bench, choice: Choice) -> dict[str, Any]:
    vectors = choice.embedding.removeprefix("column:") if choice.embedding.startswith("column:") else None
    asked = {
        "source": choice.source,
        "text": choice.text,
        "label": choice.label,
        "skip_bad_rows": choice.skip,
        "vectors": vectors,
    }
    return bench.worker.ask("open_data", timeout_s=_OPEN_S, **asked)


def usual_embedding(about: dict[str, Any]) -> str:
    """What a data set is embedded with before somebody chooses."""
    if about["vector_columns"]:
        return f"column:{about['vector_columns'][0]}"
    return {"images": "pixels", "text": "tfidf", "columns": "tabular"}[about["kind"]]


def embeddings(about: dict[str, Any], model: dict[str, Any] | None) -> list[tuple[str, str]]:
    """(label, source) of the embeddings that suit the data: with the opened model's first, middle and last block where it can read it."""
    out = []
    for card in about["embeddings"]:
        if card["name"] == "column":
            out += [(f"Column {name}", f"column:{name}") for name in about["vector_columns"]]
        elif card["name"] == "model":
            out += _blocks(about["kind"], model)
        else:
            out.append((card["label"], "builtin:minilm" if card["name"] == "minilm" else card["name"]))
    first = usual_embedding(about)
    return sorted(out, key=lambda one: one[1] != first)


def _blocks(kind: str, model: dict[str, Any] | None) -> list[tuple[str, str]]:
    sees = {"image_classifier": "images", "decoder": "text", "encoder": "text"}.get((model or {}).get("kind", ""))
    count = len((model or {}).get("blocks") or ())
    if sees != kind or not count or model is None:
        return []
    return [(f"Block {at} of {model['name']}", f"model@{at}") for at in sorted({0, count // 2, count - 1})]


def colours(view: View) -> list[tuple[str, str]]:
    """(word, key) of what these rows can be coloured by."""
    fewest = {"label": 1, "error": 2}
    return [(word, key) for key, word in WAYS.items() if len(view.names) >= fewest.get(key, 0)]


def colour(view: View, wanted: str) -> str:
    return wanted if wanted in dict(colours(view)).values() else "cluster"


def points(bench: Bench, view: View, projection: str, by: str = "") -> tuple[pd.DataFrame, bool]:
    """The drawn points, and whether they lie where `projection` asks: UMAP places come from a finished run of it, else PCA's are shown.

    `by` "error": with a column of that name, 1 where a probe that had not seen the row reads it wrongly.
    """
    frame = _frame(view.drawn["points"])
    if view.held.get("stays") is not None:
        frame = frame.assign(stays=view.held["stays"])
    if by == "error":
        frame = frame.assign(error=_bits(_of_map(bench, view, "mistakes"), len(frame)).astype(np.int8))
    if projection != "umap":
        return frame, True
    file = found_map(bench.runs, view.choice)
    if file is None:
        return frame, False
    other = _frame(str(file)).set_index("row").reindex(frame["row"])
    if other["x"].isna().any():
        return frame, False
    return frame.assign(**{name: other[name].to_numpy() for name in ("x", "y", "trust")}), True


@lru_cache(maxsize=8)
def _frame(file: str) -> pd.DataFrame:
    return pd.read_parquet(file)


def about_rows(view: View) -> dict[str, Any]:
    """The finding above the map: what is open, and how far the map can be trusted."""
    rows, classes, bad = view.facts["rows"], len(view.names), len(view.facts["bad_rows"])
    what = {"images": "images", "text": "texts", "columns": "rows"}[view.facts["kind"]]
    title = f"{rows:,} {what}" + (f" in {classes} classes" if classes else ", without labels")
    skipped = f" {bad:,} bad {'row was' if bad == 1 else 'rows were'} skipped." if bad else ""
    if not view.ready:
        return facts.said(title, skipped.strip())
    return facts.said(
        title, f"{view.drawn['features']:,} numbers a row, {len(view.drawn['sizes'])} clusters by direction.{skipped}"
    )


def wait_note(view: View) -> dict[str, Any]:
    """Why there is no map yet."""
    note = f"It takes up to {view.drawn['seconds']:.0f} s here. Run it once; from then on its map opens at once."
    return facts.said("These rows are not embedded yet", note, "not measured")


def map_note(frame: pd.DataFrame, projection: str, more: str = "") -> dict[str, Any]:
    """What the map is worth."""
    label, trust = {"pca": "PCA", "umap": "UMAP"}[projection], float(frame["trust"].mean())
    if not np.isfinite(trust):
        return facts.said(f"A {label} map", f"Too many rows to check its neighbourhoods here; a run does. {more}".strip())
    title = f"{100 * trust:.0f} % of neighbours on this {label} map are real neighbours"
    warn = "Distances between far groups mean nothing on it." if projection == "umap" else "It shows two directions of many."
    trusted = "Of the 15 nearest on the map, the share among the 30 nearest in the embedding: the lower it is at a point, the fainter the point."
    return facts.said(title, f"{trusted} {warn} {more or 'Lasso points to see them.'}", "measured")


def inside(bench: Bench, view: View, projection: str, outline: Sequence[Sequence[float]]) -> np.ndarray:
    """The places of the rows inside an outline on the map."""
    _open(bench, view.choice)
    frame, placed = points(bench, view, projection)
    file = found_map(bench.runs, view.choice) if projection == "umap" and placed else view.drawn["points"]
    said = bench.worker.ask("lasso", timeout_s=_MAP_S, polygon=[list(corner) for corner in outline], points=str(file))
    return np.flatnonzero(_bits(said, len(frame)))


def found(bench: Bench, view: View, frame: pd.DataFrame, query: str) -> np.ndarray:
    """The places of the rows whose class or text holds these words, whatever their case. Raises DataError where there is neither."""
    called = [at for at, name in enumerate(view.names) if query.strip().casefold() in str(name).casefold()]
    mask = np.isin(frame["label"].to_numpy(), called)
    if view.facts["words"]:
        _open(bench, view.choice)
        mask |= _bits(bench.worker.ask("search", timeout_s=_MAP_S, query=query.strip()), len(frame))
    elif not view.names:
        raise DataError("These rows have neither classes nor words to search.", "Lasso points on the map instead.")
    return np.flatnonzero(mask)


def _bits(said: dict[str, Any], rows: int) -> np.ndarray:
    """The worker's answer about some rows, a bit a row in the map's order, as bool (rows,)."""
    return np.unpackbits(np.frombuffer(base64.b64decode(said["mask"]), np.uint8), count=rows).astype(bool)


def nearest(bench: Bench, view: View, frame: pd.DataFrame, row: int) -> tuple[np.ndarray, list[float]]:
    """The places of a row and of those nearest to it in the embedding (not on the map), and the cosines of those."""
    said = _of_map(bench, view, "neighbours", row=row, count=11)
    rows = frame["row"].to_numpy()  # they come in their numbers' order
    return np.searchsorted(rows, [row, *(one["row"] for one in said)]), [one["cosine"] for one in said]


def _of_map(bench: Bench, view: View, question: str, **asked: Any) -> Any:
    """What the worker says of the embedding that this map was made of. Where it holds another by now, or was started anew, it maps this one again."""
    _open(bench, view.choice)
    said = bench.worker.ask(question, timeout_s=_MAP_S, of=view.drawn["of"], **asked)
    if said is None:
        again = open_view(bench, view.choice).drawn
        said = bench.worker.ask(question, timeout_s=_MAP_S, of=again.get("of", view.drawn["of"]), **asked)
    if said is None:
        raise DataError("The rows have changed since this map was drawn.", "Press Open again.")
    return said


def rows(bench: Bench, view: View, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """The rows of these numbers as the worker shows them: class, text or picture."""
    _open(bench, view.choice)
    return bench.worker.ask("rows", timeout_s=_OPEN_S, rows=[int(row) for row in numbers])


def downloads(bench: Bench, view: View, share: float) -> tuple[str, str] | None:
    """Copies of this selection's parquet and csv in the page's own folder, from the run that made it; None where none has."""
    run = found_selection(bench.runs, view.choice, share)
    if run is None:
        return None
    out = Path(os.environ["GRADIO_TEMP_DIR"]) / "selections" / run.name
    out.mkdir(parents=True, exist_ok=True)
    made = []
    for name in (folder.SELECTION, Path(folder.SELECTION).with_suffix(".csv").name):
        copy = out / f"{run.name}-{name}"
        if not copy.exists():
            shutil.copyfile(run / name, copy)
        made.append(str(copy))
    return made[0], made[1]
