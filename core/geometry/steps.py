"""The run that looks at a data set in every block of a model: collect, measure, set beside a second model, and what it leaves in the run folder."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from core import folder
from core.data.dataset import Dataset
from core.data.loading import load
from core.data.selection import write_frame
from core.errors import DataError
from core.events import Progress, Watcher
from core.geometry import collect, drift, measures, neighbours, spread
from core.geometry.collect import HEAD, Spaces
from core.geometry.second import second, short
from core.model.loading import LoadedModel
from core.model.looking.redundancy import debiased_cka
from core.recipe import ByLayer, Recipe, to_dict

FORMAT = 1
ROWS_IN_CKA = 512
PRUNED = "pruned"  # what the second side is called where the recipe's own steps made it
_STAGE = "measure"


@dataclass
class Look:
    """A geometry on its way: the rows that take part, the first model's spaces, and what it took to get there."""

    recipe: Recipe
    watcher: Watcher
    whole: Dataset
    rows: Dataset
    first: Spaces
    notes: list[str] = field(default_factory=list)

    @property
    def ask(self) -> ByLayer:
        assert self.recipe.geometry is not None
        return self.recipe.geometry


def begin(recipe: Recipe, loaded: LoadedModel, watcher: Watcher) -> Look:
    """Open the rows, choose those that take part, and read them with the model as it is now, before any step changes it."""
    assert recipe.geometry is not None and recipe.data is not None
    ask, whole = recipe.geometry, load(recipe.data)
    taken = collect.rows_taken(whole, ask.rows, collect.widths(loaded), recipe.seed)
    rows = whole.part(taken)
    if len(rows) <= ask.neighbours:
        raise DataError(
            f"{ask.neighbours} neighbours were asked of {len(rows)} rows.", "Lower geometry.neighbours, or give it more rows."
        )
    notes = []
    if len(rows) < len(whole):
        how = "class by class in proportion" if whole.labels is not None else "by chance"
        notes.append(f"{len(rows):,} of {len(whole):,} rows, drawn {how}.")
    if whole.bad_rows:
        notes.append(f"{len(whole.bad_rows)} bad rows were skipped, as asked.")
    if rows.labels is None:
        notes.append("These rows have no labels, so there are no measures of classes.")
    elif len(np.unique(rows.labels)) < 2:
        notes.append("All rows are of one class: neural collapse needs two.")
    return Look(recipe, watcher, whole, rows, collect.collect(loaded, rows, ask, watcher), notes)


def finish(look: Look, loaded: LoadedModel, path: Path) -> dict[str, Any]:
    """Measure, read the rows with the second model where there is one, write geometry.json and geometry.parquet; returns the report's field."""
    others, same_axes = [], True
    if look.recipe.steps:
        steps = json.dumps(to_dict(look.recipe, full=True), sort_keys=True, default=str)
        pruned = collect.collect(loaded, look.rows, look.ask, look.watcher, f"after {steps}")
        others.append(Spaces(PRUNED, *_rest(pruned)))
    elif look.ask.against:
        model, said, same_axes = second(look.ask.against, look.recipe.model, loaded)  # type: ignore[arg-type]
        other = collect.collect(model, look.rows, look.ask, look.watcher, said)
        others.append(Spaces(short(look.ask.against), *_rest(other)))
    sides = [look.first, *others]
    told = [_side(look, spaces) for spaces in sides]
    compared, places = _compared(look, sides, same_axes)
    found = {
        "format": FORMAT,
        "model": look.recipe.model.source,  # type: ignore[union-attr]
        "data": {"source": look.recipe.data.source, "name": look.whole.name, "rows": len(look.rows), "of": len(look.whole),  # type: ignore[union-attr]
                 "classes": list(look.rows.label_names), "kind": look.rows.kind},
        "pool": "places" if look.rows.images is not None and look.first.answers is not None else look.ask.pool,
        "tokens": look.ask.tokens, "neighbours": look.ask.neighbours, "seed": look.recipe.seed, "notes": look.notes, "sides": told, "drift": compared,
    }  # fmt: skip
    folder.write_json(path / folder.GEOMETRY, found)
    write_frame(places, path / folder.PLACES)
    return {**found, "sides": [{name: value for name, value in side.items() if name != "cka"} for side in told], "drift": None if compared is None else
            {name: value for name, value in compared.items() if name != "cka_between"}}  # fmt: skip


def _rest(spaces: Spaces) -> tuple[Any, ...]:
    return spaces.labels, spaces.vectors, spaces.weights, spaces.answers


def _side(look: Look, spaces: Spaces) -> dict[str, Any]:
    """Every measure of every block of one model, with its level of chance, and how alike the blocks are."""
    found: dict[str, list[float | None]] = {}
    chance: dict[str, list[float | None]] = {}
    gaussian: dict[tuple[int, int], measures.Figures] = {}
    distinct = []
    for at, (label, vectors) in enumerate(zip(spaces.labels, spaces.vectors, strict=True)):
        look.watcher.check()
        look.watcher.say(Progress(_STAGE, at, len(spaces.labels), text=f"{spaces.name}, {label}"))
        own, by_chance, different = _of_block(look, spaces, label, vectors, gaussian)
        distinct.append(different)
        for into, values in ((found, own), (chance, by_chance)):
            for name, value in values.items():
                into.setdefault(name, []).append(value)
    look.watcher.say(Progress(_STAGE, len(spaces.labels), len(spaces.labels)))
    cka = debiased_cka([torch.from_numpy(np.asarray(part)) for part in spaces.vectors], ROWS_IN_CKA)
    return {"name": spaces.name, "layers": list(spaces.labels), "widths": [part.shape[1] for part in spaces.vectors], "distinct": distinct,
            "measures": found, "chance": chance, "cka": cka}  # fmt: skip


