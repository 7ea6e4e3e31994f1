"""What is open, on disk: the truth that a reload, a second tab and a restart are rebuilt from. Knows no screen.

One small JSON file with a revision number, written whole or not at all. Someone who writes on top of an older revision than the one on disk is
told (`Overtaken`) and gets the newer state instead: of two tabs the later revision wins. Beside it, in BUDGETS, lie a model's budgets: every one there
was (`studio.history`) and, of a model that was left, the one it was left with. Those kept by name lie in SNAPSHOTS.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from core.errors import PrunariumError, RecipeError
from core.folder import write_json
from studio import history
from studio.history import Place

FILE = "workspace.json"
SNAPSHOTS = "snapshots.json"
BUDGETS = "budgets"
ONE_HISTORY = "history.jsonl"  # where an older version kept the budgets of whatever model was open
DEMO = "builtin:tiny-llama"
LONGEST_NAME = 60


_OF_THE_BUDGET = {"model", "budget", "place", "other", "side"}


class Overtaken(PrunariumError):
    """Another tab has changed the workspace since this one last looked. `opened` is what stands now."""

    def __init__(self, opened: Opened):
        super().__init__("Another tab has changed this meanwhile.", "Its newer state is now shown here; make your change again.")
        self.opened = opened


@dataclass(frozen=True)
class Shares:
    """A budget made by hand. `shares`: block or layer name -> share to remove, 0..1. `locked`: names that the global handle leaves alone."""

    shares: Mapping[str, float] = field(default_factory=dict)
    locked: tuple[str, ...] = ()


@dataclass(frozen=True)
class Opened:
    """What is open. `model`, `data`: sources as a recipe names them. `run`: name of the followed run folder. `place`: where in the history of budgets.
    `other`: the budget that A/B shows on the other side (None: the model as it is); `side`: which side is shown. `edited`: the revision that last changed
    the model or its budget: a run that starts, or data that is opened, overtakes no hand on the bars. `picked`: rows that another room suggests for a closer
    look: {source, rows (their numbers), why}."""

    revision: int = 0
    model: str = DEMO
    data: str | None = None
    run: str | None = None
    budget: Shares = Shares()
    place: Place = field(default_factory=Place)
    other: Shares | None = None
    side: str = "A"
    edited: int = 0
    picked: Mapping[str, Any] | None = None


class Workspace:
    """The workspace in `folder` (made where missing). Safe to use from several threads; one process for each folder (see `studio.app`)."""

    def __init__(self, folder: Path):
        (folder / BUDGETS).mkdir(parents=True, exist_ok=True)
        self.folder, self._lock = folder, threading.RLock()
        if (old := folder / ONE_HISTORY).is_file() and not (mine := self.history_of(self.read().model)).exists():
            old.replace(mine)

    def read(self) -> Opened:
        """What is open now. A missing or broken file reads as a fresh workspace."""
        try:
            return _opened(json.loads((self.folder / FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return Opened()

    def change(self, seen: int | None = None, **changes: Any) -> Opened:
        """Change fields of `Opened` and count the revision up. Opening another model puts the old one's budget away and takes up what that one was left with.

        `seen`: the revision that the change was made on top of (None: whatever stands). Raises Overtaken, or ResourceError where the disk refuses.
        """
        with self._lock:
            now = self.read()
            if seen is not None and seen != now.revision:
                raise Overtaken(now)
            if changes.get("model", now.model) != now.model:
                left = {**_line(now), "place": asdict(now.place)}
                write_json(self._budgets(now.model, "json"), left)
                changes = {**self._left(changes["model"]), **changes}
            revision = now.revision + 1
            edited = revision if changes.keys() & _OF_THE_BUDGET else now.edited
            return self._write(replace(now, **changes, revision=revision, edited=edited))

    def history_of(self, model: str) -> Path:
        """The file of all budgets that this model has had."""
        return self._budgets(model, "jsonl")

    def _budgets(self, model: str, ending: str) -> Path:
        return self.folder / BUDGETS / f"{hashlib.sha256(model.encode()).hexdigest()[:24]}.{ending}"

    def _left(self, model: str) -> dict[str, Any]:
        """Budget, place, and both sides of A/B as this model was left; a fresh start where it never was, or where the file is broken."""
        try:
            found = json.loads(self._budgets(model, "json").read_text(encoding="utf-8"))
            return {"budget": _shares(found), "place": _place(found["place"]), **_sides(found)}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return {"budget": Shares(), "place": Place(), "other": None, "side": "A"}

    def set_budget(self, shares: Mapping[str, float], locked: tuple[str, ...] = (), seen: int | None = None) -> Opened:
        """A new budget; the one before it goes onto the undo list. An equal one changes nothing."""
        with self._lock:
            now, new = self.read(), Shares(dict(shares), tuple(locked))
            if seen is not None and not now.edited <= seen <= now.revision:
                raise Overtaken(now)
            if new == now.budget:
                return now
            return self._step(now, replace(now, budget=new))

    def undo(self) -> Opened:
        """The budget before the last change; nothing where there is none."""
        return self._walk(history.back)

    def redo(self) -> Opened:
        """Take back the last undo; nothing where there is none."""
        return self._walk(history.forth)

    def _walk(self, way: Callable[[Path, Place], tuple[dict[str, Any], Place] | None]) -> Opened:
        with self._lock:
            now = self.read()
            found = way(self.history_of(now.model), now.place)
            if found is None:
                return now
            return self.change(budget=_shares(found[0]), place=found[1], **_sides(found[0]))

    def turn(self) -> Opened:
        """A/B: show the other budget, and keep this one for the way back. Turning is undone like any change."""
        with self._lock:
            now = self.read()
            return self._step(
                now, replace(now, budget=now.other or Shares(), other=now.budget, side="B" if now.side == "A" else "A")
            )

    def _step(self, now: Opened, then: Opened) -> Opened:
        """A change that undo takes back: budget, the other side's budget and the side shown go into the history together."""
        place = history.add(self.history_of(now.model), now.place, _line(now), _line(then))
        return self.change(budget=then.budget, other=then.other, side=then.side, place=place)

    def snapshots(self, model: str) -> dict[str, Shares]:
        """Budgets of this model kept by name, oldest first."""
        return {name: _shares(item) for name, item in self._all_snapshots().get(model, {}).items()}

    def keep(self, name: str, budget: Shares | None) -> None:
        """Keep a budget of the open model under a name, or with None forget it. Raises RecipeError on a name that is none."""
        name = " ".join(name.split())
        if not name or len(name) > LONGEST_NAME:
            raise RecipeError(
                f"A snapshot needs a name of 1 to {LONGEST_NAME} characters.", "Type one, such as: before the holidays."
            )
        with self._lock:
            everything, model = self._all_snapshots(), self.read().model
            mine = {key: value for key, value in everything.get(model, {}).items() if key != name}
            everything[model] = mine if budget is None else mine | {name: asdict(budget)}
            write_json(self.folder / SNAPSHOTS, everything)

    def _all_snapshots(self) -> dict[str, dict[str, Any]]:
        try:
            found = json.loads((self.folder / SNAPSHOTS).read_text(encoding="utf-8"))
            return {str(model): dict(kept) for model, kept in found.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def _write(self, opened: Opened) -> Opened:
        write_json(self.folder / FILE, asdict(opened))
        return opened


def _line(opened: Opened) -> dict[str, Any]:
    """What a line of the history says."""
    other = None if opened.other is None else asdict(opened.other)
    return {**asdict(opened.budget), "other": other, "side": opened.side}


def _sides(value: dict[str, Any]) -> dict[str, Any]:
    """The two fields of A/B, from a line of the history or a kept state; none from a line that an older version wrote."""
    if "side" not in value:
        return {}
    other = value.get("other")
    return {"other": None if other is None else _shares(other), "side": "B" if value["side"] == "B" else "A"}


def _opened(value: dict[str, Any]) -> Opened:
    return Opened(
        revision=int(value["revision"]),
        model=str(value["model"]),
        data=value["data"],
        run=value["run"],
        budget=_shares(value["budget"]),
        place=_place(value.get("place") or {}),
        edited=int(value.get("edited", value["revision"])),
        picked=_picked(value.get("picked")),
        **_sides(value),
    )


def _picked(value: Any) -> dict[str, Any] | None:
    if not isinstance(value, dict):
        return None
    return {"source": str(value["source"]), "rows": [int(row) for row in value["rows"]], "why": str(value["why"])}


def _place(value: dict[str, Any]) -> Place:
    at = value.get("at")
    return Place(None if at is None else int(at), *(int(value.get(key) or 0) for key in ("end", "undo", "redo")))


def _shares(value: dict[str, Any]) -> Shares:
    return Shares({str(name): float(share) for name, share in value["shares"].items()}, tuple(value["locked"]))
