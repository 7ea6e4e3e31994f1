"""What is known of the open model without loading it: its description, and the newest observations that belong to it. Reads files, asks nobody."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from core import folder, recipe
from core.budget import CostCurves, by_part
from core.errors import PrunariumError
from core.proposals import Parts

DEMOS = Path(__file__).resolve().parent.parent / "assets" / "demo"
ANATOMY = "anatomy.json"
EVERYTHING = "*"  # the one name in the shares of a uniform run
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


def observations(source: str, runs: Path, curves: bool = False, cache: Path | None = None) -> Observed | None:
    """The newest observations of this source among the runs, else the demo's. `curves`: only such that hold cost curves. `cache`: where its
    description is kept; observations of other weights that lay at the same place before are passed over."""
    weights = fingerprint(source, cache) if cache else None
    for path in folder.runs(runs):
        file = path / folder.OBSERVATIONS
        if not file.is_file() or _source_of(path) != source:
            continue
        found = _read(file)
        if found and (found.get("curves") or not curves) and _is_of(found, weights):
            return Observed(found, "measured", path.name)
    found = _read(_demo(source) / folder.OBSERVATIONS)
    return Observed(found, "precomputed demo") if found and (found.get("curves") or not curves) else None


def fingerprint(source: str, cache: Path) -> str | None:
    """Which weights were opened from this source last; None where nobody noted it (a demo, a description of an older version)."""
    found = (description(source, cache) or {}).get("fingerprint")
    return found if isinstance(found, str) else None


def _is_of(found: dict[str, Any], weights: str | None) -> bool:
    """Were these observations made of these weights? Where either does not say, they are taken for the same."""
    model = found.get("model")
    noted = model.get("fingerprint") if isinstance(model, dict) else None
    return not weights or not noted or noted == weights


def cost_curves(data: dict[str, Any] | None, parts: Parts | None = None) -> CostCurves | None:
    """The curves in observations as core.budget wants them; None where there are none that can be used.

    With `parts` each layer has one: curves of whole blocks (older observations) are shared out by size.
    """
    found = (data or {}).get("curves")
    if not found or found.get("dense") is None:
        return None
    try:
        cost = {unit: tuple(BROKEN_COST if x is None else float(x) for x in values) for unit, values in found["cost"].items()}
        if parts and not set(cost) & set(parts.sizes):
            whole: dict[str, int] = {}
            for part, block in parts.block.items():
                whole[block] = whole.get(block, 0) + parts.sizes[part]
            cost = {part: tuple(x * parts.sizes[part] / max(whole[block], 1) for x in cost[block])
                    for part, block in parts.block.items() if block in cost}  # fmt: skip
        return CostCurves(tuple(found["levels"]), cost, float(found["dense"]), found.get("metric", "perplexity"), float(found.get("scale") or 1.0),
                          float(found.get("power") or 1.0), found.get("within"), float(found.get("floor") or 0.0))  # fmt: skip
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def parts(described: dict[str, Any], seen: Observed | None = None) -> Parts:
    """The layers that a budget is made of, in order, from the worker's description; with what was observed of them."""
    names = [block["name"] for block in described["blocks"]]
    mine = [layer for layer in described["layers"] if layer["block"] is not None]
    data = (seen.data if seen else None) or {}
    influence = {block["name"]: (block.get("scores") or {}).get("block_influence") for block in data.get("blocks", ())}
    measured = (data.get("curves") or {}).get("measured") or {}
    return Parts(
        sizes={layer["name"]: int(layer["parameters"]) for layer in mine},
        block={layer["name"]: names[layer["block"]] for layer in mine},
        role={layer["name"]: layer["role"] for layer in mine},
        shape={layer["name"]: tuple(layer["shape"]) for layer in mine},
        influence=influence if influence and all(isinstance(value, (int, float)) for value in influence.values()) else None,
        errors={name: (measured["levels"], errors) for name, errors in measured["errors"].items() if None not in errors}
        if measured
        else None,
        outliers=measured.get("outliers"),
    )


def super_weights(data: dict[str, Any] | None, parts: Parts) -> dict[str, int]:
    """{layer: how many super weights lie in it}, where the curves' run looked for them."""
    found = [row["layer"] for row in ((data or {}).get("curves") or {}).get("super_weights") or ()]
    return {layer: found.count(layer) for layer in dict.fromkeys(found) if layer in parts.sizes}