def _of_block(look: Look, spaces: Spaces, label: str, vectors: np.ndarray,
              gaussian: dict[tuple[int, int], measures.Figures]) -> tuple[measures.Figures, measures.Figures, int]:  # fmt: skip
    """(measures, their chance, how many rows differ). Duplicates leave what rests on nearest neighbours; classes are measured on all rows."""
    different = vectors[spread.first_of_each(vectors)]
    count, seed = look.ask.neighbours, look.recipe.seed
    own = measures.of_shape(different, count, seed)
    key = (len(different), vectors.shape[1])
    if key not in gaussian:
        gaussian[key] = measures.shape_by_chance(*key, count, seed)
    by_chance = dict(gaussian[key]) | {"raw": 0.0, "centred": 0.0, "loudest": min(spread.LOUDEST / vectors.shape[1], 1.0)}
    labels = look.rows.labels
    if labels is None or len(np.unique(labels)) < 2:
        return own, by_chance, len(different)
    weights, answers = (spaces.weights, spaces.answers) if label == HEAD else (None, None)
    if weights is not None and int(labels.max()) >= len(weights):
        weights = answers = None  # classes of other data than it was taught
    own |= measures.of_classes(vectors, labels, seed, weights, answers)
    by_chance |= {**measures.classes_by_chance(vectors, labels, seed, weights), "ami": 0.0}
    return own, by_chance, len(different)


def _compared(look: Look, sides: list[Spaces], same_axes: bool) -> tuple[dict[str, Any] | None, pd.DataFrame]:
    """How far each row's place and neighbourhood changed: from the first model to the second, or, with one model, from block to block."""
    pairs = _pairs(sides)
    rows, lines, frames = look.rows, [], []
    count = look.ask.neighbours
    for at, (label, before, one, two) in enumerate(pairs):
        look.watcher.check()
        look.watcher.say(Progress("compare", at, len(pairs), text=label))
        turn = len(sides) == 1 or not same_axes or one.shape[1] != two.shape[1]
        line, frame = _pair(one, two, count, turn, rows.row)
        lines.append({"layer": label, "before": before, **line})
        frames.append(frame.assign(layer=label))
    look.watcher.say(Progress("compare", len(pairs), len(pairs)))
    told = {
        "against": sides[-1].name if len(sides) > 1 else "the block before",
        "chance_kept": neighbours.chance(len(rows), count),
        "layers": lines,
    }
    if len(sides) > 1:
        told["cka_between"] = _between(*sides)
    return (told if lines else None), pd.concat(frames, ignore_index=True)


def _pairs(sides: list[Spaces]) -> list[tuple[str, str, np.ndarray, np.ndarray]]:
    """(layer, what it is set against, the space there, the space here)."""
    first = sides[0]
    if len(sides) == 1:
        around = zip(first.labels[1:], first.labels, first.vectors, first.vectors[1:], strict=False)
        return [(label, before, one, two) for label, before, one, two in around]
    other = sides[1]
    there = dict(zip(other.labels, other.vectors, strict=True))
    same = [(label, label, one, there[label]) for label, one in zip(first.labels, first.vectors, strict=True) if label in there]
    if len(first.labels) != len(
        other.labels
    ):  # blocks are gone: the same number is another block, but begin and end are the same
        return [same[0], (first.labels[-1], other.labels[-1], first.vectors[-1], other.vectors[-1])]
    return same


def _pair(one: np.ndarray, two: np.ndarray, count: int, turn: bool, row: np.ndarray) -> tuple[dict[str, Any], pd.DataFrame]:
    kept = neighbours.kept(neighbours.neighbours(one, count), neighbours.neighbours(two, count))
    try:
        found = drift.procrustes(one, two)
        width = max(one.shape[1], two.shape[1])
        padded = np.pad(one, ((0, 0), (0, width - one.shape[1])))
        there = found.turned if turn else two
        residual, far = found.residual, drift.moved(padded, there)
        before, after = drift.shared_map(padded, there)
    except DataError:  # all rows are one point in one of them
        residual, far = None, np.zeros(len(row), np.float32)
        before = after = np.zeros((len(row), 2), np.float32)
    line = {"procrustes": residual, "kept": float(kept.mean()), "moved": float(far.mean()), "turned": turn,
            "cka": debiased_cka([torch.from_numpy(np.asarray(part)) for part in (one, two)], ROWS_IN_CKA)[0][1]}  # fmt: skip
    frame = pd.DataFrame(
        {"row": row, "x": before[:, 0], "y": before[:, 1], "to_x": after[:, 0], "to_y": after[:, 1], "shared": kept, "moved": far}
    )
    return line, frame


def _between(first: Spaces, other: Spaces) -> list[list[float | None]]:
    """Debiased CKA of every block of the first model (rows) with every block of the second (columns)."""
    every = debiased_cka([torch.from_numpy(np.asarray(part)) for part in (*first.vectors, *other.vectors)], ROWS_IN_CKA)
    return [row[len(first.labels) :] for row in every[: len(first.labels)]]
