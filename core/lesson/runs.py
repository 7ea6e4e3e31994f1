"""Which finished run a lesson means. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence

from core.lesson.scene import Done


def matching(
    runs: Sequence[Done], method: str, structure: str, allocation: str, healed: bool, low: float, high: float
) -> Done | None:
    """The newest of `runs` (newest first) that pruned so. An empty allocation means any; the shares are what was really removed."""
    return next((run for run in runs if _fits(run, method, structure, allocation, healed) and _within(run, low, high)), None)


def _fits(run: Done, method: str, structure: str, allocation: str, healed: bool) -> bool:
    prune = run.prune
    same = prune.method == method and prune.structure == structure and run.healed == healed
    return same and allocation in ("", prune.allocation.method)


def _within(run: Done, low: float, high: float) -> bool:
    """0.6 % of slack: shares are whole numbers of weights or units."""
    return low - 0.006 <= run.removed <= high + 0.006
