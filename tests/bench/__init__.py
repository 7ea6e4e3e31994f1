"""Figures that are too slow for tests: `python3 launch.py bench [NAME]`. Each writes its section of docs/benchmarks.md."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One line of a table: what was measured, the figure as words with its unit, the goal, and whether it holds (None: nothing was promised)."""

    what: str
    figure: str
    goal: str = ""
    held: bool | None = None
