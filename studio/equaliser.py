"""The equaliser: one component with a bar a block, moved by hand. Arithmetic while dragging is in budget.js, confirmed by core.budget here."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gradio as gr

from core import budget
from core.errors import PrunariumError
from studio.known import Trial
from studio.workspace import Opened, Overtaken, Workspace

_HERE = Path(__file__).resolve().parent
Known = Callable[[str], tuple[budget.CostCurves | None, Mapping[str, int]]]


def equaliser(workspace: Workspace, known: Known, elem_id: str = "equaliser") -> gr.HTML:
    """The component, empty. Give it `value(...)`; listen to `.committed` (event data {"revision": n}) for budgets that reached the workspace.

    `known(source)` -> (cost curves or None, {block: weights}) of the open model; read once for each question of the page.
    """
    return gr.HTML(
        value=None,
        html_template='<div class="eq" data-rev="0"></div>',
        css_template=(_HERE / "equaliser.css").read_text(encoding="utf-8"),
        js_on_load=(_HERE / "budget.js").read_text(encoding="utf-8") + (_HERE / "equaliser.js").read_text(encoding="utf-8"),
        server_functions=[_confirm(workspace, known), _commit(workspace, known), _step(workspace)],
        apply_default_css=False,
        elem_id=elem_id,
    )


def value(
    opened: Opened,
    described: Mapping[str, Any],
    curves: budget.CostCurves | None,
    sizes: Mapping[str, int],
    trial: Trial | None = None,
) -> dict[str, Any]:
    """What the component draws. `described`: the worker's description of the model; `trial`: the last run of a budget, shown as marks."""
    total = int(described["parameters"])
    return {
        "name": opened.model,
        "units": [{"name": unit, "label": unit.rpartition(".")[2], "title": f"Block {unit.rpartition('.')[2]}", "size": size}
                  for unit, size in sizes.items()],
        "empty": "" if sizes else "This model has no chain of blocks, so there are no bars to move.",
        "highest": budget.HIGHEST_SHARE,
        "parameters": total,
        "bytes_per_parameter": described["size_bytes"] / max(total, 1),
        "curves": None if curves is None else {"levels": list(curves.levels), "cost": {unit: list(c) for unit, c in curves.cost.items()},
                                               "dense": curves.dense, "metric": curves.metric},
        "measured": None if trial is None else asdict(trial),
        **_state(opened),
    }  # fmt: skip


def _state(opened: Opened, told: str = "") -> dict[str, Any]:
    return {
        "revision": opened.revision,
        "shares": dict(opened.budget.shares),
        "locked": list(opened.budget.locked),
        "undo": len(opened.undo),
        "redo": len(opened.redo),
        "told": told,
    }


def _confirm(workspace: Workspace, known: Known) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def confirm(shares: dict[str, Any]) -> dict[str, Any]:
        """What the engine predicts for these shares, and how long it took: the page compares it with its own figure."""
        start = time.perf_counter()
        curves, sizes = known(workspace.read().model)
        if curves is None:
            return {"quality": None, "sparsity": None, "server_ms": 0.0}
        found = budget.estimate(curves, sizes, {unit: share for unit, share in shares.items() if unit in sizes})
        return {"quality": found.quality, "sparsity": found.sparsity, "server_ms": 1000 * (time.perf_counter() - start)}

    return confirm


def _commit(workspace: Workspace, known: Known) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def commit(asked: dict[str, Any]) -> dict[str, Any]:
        """Write a budget to the workspace. An older page is told, and given what stands."""
        opened = workspace.read()
        if asked["model"] != opened.model:
            return _state(opened, "Another model is open by now; reload the page.")
        try:
            _, sizes = known(opened.model)
            shares = {
                unit: round(budget.check_share(unit, asked["shares"][unit]), 6) for unit in sizes if asked["shares"].get(unit)
            }
            return _state(
                workspace.set_budget(shares, tuple(unit for unit in sizes if unit in asked["locked"]), int(asked["seen"]))
            )
        except Overtaken as overtaken:
            return _state(overtaken.opened, str(overtaken))
        except PrunariumError as error:
            return _state(opened, str(error))

    return commit


def _step(workspace: Workspace) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def step(asked: dict[str, Any]) -> dict[str, Any]:
        """Undo or redo, as deep as the workspace remembers."""
        return _state(workspace.undo() if asked["which"] == "undo" else workspace.redo())

    return step
