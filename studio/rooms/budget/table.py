"""The editable table of the Budget room: what an edit says, and what of it goes to the workspace."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from core.budget import HIGHEST_SHARE, by_part, compact
from core.errors import RecipeError
from core.proposals import Parts
from studio.workspace import Opened, Overtaken, Shares, Workspace


def sent(frame: pd.DataFrame, opened: Opened) -> dict[str, Any]:
    """What a page is told to remember of the table that it is given."""
    return {"model": opened.model, "rows": read_table(frame)}


def take_over(
    workspace: Workspace,
    parts: Parts,
    frame: pd.DataFrame,
    before: Mapping[str, Any] | None,
    source: str,
    now: Mapping[str, Any] | None = None,
) -> Opened:
    """The edited rows go into the budget; all others stay as they are, whoever set them. `before`: what `sent` said of the table that was edited; `now`: what
    it says of the table as it stands: a row that another tab has changed since is not overwritten unseen.

    Raises RecipeError on a row that cannot be read or where another model is open, `Overtaken` where another tab was quicker.
    """
    opened = workspace.read()
    if before is None or not source == before["model"] == opened.model:
        raise RecipeError("Another model is open by now, and this table is not its budget.", "Reload the page.")
    shares, locked = (
        {name: value for name, value in new.items() if value != old.get(name)}
        for new, old in zip(read_table(frame), before["rows"], strict=True)
    )
    if not shares and not locked:
        return opened
    since = zip((shares, locked), before["rows"], now["rows"], strict=True) if now else ()
    if any(there.get(name) != old.get(name) for changed, old, there in since for name in changed):
        raise Overtaken(opened)
    return workspace.set_budget(*merged(opened.budget, shares, locked, parts), seen=opened.revision)


def read_table(frame: pd.DataFrame) -> tuple[dict[str, float], dict[str, bool]]:
    """The edited table -> ({row: share}, {row: locked}). Raises RecipeError on what is no percentage between 0 and 100."""
    shares, locked = {}, {}
    for name, percent, shut in zip(frame["Block"], frame["Remove %"], frame["Locked"], strict=True):
        try:
            value = float(str(percent).replace("%", "").replace(",", ".").strip() or 0)
        except ValueError:
            value = math.nan
        if not 0 <= value <= 100:
            raise RecipeError(
                f"The share of {name} must be a percentage between 0 and 100, not {str(percent)[:40]!r}.", "Correct that row."
            )
        shares[str(name)] = round(value / 100, 6)
        locked[str(name)] = shut is True or str(shut).strip().lower() in ("true", "1", "yes")
    return shares, locked


def merged(
    before: Shares, shares: Mapping[str, float], locked: Mapping[str, bool], parts: Parts
) -> tuple[dict[str, float], tuple[str, ...]]:
    """The budget with the table's rows (blocks or layers) laid over it: what the table does not show stays as it is. A bar stops at the highest share."""

    def over(old: Mapping[str, float], new: Mapping[str, float]) -> dict[str, float]:
        kept = by_part(old, parts.block)
        return {part: new.get(part, new.get(block, kept[part])) for part, block in parts.block.items()}

    changed = over(before.shares, {name: min(share, HIGHEST_SHARE) for name, share in shares.items()})
    shut = over(dict.fromkeys(before.locked, 1.0), {name: float(on) for name, on in locked.items()})
    return compact(changed, parts.block), tuple(compact(shut, parts.block))