@dataclass(frozen=True)
class Units:
    """What whole units of one structure give back. `groups`: {block: its group as `core.model.looking.unit_prices` tells it}; `refused`: why this model has no
    such units, a sentence; `dense_ms`: the dense model's latency on this machine, None where it was not measured here."""

    groups: dict[str, dict[str, Any]]
    refused: str = ""
    dense_ms: float | None = None


def units(seen: Observed | None) -> dict[str, Units]:
    """{structure: what is known of its units}, where the curves' run priced them. A demo's were priced elsewhere: its milliseconds are not this machine's."""
    found = (seen.data if seen else {}).get("units") or {}
    here = (found.get("latency") or {}).get("ms") if seen and seen.badge == "measured" else None
    return {structure: Units({group["block"]: group for group in told.get("groups", ())}, told.get("refused", ""), here)
            for structure, told in found.items() if structure != "latency"}  # fmt: skip


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
    """A finished run of a budget: the quality it measured (`dense`: before pruning, by the same protocol), the shares it removed ({EVERYTHING: share} where
    all layers gave the same)."""

    run: str
    method: str
    value: float
    dense: float
    sparsity: float
    shares: dict[str, float]
    structure: str = "unstructured"

    @property
    def by_hand(self) -> bool:
        """A run of a budget as the bars say it: single weights. Blocks, heads or neurons taken out by name are none."""
        return EVERYTHING not in self.shares and self.structure == "unstructured"

    def by_part(self, parts: Parts) -> dict[str, float]:
        """The share of each layer."""
        if EVERYTHING in self.shares:
            return dict.fromkeys(parts.sizes, self.shares[EVERYTHING])
        return by_part(self.shares, parts.block)


def trials(source: str, runs: Path, most: int = 40, weights: str | None = None) -> list[Trial]:
    """Finished runs of this source with one pruning step, given by hand or uniform, that measured a perplexity before any recovery; newest first.

    `weights`: the fingerprint of the opened ones; runs of others that lay at the same place before are passed over.
    """
    found = []
    for path in folder.runs(runs):
        report = _read(path / folder.REPORT)
        if report is None or not ran(path, source, weights):
            continue
        method, structure, shares = _asked(path)
        value, dense = ((report.get(moment) or {}).get("perplexity") for moment in ("pruned", "dense"))
        if shares and value and dense:
            sparsity = float((report.get("sparsity") or {}).get("pruned_layers") or 0.0)
            found.append(Trial(path.name, method, value, dense, sparsity, shares, structure))
        if len(found) >= most:
            break
    return found


def latency(source: str, runs: Path, weights: str | None = None) -> tuple[float, str] | None:
    """How long the dense model takes on this machine (ms), and the run that measured it; None where none did. `weights`: as for `trials`."""
    for path in folder.runs(runs):
        report = _read(path / folder.REPORT)
        if report and ran(path, source, weights) and (found := (report.get("dense") or {}).get("latency_ms")):
            return float(found), path.name
    return None


def asked_of(file: Path) -> recipe.Recipe | None:
    """The recipe in this file as it is now; None where there is none that can be read. A run's folder is seen before its recipe is whole."""
    try:
        now = file.stat()
    except OSError:
        return None
    return _recipe(file, now.st_mtime_ns, now.st_size)


@lru_cache(maxsize=4096)
def _recipe(file: Path, _changed: int, _size: int) -> recipe.Recipe | None:
    try:
        return recipe.read(file)
    except PrunariumError:
        return None


def _asked(path: Path) -> tuple[str, str, dict[str, float]]:
    """Criterion, structure and shares of a run with one pruning step by hand or uniform over everything; no shares for any other run."""
    found = asked_of(path / folder.RECIPE)
    steps = found.steps if found else ()
    prunes = [step.prune for step in steps if step.prune]
    if len(prunes) != 1 or prunes[0].only or prunes[0].protect or prunes[0].budget or any(step.reconstruct for step in steps):
        return "", "", {}
    only = prunes[0]
    if only.allocation.method == "by_hand":
        return only.method, only.structure, dict(only.allocation.shares)
    uniform = only.allocation.method == "uniform" and only.structure == "unstructured"
    return only.method, only.structure, {EVERYTHING: float(only.sparsity or 0.0)} if uniform else {}


def ran(path: Path, source: str, weights: str | None) -> bool:
    """Is this a run of this source, and of these weights as far as both are noted?"""
    if _source_of(path) != source:
        return False
    noted = (_read(path / folder.ENVIRONMENT) or {}).get("model_sha256") if weights else None
    return not noted or noted == weights


def _source_of(path: Path) -> str | None:
    found = asked_of(path / folder.RECIPE)
    return found.model.source if found and found.model else None


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
