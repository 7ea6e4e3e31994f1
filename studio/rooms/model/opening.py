"""Opening a model without holding up the page: a thread fetches what is missing and asks the worker; the page looks at how far it is."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from core import builtins
from core.errors import PrunariumError
from core.model import memory
from core.model.files import header, source
from studio import known
from studio.parts.facts import count_text, said, size_text

Say = Callable[[str], None]


class Asks(Protocol):
    def ask(self, name: str, /, timeout_s: float = 60.0, **args: Any) -> Any: ...


@dataclass(frozen=True)
class Stage:
    """How far an opening is. `state`: idle | opening | open | failed."""

    state: str = "idle"
    source: str = ""
    text: str = ""


class Opening:
    """At most one opening at a time, for the whole studio."""

    def __init__(self, worker: Asks, cache: Path) -> None:
        self._worker, self._cache, self._lock = worker, cache, threading.Lock()
        self.stage = Stage()

    def start(self, wanted: str, opened: Callable[[str], Any]) -> Stage:
        """Begin to open `wanted`; `opened(source)` is called when the worker holds it. A second start while one runs changes nothing."""
        with self._lock:
            if self.stage.state == "opening":
                return self.stage
            self.stage = Stage("opening", wanted, f"Opening {wanted} ...")
        threading.Thread(target=self._run, args=(wanted, opened), daemon=True).start()
        return self.stage

    def _run(self, wanted: str, opened: Callable[[str], Any]) -> None:
        try:
            fetch_missing(wanted, self._say)
            self._say(f"Loading {wanted} ...")
            described = self._worker.ask("open_model", timeout_s=900.0, source=wanted)
            known.remember(wanted, described, self._cache)
            opened(wanted)
            self.stage = Stage("open", wanted, f"{wanted} is open.")
        except PrunariumError as error:
            self.stage = Stage("failed", wanted, str(error))
        except Exception as error:  # a full disk, a torn download: else the page would say "opening" for ever
            logging.getLogger(__name__).exception("opening %s", wanted)
            why = f"{wanted} could not be opened ({type(error).__name__}: {str(error)[:200] or 'no reason given'})."
            self.stage = Stage("failed", wanted, f"{why} Check the disk and the path, and open it again.")

    def _say(self, text: str) -> None:
        self.stage = replace(self.stage, text=text)


def fetch_missing(wanted: str, say: Say) -> None:
    """Bring a built-in model that is not on this machine yet. Raises ResourceError without a network."""
    if not wanted.startswith("builtin:") or builtins.present(wanted):
        return

    def told(stage: str, done_bytes: int, total_bytes: int) -> None:
        part = f": {size_text(done_bytes)} of {size_text(total_bytes)}" if total_bytes else ""
        say(f"{stage[:1].upper()}{stage[1:]}{part}")

    builtins.fetch(wanted, told)


def look(wanted: str) -> dict[str, Any]:
    """What a model's header says, and what it would take to open it, before a weight is read. Raises PrunariumError."""
    away = _not_here(wanted)
    if away:
        return away
    place = source.locate(wanted)
    found = header.preview(place.path, links=place.kind == "hub")
    needed, free = header.memory_estimate(found), memory.available_bytes()
    fits = "It fits." if needed < 0.8 * free else "It hardly fits: expect it to be slow." if needed < free else "It does not fit."
    return said(
        f"{found.architecture}, {count_text(found.parameters)} parameters",
        "Read from the header alone; no weight was loaded.",
        facts=[
            ("Format", found.format),
            ("Tensors", f"{len(found.tensors):,}"),
            ("Weights on disk", size_text(found.size_bytes)),
            (
                "Memory to open it",
                f"{size_text(needed)} of {size_text(free)} free. {fits}",
                "float32 weights; activations come on top",
            ),
        ],
    )


def _not_here(wanted: str) -> dict[str, Any] | None:
    """What can be said of a model that would have to be fetched first; None where it is on this machine."""
    if wanted.startswith("builtin:"):
        if builtins.present(wanted):
            return None
        found, _ = builtins.find(wanted)
        return said(
            found.label,
            f"{found.about} Open fetches it once.",
            facts=[("To fetch", f"{found.size_mb:g} MB"), ("Licence", found.licence)],
        )
    path = Path(wanted).expanduser()
    if path.exists() or "/" not in wanted or wanted.startswith((".", "/", "~")):
        return None
    return said(
        wanted,
        "A model of the Hugging Face hub. Open brings its safetensors, configuration and tokenizer; other files are left there.",
    )
