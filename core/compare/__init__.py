"""Finished runs side by side: figures with differences and intervals, what cannot be compared and why, and how far their masks agree. Torch-free.

The final model of a run is what counts: recovered where there was recovery, else pruned. The first run is what the others are set against.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core import folder
from core.errors import PrunariumError, ResourceError
from core.recipe import Recipe, read
from core.report import final

MOST = 8  # runs at once: as many as there are colours that can be told apart
LETTERS = "ABCDEFGH"
ALIKE = 0.005  # costs that differ by less are one
DRAWS = 2000  # of the bootstrap
# figure in core.report.Metrics -> (label, the protocol that it was taken by, is less better?)
FIGURES = {
    "perplexity": ("Perplexity", "perplexity", True),
    "bits_per_byte": ("Bits a byte", "perplexity", True),
    "accuracy": ("Accuracy", "accuracy", False),
    "nonzero": ("Non-zero weights", "", True),
    "parameters": ("Parameters", "", True),
    "size_bytes": ("Size on disk", "", True),
    "flops_per_token": ("FLOPs a token (image)", "flops_per_token", True),
    "latency_ms": ("Latency", "latency", True),
    "peak_memory_mb": ("Peak memory", "latency", True),
}
_OUTCOMES = ("quartiles_ms", "dense_has_other_tokens")  # in a protocol, but found and not asked


@dataclass(frozen=True)
class Side:
    """A finished run as it is compared. `final`, `dense`: figures as in core.report.Metrics."""

    name: str
    path: Path
    report: dict[str, Any]
    recipe: Recipe | None

    @property
    def final(self) -> dict[str, Any]:
        return final(self.report)[1]

    @property
    def dense(self) -> dict[str, Any]:
        return self.report.get("dense") or {}

    @property
    def moment(self) -> str:
        return final(self.report)[0]

    @property
    def model(self) -> str:
        return self.recipe.model.source if self.recipe and self.recipe.model else ""

    @property
    def layers(self) -> list[dict[str, Any]]:
        return self.report.get("layers") or []

    def protocol(self, key: str) -> dict[str, Any] | None:
        """How a figure was taken, without what was found by it. Bits a byte may be compared whatever the tokens are."""
        found = (self.report.get("protocol") or {}).get(FIGURES[key][1])
        if found is None:
            return None
        left_out = (*_OUTCOMES, "bytes") if key == "bits_per_byte" else _OUTCOMES
        return {name: value for name, value in found.items() if name not in left_out}


def side(path: Path, name: str | None = None) -> Side:
    """A run folder as a side of a comparison. Raises ResourceError for one that is unfinished, damaged, or has no model to compare."""
    name = name or path.name
    if not (path / folder.REPORT).is_file():
        try:
            state = folder.status(path).state
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            state = "not a run"
        raise ResourceError(f"{name} has no report ({state}), so there is nothing to compare.", "Choose a run that is done.")
    try:
        report = folder.read_json(path / folder.REPORT)
        figures = final(report)[1]
    except (OSError, ValueError, AttributeError):
        raise ResourceError(f"The report of {name} is damaged and cannot be read.", "Run its recipe again.") from None
    if not figures or not isinstance(figures, dict) or not isinstance(report.get("dense"), dict):
        raise ResourceError(f"{name} pruned no model, so it has no figures to compare.", "Choose a run with a prune step.")
    try:
        recipe = read(path / folder.RECIPE)
    except PrunariumError:
        recipe = None
    return Side(name, path, report, recipe)


def sides(paths: Sequence[tuple[str, Path]]) -> tuple[list[Side], list[str]]:
    """(the runs that can be compared, a sentence for each that cannot). Raises ResourceError for more than `MOST`."""
    if len(paths) > MOST:
        raise ResourceError(f"{len(paths)} runs were chosen, and at most {MOST} can be told apart.", "Take some away.")
    good, bad = [], []
    for name, path in paths:
        try:
            good.append(side(path, name))
        except ResourceError as error:
            bad.append(str(error))
    return good, bad


@dataclass(frozen=True)
class Difference:
    """One figure of one run against the first run's. change: a share (points of accuracy as a share of 1); low, high: its 95 % interval, where windows or
    images can be paired; why: the reason where the two cannot be compared."""

    change: float | None
    low: float | None = None
    high: float | None = None
    why: str = ""


def difference(key: str, first: Side, other: Side) -> Difference | None:
    """How `other` stands against `first` in a figure; None where one of them has none."""
    a, b = first.final.get(key), other.final.get(key)
    if a is None or b is None:
        return None
    if why := incomparable(key, first, other):
        return Difference(None, why=why)
    change = b - a if key == "accuracy" else b / a - 1 if a else None
    asked = [(at.report.get("protocol") or {}) for at in (first, other)]
    if key == "bits_per_byte" and len({(one.get("perplexity") or {}).get("bytes") for one in asked}) > 1:
        return Difference(change)  # windows of other lengths in bytes: no pairs
    images = (asked[0].get("accuracy") or {}).get("samples")
    return Difference(change, *(interval(key, first.final, other.final, images) or (None, None)))


def incomparable(key: str, first: Side, other: Side) -> str:
    """Why a figure of the two cannot be compared; empty where it can."""
    others = first.model != other.model and first.dense.get("parameters") != other.dense.get("parameters")
    if key == "perplexity" and others:
        return "other models, which may read other tokens"
    one, two = first.protocol(key), other.protocol(key)
    if one == two:
        return ""
    if one is None or two is None:
        return "how it was measured is not known"
    return "measured otherwise: " + ", ".join(
        f"{name} {one.get(name)} and {two.get(name)}" for name in {**one, **two} if one.get(name) != two.get(name)
    )


def interval(key: str, first: dict[str, Any], other: dict[str, Any], images: int | None = None) -> tuple[float, float] | None:
    """95 % interval of the difference by a paired bootstrap: the same windows (or images) are drawn for both, so what is hard in the text itself cancels.

    images: how many were asked, where it is known; the bits told are filled up to whole bytes.
    """
    if key in ("perplexity", "bits_per_byte"):
        a, b = (np.array(at.get("window_losses") or (), dtype=float) for at in (first, other))
    elif key == "accuracy":
        a, b = (_bits(str(at.get("right") or ""))[:images] for at in (first, other))
    else:
        return None
    if len(a) != len(b) or len(a) < 2:
        return None
    drawn = np.random.default_rng(0).integers(0, len(a), (max(min(DRAWS, 4_000_000 // len(a)), 200), len(a)))
    low, high = np.quantile((b - a)[drawn].mean(1), (0.025, 0.975))
    if key == "perplexity":
        return math.expm1(low), math.expm1(high)
    if key == "bits_per_byte":
        base = float(a.mean())
        return (low / base, high / base) if base else None
    return float(low), float(high)


def _bits(right: str) -> np.ndarray:
    """1.0 for each image told right, and 0 for what fills up the last byte."""
    try:
        return np.unpackbits(np.frombuffer(bytes.fromhex(right), dtype=np.uint8)).astype(float)
    except ValueError:
        return np.zeros(0)


def apart(found: Sequence[Side]) -> list[str]:
    """What the runs cannot be compared in, a sentence each."""
    out = []
    models = list(dict.fromkeys(at.model or "unknown" for at in found))
    if len(models) > 1:
        out.append(f"These are runs of different models ({', '.join(models)}): compare their sizes and costs with care.")
    for key in FIGURES:
        if key == "bits_per_byte":
            continue
        for number, other in enumerate(found[1:], 1):
            if other.final.get(key) is None or found[0].final.get(key) is None:
                continue
            if why := incomparable(key, found[0], other):
                out.append(f"{FIGURES[key][0]} of A and {LETTERS[number]} cannot be compared ({why}).")
    for what, called in (("corruptions", "Corrupted images"), ("geometry", "Feature geometry")):
        first = _first_with(found, what)
        odd = [LETTERS[n] for n, at in enumerate(found) if first and at.final.get(what) and not _like(first, at, what)]
        if odd:
            out.append(f"{called} of {', '.join(odd)} were measured otherwise and are left out of that picture.")
    return out


def measured_alike(found: Sequence[Side], what: str) -> list[tuple[str, int | None, dict[str, Any]]]:
    """("dense", None, figures) and (name, place among `found`, figures) of those that measured `what` (corruptions, geometry) as the first that did.

    The dense model is that run's. `apart` names those that measured it otherwise."""
    first = _first_with(found, what)
    if first is None:
        return []
    dense = [("dense", None, first.dense[what])] if first.dense.get(what) else []
    same = [(at.name, n, at.final[what]) for n, at in enumerate(found) if at.final.get(what) and _like(first, at, what)]
    return dense + same


