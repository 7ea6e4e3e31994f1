"""What a long piece of work says while it runs, and how it hears that it should stop.

Work takes a `Watcher` and calls it between two items. It never knows whether a file, a terminal or a test listens.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from core.errors import Stopped

Item = TypeVar("Item")


@dataclass(frozen=True)
class Progress:
    """One line of `events.jsonl`: item `done` of `total` in `stage`, at `time_s` (Unix seconds).

    `values` holds figures to draw live (a loss, a perplexity); `kind` is progress | note | state.
    """

    stage: str
    done: int = 0
    total: int = 0
    kind: str = "progress"
    text: str = ""
    values: dict[str, float] = field(default_factory=dict)
    time_s: float = field(default_factory=time.time)


class Watcher(Protocol):
    """Hears progress; raises `core.errors.Stopped` from `check` when the person asked for a stop."""

    def say(self, progress: Progress) -> None: ...

    def check(self) -> None: ...


@dataclass
class Silent:
    """A watcher for tests and scripts: remembers what was said, stops when `stop` is set."""

    stop: bool = False
    heard: list[Progress] = field(default_factory=list)

    def say(self, progress: Progress) -> None:
        self.heard.append(progress)

    def check(self) -> None:
        if self.stop:
            raise Stopped


def follow(items: Iterable[Item], stage: str, watcher: Watcher, total: int | None = None) -> Iterator[Item]:
    """Yield the items, telling the watcher before the first and after each one, and obeying a stop between two of them."""
    total = len(items) if total is None else total  # type: ignore[arg-type]
    watcher.check()
    watcher.say(Progress(stage, 0, total))
    for done, item in enumerate(items, 1):
        yield item
        watcher.say(Progress(stage, done, total))
        watcher.check()
