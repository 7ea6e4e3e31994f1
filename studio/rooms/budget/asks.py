"""What the equaliser's page asks the server: to confirm an estimate, to keep a budget, to go back, to propose, to solve. Every answer is plain data."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from core import budget, frontier
from core.errors import PrunariumError, RecipeError
from core.proposals import proposals
from studio.rooms.budget import units
from studio.workspace import Opened, Overtaken, Shares, Workspace

if TYPE_CHECKING:
    from studio.rooms.budget.equaliser import Known

Ask = Callable[[dict[str, Any]], dict[str, Any]]
FASTER = ("Zeros alone make nothing faster on this machine: its matrix products read them like any number. For speed, let the bars remove neurons or heads "
          "(What goes), or remove blocks in Prune & recover.")  # fmt: skip


def functions(workspace: Workspace, known: Callable[[str], Known]) -> list[Ask]:
    """confirm, commit, step, propose, aim, keep: by these names the page calls them."""
    return [
        _confirm(workspace, known),
        _commit(workspace, known),
        _step(workspace),
        _propose(workspace, known),
        _aim(workspace, known),
        _keep(workspace),
    ]


def _told(workspace: Workspace, opened: Opened, told: str = "") -> dict[str, Any]:
    from studio.rooms.budget.equaliser import state

    return state(opened, workspace.snapshots(opened.model), told)


def _confirm(workspace: Workspace, known: Callable[[str], Known]) -> Ask:
    def confirm(asked: dict[str, Any]) -> dict[str, Any]:
        """What the engine predicts for these shares, and how long it took: the page compares it with its own figure."""
        from studio.rooms.budget.equaliser import face

        start = time.perf_counter()
        mine = face(known(workspace.read().model), str(asked.get("structure") or ""))
        if mine.curves is None:
            return {"quality": None, "sparsity": None, "server_ms": 0.0}
        found = budget.estimate(mine.curves, mine.parts.sizes, mine.shares(asked["shares"]))
        return {"quality": found.quality, "sparsity": found.sparsity, "server_ms": 1000 * (time.perf_counter() - start)}

    return confirm


def _commit(workspace: Workspace, known: Callable[[str], Known]) -> Ask:
    def commit(asked: dict[str, Any]) -> dict[str, Any]:
        """Write a budget to the workspace. An older page is told, and given what stands."""
        opened = workspace.read()
        if asked["model"] != opened.model:
            return _told(workspace, opened, "Another model is open by now; reload the page.")
        try:
            shares, locked = tidy(asked, known(opened.model))
            return _told(workspace, workspace.set_budget(shares, locked, int(asked["seen"])))
        except Overtaken as overtaken:
            return _told(workspace, overtaken.opened, str(overtaken))
        except PrunariumError as error:
            return _told(workspace, opened, str(error))

    return commit


def tidy(asked: Mapping[str, Any], known: Known) -> tuple[dict[str, float], tuple[str, ...]]:
    """What a page sent as a budget: only names of this model, checked shares, written as short as can be. Raises RecipeError."""
    block_of = known.parts.block
    units = {*block_of, *block_of.values()}
    given = {unit: round(budget.check_share(unit, share), 6) for unit, share in asked["shares"].items() if unit in units}
    locked = budget.by_part(dict.fromkeys((unit for unit in asked["locked"] if unit in units), 1.0), block_of)
    return budget.compact(budget.by_part(given, block_of), block_of), tuple(budget.compact(locked, block_of))


def _step(workspace: Workspace) -> Ask:
    def step(asked: dict[str, Any]) -> dict[str, Any]:
        """Undo, redo, or turn to the other side of A/B."""
        opened = workspace.read()
        if asked["model"] != opened.model:
            return _told(workspace, opened, "Another model is open by now; reload the page.")
        try:
            return _told(workspace, {"undo": workspace.undo, "redo": workspace.redo, "turn": workspace.turn}[asked["which"]]())
        except PrunariumError as error:
            return _told(workspace, opened, str(error))

    return step


def _propose(workspace: Workspace, known: Callable[[str], Known]) -> Ask:
    def propose(asked: dict[str, Any]) -> dict[str, Any]:
        """What the allocators propose for the total of these shares, locked bars left alone; each with what is predicted of it."""
        has = known(workspace.read().model)
        shares, fixed = _fixed(asked, has)
        total = sum(shares[part] * size for part, size in has.parts.sizes.items()) / max(sum(has.parts.sizes.values()), 1)
        made = proposals(has.parts, has.curves, total, fixed)
        block_of = has.parts.block
        return {"total": total, "proposals": [
            {"name": each.name, "label": each.label, "shares": budget.compact(each.shares, block_of),
             "quality": budget.estimate(has.curves, has.parts.sizes, each.shares).quality if has.curves else None} for each in made]}  # fmt: skip

    return propose


def _fixed(asked: Mapping[str, Any], has: Known) -> tuple[dict[str, float], dict[str, float]]:
    """(all shares, those of locked layers) of what a page sent."""
    compacted, locked = tidy(asked, has)
    shares = budget.by_part(compacted, has.parts.block)
    shut = budget.by_part(dict.fromkeys(locked, 1.0), has.parts.block)
    return shares, {part: shares[part] for part, on in shut.items() if on}


def _aim(workspace: Workspace, known: Callable[[str], Known]) -> Ask:
    def aim(asked: dict[str, Any]) -> dict[str, Any]:
        """The best budget for a wish: {"kind": size | quality | faster, "value": as typed}. Where it cannot be met, the nearest that can be had."""
        has = known(workspace.read().model)
        try:
            shares, told = solved(asked, has)
        except PrunariumError as error:
            return {"shares": None, "told": str(error)}
        return {
            "shares": None
            if shares is None
            else budget.compact({part: round(x, 6) for part, x in shares.items()}, has.parts.block),
            "told": told,
        }

    return aim


def solved(asked: Mapping[str, Any], has: Known) -> tuple[dict[str, float] | None, str]:
    """(shares or None, a sentence). Raises RecipeError on a wish that is no number, or where nothing can be solved yet."""
    kind, wish = asked["kind"], number(asked["value"])
    if asked.get("structure"):
        return units.solved(kind, wish, asked["structure"], has, _fixed(asked, has)[1])
    if kind == "faster":
        return None, FASTER
    if has.curves is None:
        raise RecipeError("The best budget needs cost curves, and this model has none yet.", "Press Measure curves first.")
    steps = frontier.ladder(has.curves, has.parts.sizes, _fixed(asked, has)[1])
    if kind == "size":
        return _of_size(wish, has, steps)
    found = frontier.smallest_model(has.curves, steps, math.log1p(max(wish, 0.0) / 100))
    whole = sum(has.parts.sizes.values())
    if found.met and wish >= 0:
        gone = 100 * found.weights / max(whole, 1)
        return (
            found.shares,
            f"The smallest model with {has.curves.metric} at most +{wish:g} %, as predicted: {gone:.1f} % of the weights go.",
        )
    least = 100 * math.expm1(budget.combined(has.curves, steps.cost[0]))
    why = "what is locked costs that much already" if steps.fixed else "nothing pruned costs nothing"
    return (
        found.shares,
        f"{has.curves.metric.capitalize()} at most {wish:+g} % cannot be had: the nearest is {max(least, 0.0):+.1f} % ({why}).",
    )


def _of_size(megabytes: float, has: Known, steps: frontier.Ladder) -> tuple[dict[str, float], str]:
    described = has.described or {}
    each = described["size_bytes"] / max(int(described["parameters"]), 1)
    found = frontier.smallest_loss(steps, (described["size_bytes"] - megabytes * 1e6) / each)
    reached = (described["size_bytes"] - found.weights * each) / 1e6
    if found.met and not any(share > steps.fixed.get(part, 0.0) for part, share in found.shares.items()):
        return found.shares, f"Nothing more needs to go: that leaves {reached:.4g} MB, at most {megabytes:g} MB."
    if found.met and reached <= megabytes + 1e-6:
        return found.shares, f"The best budget for {megabytes:g} MB that are not zero, as predicted."
    return found.shares, (
        f"{megabytes:g} MB cannot be reached: the nearest that can be had is {reached:.4g} MB (bars stop at 95 %, locked ones stay, and embeddings are not "
        "pruned)."
    )


def number(text: Any) -> float:
    """What a person typed into a target. Raises RecipeError."""
    try:
        value = float(
            str(text)
            .replace("%", "")
            .replace("+", "")
            .replace("×", "")
            .replace("x", "")
            .replace(",", ".")
            .replace("MB", "")
            .strip()
        )
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise RecipeError(f"A target is a number, not {str(text)[:30]!r}.", "Type one, such as 4.5.")
    return value


def _keep(workspace: Workspace) -> Ask:
    def keep(asked: dict[str, Any]) -> dict[str, Any]:
        """Keep the present budget under a name, or forget the one of that name."""
        opened = workspace.read()
        try:
            workspace.keep(
                str(asked["name"]), None if asked.get("forget") else Shares(opened.budget.shares, opened.budget.locked)
            )
            return _told(workspace, opened)
        except PrunariumError as error:
            return _told(workspace, opened, str(error))

    return keep