def _first_with(found: Sequence[Side], what: str) -> Side | None:
    return next((at for at in found if at.final.get(what)), None)


def _like(first: Side, other: Side, what: str) -> bool:
    one, two = ((at.report.get("protocol") or {}).get(what) for at in (first, other))
    return one == two


def quality_key(found: Sequence[Side]) -> str | None:
    """The figure of quality that most of the runs have."""
    counts = {key: sum(at.final.get(key) is not None for at in found) for key in ("perplexity", "accuracy")}
    best = max(counts, key=counts.__getitem__)
    return best if counts[best] else None


def lettered(found: Sequence[Side]) -> list[str]:
    """A · name, for legends."""
    return [f"{LETTERS[number]} · {at.name}" for number, at in enumerate(found)]


def placed(found: Sequence[Side], key: str, cost: str) -> list[tuple[str, float, float, int | None]]:
    """(name, cost, quality, number of the run), the dense model once for each way it was measured; runs measured otherwise than the first are left out."""
    out, seen = [], set()
    for number, at in enumerate(found):
        if incomparable(key, found[0], at) or (cost == "latency_ms" and incomparable(cost, found[0], at)):
            continue
        dense = at.dense.get(cost), at.dense.get(key)
        if None not in dense and (at.model, dense[1]) not in seen:
            seen.add((at.model, dense[1]))
            out.append(("dense", float(dense[0]), float(dense[1]), None))
        final = at.final.get(cost), at.final.get(key)
        if None not in final:
            out.append((lettered(found)[number], float(final[0]), float(final[1]), number))
    return out


def front(points: Sequence[tuple[float, float]], less_is_better: bool) -> list[int]:
    """Which (cost, quality) points no other beats, by rising cost: none is better in quality at a cost that is no higher. Costs that differ by less than
    `ALIKE` count as equal: two masks of one share differ by a handful of weights."""
    signed = [(cost, quality if less_is_better else -quality) for cost, quality in points]

    def beaten(at: int) -> bool:
        cost, quality = signed[at]
        return any(
            (other[1] < quality and other[0] <= cost * (1 + ALIKE)) or (other[1] == quality and (other[0], number) < (cost, at))
            for number, other in enumerate(signed)
            if number != at
        )

    return sorted((at for at in range(len(points)) if not beaten(at)), key=lambda at: signed[at][0])
