"""What the Geometry room asks for and what it finds: the recipe of a look, the newest finished look, and what a model can be set against. No components."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from core import folder
from core.errors import PrunariumError
from core.recipe import Recipe, n_of_m
from core.views import slug
from studio import jobs, known
from studio.bench import Bench

ALONE, BUDGET = "", "budget"
_LOOKED_AT = 80
_USUAL = {"image_classifier": "builtin:mnist5k/heldout"}
_OPEN_S = 300.0


@dataclass(frozen=True)
class Seen:
    """A finished look: geometry.json, the run's name, and where the rows' places lie."""

    found: dict[str, Any]
    run: str
    places: Path

    def frame(self) -> pd.DataFrame:
        return _frame(str(self.places), self.places.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _frame(file: str, _changed: int) -> pd.DataFrame:
    return pd.read_parquet(file)


def usual_data(bench: Bench, source: str | None) -> str:
    """The data that is open, where this model may read it; else built-in rows that it can."""
    opened = bench.workspace.read().data
    kind = (known.description(source or "", bench.workspace.folder) or {}).get("kind", "decoder")
    pictures = (opened or "").startswith(("builtin:digits", "builtin:mnist5k"))
    if opened and (not opened.startswith("builtin:") or pictures == (kind == "image_classifier")):
        return opened
    return _USUAL.get(kind, "builtin:trec/train")


def newest(bench: Bench, model: str | None, data: str) -> Seen | None:
    """The newest finished look at these rows in this model."""
    for path in folder.runs(bench.runs)[:_LOOKED_AT]:
        file = path / folder.GEOMETRY
        if not (file.is_file() and (path / folder.REPORT).is_file() and (path / folder.PLACES).is_file()):
            continue
        asked = known.asked_of(path / folder.RECIPE)
        if asked and asked.model and asked.data and asked.model.source == model and asked.data.source == data:
            found = jobs.read_json(file)
            if found and found.get("drift"):
                return Seen(found, path.name, path / folder.PLACES)
    return None


def looks(bench: Bench, name: str | None) -> bool:
    """Is this run a look at geometry?"""
    asked = known.asked_of(bench.runs / name / folder.RECIPE) if name else None
    return asked is not None and asked.geometry is not None


def sides(bench: Bench, model: str | None) -> list[tuple[str, str]]:
    """(label, value) of what the model can be set against: nothing, the budget that is set, finished runs that left a mask or a model."""
    out = [("Nothing: from block to block", ALONE)]
    if any(bench.workspace.read().budget.shares.values()):
        out.append(("The same, pruned as the budget says (Wanda)", BUDGET))
    for path in folder.runs(bench.runs)[:_LOOKED_AT]:
        asked = known.asked_of(path / folder.RECIPE)
        if (
            asked
            and asked.model
            and asked.model.source == model
            and asked.steps
            and not asked.geometry
            and _can_be_asked(path, asked)
        ):
            out.append((f"Run {path.name}", path.name))
    return out


def _can_be_asked(path: Path, asked: Recipe) -> bool:
    if not (path / folder.REPORT).is_file():
        return False
    if (path / folder.MODEL).is_dir():
        return True
    zeros = all(
        step.prune and (step.prune.structure.startswith(("unstructured", "tiles")) or n_of_m(step.prune.structure))
        for step in asked.steps
    )
    return zeros and (path / folder.MASK).is_file()


def recipe_for(bench: Bench, model: str, data: str, pool: str, rows: int, neighbours: int, against: str) -> dict[str, Any]:
    """The run that looks. Raises PrunariumError where something is not said."""
    data = bench.admit((data or "").strip())
    geometry: dict[str, Any] = {"rows": int(rows or 800), "neighbours": int(neighbours or 10)}
    if pool == "last":
        geometry["pool"] = "last"
    name = slug(f"geometry-{_short(data)}-{_short(model)}")[:70].strip("-.")
    whole: dict[str, Any] = {
        "recipe": 1,
        "name": name,
        "model": {"source": model},
        "data": {"source": data},
        "geometry": geometry,
    }
    if against == BUDGET:
        shares = {name: share for name, share in bench.workspace.read().budget.shares.items() if share}
        if not shares:
            raise PrunariumError(
                "The budget removes nothing yet.", "Set one in the Budget room, or choose something else to compare with."
            )
        prune = {"method": "wanda", "allocation": {"method": "by_hand", "shares": shares}}
        whole |= {"calibration": {"samples": 32, "tokens": 256}, "steps": [{"prune": prune}]}
    elif against:
        geometry["against"] = str(bench.path_of(against))
    return whole


def _short(source: str) -> str:
    return source.removeprefix("builtin:").rstrip("/").split("/")[0 if source.startswith("builtin:") else -1]


def cards(bench: Bench, found: dict[str, Any], rows: list[int], notes: dict[int, str]) -> list[dict[str, Any]]:
    """These rows as the worker shows them; each stands out, and has its note."""
    bench.worker.ask("open_data", timeout_s=_OPEN_S, source=found["data"]["source"])
    shown = bench.worker.ask("rows", timeout_s=_OPEN_S, rows=rows)
    return [{**card, "stays": True, "note": notes.get(card["row"], "")} for card in shown]
