"""What is open, on disk: the truth that a reload, a second tab and a restart are rebuilt from. Knows no screen.

One small JSON file with a revision number, written whole or not at all. Someone who writes on top of an older revision than the one on disk is
told (`Overtaken`) and gets the newer state instead: of two tabs the later revision wins.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from core.errors import PrunariumError
from core.folder import write_json

FILE = "workspace.json"
DEMO = "builtin:tiny-llama"
STEPS_BACK = 100  # how many budgets undo remembers


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
    """What is open. `model`, `data`: sources as a recipe names them. `run`: name of the followed run folder. `undo`, `redo`: budgets, last first."""

    revision: int = 0
    model: str = DEMO
    data: str | None = None
    run: str | None = None
    budget: Shares = Shares()
    undo: tuple[Shares, ...] = ()
    redo: tuple[Shares, ...] = ()


class Workspace:
    """The workspace in `folder` (made where missing). Safe to use from several threads; one process for each folder (see `studio.app`)."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._lock = folder, threading.RLock()

    def read(self) -> Opened:
        """What is open now. A missing or broken file reads as a fresh workspace."""
        try:
            return _opened(json.loads((self.folder / FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return Opened()

    def change(self, seen: int | None = None, **changes: Any) -> Opened:
        """Change fields of `Opened` and count the revision up. Opening another model drops the budget, which was the old one's.

        `seen`: the revision that the change was made on top of (None: whatever stands). Raises Overtaken, or ResourceError where the disk refuses.
        """
        with self._lock:
            now = self.read()
            if seen is not None and seen != now.revision:
                raise Overtaken(now)
            if changes.get("model", now.model) != now.model:
                changes = {"budget": Shares(), "undo": (), "redo": (), **changes}
            return self._write(replace(now, **changes, revision=now.revision + 1))

    def set_budget(self, shares: Mapping[str, float], locked: tuple[str, ...] = (), seen: int | None = None) -> Opened:
        """A new budget; the one before it goes onto the undo list. An equal one changes nothing."""
        with self._lock:
            now, new = self.read(), Shares(dict(shares), tuple(locked))
            if seen is not None and seen != now.revision:
                raise Overtaken(now)
            if new == now.budget:
                return now
            return self.change(budget=new, undo=(now.budget, *now.undo)[:STEPS_BACK], redo=())

    def undo(self) -> Opened:
        """The budget before the last change; nothing where there is none."""
        with self._lock:
            now = self.read()
            if not now.undo:
                return now
            return self.change(budget=now.undo[0], undo=now.undo[1:], redo=(now.budget, *now.redo))

    def redo(self) -> Opened:
        """Take back the last undo; nothing where there is none."""
        with self._lock:
            now = self.read()
            if not now.redo:
                return now
            return self.change(budget=now.redo[0], undo=(now.budget, *now.undo), redo=now.redo[1:])

    def _write(self, opened: Opened) -> Opened:
        write_json(self.folder / FILE, asdict(opened))
        return opened


def _opened(value: dict[str, Any]) -> Opened:
    return Opened(
        revision=int(value["revision"]),
        model=str(value["model"]),
        data=value["data"],
        run=value["run"],
        budget=_shares(value["budget"]),
        undo=tuple(_shares(item) for item in value["undo"]),
        redo=tuple(_shares(item) for item in value["redo"]),
    )


def _shares(value: dict[str, Any]) -> Shares:
    return Shares({str(name): float(share) for name, share in value["shares"].items()}, tuple(value["locked"]))
