"""The plan as it was last left, a file a model in the workspace: what a reload, a second tab and a restart are rebuilt from. Pure but for those files.

Only what a hand has changed is written, field by field: of two tabs neither loses what the other set, and of one field the later hand wins.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from core import catalogue, folder
from studio import target
from studio.rooms.prune.plans import spreads, structures

PLANS = "plans"
PARAMS = (
    "params",
    "spread",
    "mend",
    "heal",
)  # {method: {parameter: value}}, of the methods, the allocators, the reconstructions and the recoveries
_LONGEST = 20_000  # characters of one field
_lock = threading.Lock()


def read(workspace: Path, model: str) -> dict[str, Any]:
    """{field: value} of this model's plan; empty where none was ever changed, or the file is broken."""
    try:
        found = json.loads(_file(workspace, model).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return dict(found) if isinstance(found, dict) else {}


def keep(workspace: Path, model: str, changed: Mapping[str, Any]) -> None:
    """Lay what was changed over what is kept. Raises ResourceError where the disk refuses."""
    if not model or not changed or any(len(str(value)) > _LONGEST for value in changed.values()):
        return
    with _lock:
        file = _file(workspace, model)
        file.parent.mkdir(parents=True, exist_ok=True)
        folder.write_json(file, read(workspace, model) | dict(changed))


def fitting(kept: Mapping[str, Any]) -> dict[str, Any]:
    """What of a kept plan still means something: a method may be gone, and a file may have been written by hand."""
    cards = {card.name: card for card in catalogue.pruners() if not card.problem}
    out = {name: value for name, value in kept.items() if name in _FORMS and _FORMS[name](value)}
    if out.get("method") not in cards:
        out.pop("method", None)
        out.pop("structure", None)
    elif out.get("structure") not in (there := [value for _, value in structures(cards[out["method"]])]):
        out["structure"] = there[0]
    structure = out.get("structure", "unstructured")
    for name, choices, first in (
        ("target", target.choices(structure), target.SHARE),
        ("allocation", spreads(structure), "uniform"),
    ):
        if name in out and out[name] not in [value for _, value in choices]:
            out[name] = first
    return out | {name: _params(kept.get(name), name) for name in PARAMS}


def _params(value: Any, kind: str) -> dict[str, dict[str, Any]]:
    """Those of methods that there are, each of its parameter's own kind."""
    if not isinstance(value, dict):
        return {}
    kinds = {"spread": "allocator", "mend": "reconstruction", "heal": "recovery"}
    there = catalogue.of_kind(kinds[kind]) if kind in kinds else catalogue.pruners()
    cards = {card.name: card for card in there}
    out = {}
    for method, given in value.items():
        known = {param.name: param.default for param in cards[method].params} if method in cards else {}
        if isinstance(given, dict) and known:
            out[method] = {name: one for name, one in given.items() if name in known and _alike(one, known[name])}
    return out


def _alike(value: Any, default: Any) -> bool:
    number = (int, float)
    if isinstance(default, number) and not isinstance(default, bool):
        return isinstance(value, number) and not isinstance(value, bool)
    return isinstance(value, type(default))


def _file(workspace: Path, model: str) -> Path:
    return workspace / PLANS / f"{hashlib.sha256(model.encode()).hexdigest()[:24]}.json"


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _number(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def _whole(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool))


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _one_of(kind: str) -> Callable[[Any], bool]:
    """Whether a value is the name of a method of this kind, or "none"."""
    return lambda value: value == "none" or value in [card.name for card in catalogue.of_kind(kind) if not card.problem]


MEASURES = ("quality", "latency", "text", "corruptions", "geometry")
_FORMS: dict[str, Callable[[Any], bool]] = {
    "method": _text, "structure": _text, "keep_n": _whole, "of_m": _whole, "tile": _whole, "only": _names, "protect": _names,
    "spare": lambda value: isinstance(value, bool), "target": _text, "sparsity": _number(0, 95), "limit": _text, "allocation": _text,
    "refit": _one_of("reconstruction"), "recovery": _one_of("recovery"),
    "steps": _number(10, 1000), "source": _text, "general": _text, "samples": _whole, "tokens": _whole,
    "measures": lambda value: isinstance(value, list) and all(one in MEASURES for one in value),
    "prompt": _text, "name": _text, "seed": _whole, "save": lambda value: isinstance(value, bool),
}  # fmt: skip
