"""What is known of the open model without loading it: its description, and the newest observations that belong to it. Reads files, asks nobody."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from core import folder, recipe
from core.budget import CostCurves
from core.errors import PrunariumError

DEMOS = Path(__file__).resolve().parent.parent / "assets" / "demo"
ANATOMY = "anatomy.json"
BROKEN_COST = 20.0  # the log increase shown for a level at which the model's quality was no number: e**20 times worse


@dataclass(frozen=True)
class Observed:
    """Observations of a model: `data` as in observations.json, `badge`: measured | precomputed demo, `run`: the run that made them, or empty."""

    data: dict[str, Any]
    badge: str
    run: str = ""


def description(source: str, cache: Path) -> dict[str, Any] | None:
    """The worker's last answer to open_model for this source, from the demo or from `cache`; None where it was never opened."""
    for path in (_demo(source) / ANATOMY, _cached(source, cache)):
        if path.is_file():
            try:
                return folder.read_json(path)
            except ValueError:
                continue  # a file cut off by a full disk: the worker is asked again
    return None


def remember(source: str, described: dict[str, Any], cache: Path) -> None:
    """Keep a description, so that a reload shows the model without loading it."""
    path = _cached(source, cache)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder.write_json(path, described)


def observations(source: str, runs: Path, curves: bool = False) -> Observed | None:
    """The newest observations of this source among the runs, else the demo's. `curves`: only such that hold cost curves."""
    for path in folder.runs(runs):
        file = path / folder.OBSERVATIONS
        if not file.is_file() or _source_of(path) != source:
            continue
        found = _read(file)
        if found and (found.get("curves") or not curves):
            return Observed(found, "measured", path.name)
    found = _read(_demo(source) / folder.OBSERVATIONS)
    return Observed(found, "precomputed demo") if found and (found.get("curves") or not curves) else None


def cost_curves(data: dict[str, Any] | None) -> CostCurves | None:
    """The curves in observations as core.budget wants them; None where there are none that can be used."""
    found = (data or {}).get("curves")
    if not found or found.get("dense") is None:
        return None
    cost = {unit: tuple(BROKEN_COST if x is None else float(x) for x in values) for unit, values in found["cost"].items()}
    try:
        return CostCurves(tuple(found["levels"]), cost, float(found["dense"]), found.get("metric", "perplexity"))
    except (ValueError, TypeError):
        return None


def sizes(data: dict[str, Any]) -> dict[str, int]:
    """{block: weights that can be pruned}, from observations or a description."""
    names = [block["name"] for block in data["blocks"]]
    out = dict.fromkeys(names, 0)
    for layer in data["layers"]:
        name = names[layer["block"]] if isinstance(layer["block"], int) else layer["block"]
        if name in out:
            out[name] += int(layer["parameters"])
    return out


@dataclass(frozen=True)
class Trial:
    """A finished run of a budget: the quality it measured (`dense`: before pruning, by the same protocol), the shares it removed."""

    run: str
    method: str
    value: float
    dense: float
    sparsity: float
    shares: dict[str, float]


def last_trial(source: str, runs: Path) -> Trial | None:
    """The newest finished run of this source whose pruning was given by hand, block by block, with what it measured before any recovery."""
    for path in folder.runs(runs):
        report = _read(path / folder.REPORT)
        if report is None or _source_of(path) != source:
            continue
        method, shares = _by_hand(path)
        value, dense = ((report.get(moment) or {}).get("perplexity") for moment in ("pruned", "dense"))
        if shares and value and dense:
            return Trial(
                path.name, method, value, dense, float((report.get("sparsity") or {}).get("pruned_layers") or 0.0), shares
            )
    return None


@lru_cache(maxsize=4096)
def _by_hand(path: Path) -> tuple[str, dict[str, float]]:
    """The criterion and shares of a run with one pruning step given by hand; no shares for any other run."""
    try:
        steps = recipe.read(path / folder.RECIPE).steps
    except PrunariumError:
        return "", {}
    prunes = [step.prune for step in steps if step.prune]
    by_hand = len(prunes) == 1 and prunes[0].allocation.method == "by_hand"
    return (prunes[0].method, dict(prunes[0].allocation.shares)) if by_hand else ("", {})


@lru_cache(maxsize=4096)
def _source_of(path: Path) -> str | None:
    try:
        model = recipe.read(path / folder.RECIPE).model
    except PrunariumError:
        return None
    return model.source if model else None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _demo(source: str) -> Path:
    name = source.removeprefix("builtin:")
    return DEMOS / (name if source.startswith("builtin:") and name.replace("-", "").isalnum() else "none")


def _cached(source: str, cache: Path) -> Path:
    return cache / "described" / f"{hashlib.sha256(source.encode()).hexdigest()[:24]}.json"
