"""The finished damage maps of a model, by the weights that were opened last. Reads files, asks nobody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import folder
from studio import jobs, known
from studio.charts import damage

_MOST_RUNS = 200
_FORMAT = 1


@dataclass(frozen=True)
class Seen:
    """damage.json, and the run that made it."""

    found: dict[str, Any]
    run: str


def maps(source: str, runs: Path, cache: Path, data: str | None = None, most: int = 6) -> tuple[Seen, ...]:
    """The newest ones of this source and, where `data` is said, of these rows; those of other weights that lay there before are passed over."""
    weights, out = known.fingerprint(source, cache), []
    for path in folder.runs(runs)[:_MOST_RUNS]:
        file = path / folder.DAMAGE
        if not (file.is_file() and (path / folder.REPORT).is_file() and known.ran(path, source, weights)):
            continue
        found = jobs.read_json(file)
        if found and found.get("format") == _FORMAT and (data is None or found["data"]["source"] == data):
            out.append(Seen(found, path.name))
        if len(out) >= most:
            break
    return tuple(out)


def measures(runs: Path, name: str | None) -> bool:
    """Is this run a damage map?"""
    asked = known.asked_of(runs / name / folder.RECIPE) if name else None
    return asked is not None and asked.damage is not None


def who_pays(seen: tuple[Seen, ...], shares: Mapping[str, float]) -> str:
    """Whom this budget costs most, by the newest map of it; else whom the newest map's own budget does, which is then said. Empty without a map."""
    wanted = {name: share for name, share in shares.items() if share}
    for one in seen if wanted else ():
        level = next((level for level in one.found["levels"] if _is_of(one.found, level, wanted)), None)
        if level is not None:
            return _sentence(one, level, "With this budget")
    if not seen:
        return ""
    newest = seen[0]
    level = max(newest.found["levels"])
    return _sentence(newest, level, f"With {100 * level:.0f} % off every layer" if level else "With another budget")


def _is_of(found: Mapping[str, Any], level: float, wanted: Mapping[str, float]) -> bool:
    """Was this measured with this budget: named as it names its layers, or the same level everywhere?"""
    if not level:
        return found.get("shares") == wanted
    mine = (wanted.get(layer, wanted.get(".".join(layer.split(".")[:2]), 0.0)) for layer in found["layers"])
    return all(abs(share - level) < 0.005 for share in mine)


def _sentence(seen: Seen, level: float, when: str) -> str:
    said = damage.paying(seen.found, level)
    return f" {when}, measured on {seen.found['data']['name']}: {said} (run {seen.run})." if said else ""
