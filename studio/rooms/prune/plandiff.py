"""What a plan changes: against the last run's recipe, or the default one where nothing was run yet; and how many weights it would leave. Pure reading."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from core import catalogue, folder
from core.errors import PrunariumError
from core.recipe import Prune, Recipe, n_of_m, tile_size, to_dict
from studio import jobs, known
from studio.parts import facts
from studio.parts.facts import count_text

_MOST = 8  # lines of a diff; more is another plan
_MOST_BARS = 4  # lines of a diff for the bars of a budget
_BARS = ".allocation.shares"
_NOT_TOLD = ("name", "recipe", "resume")
_STANDARD = ("builtin:wikitext2/train", "builtin:mnist5k/train")  # what `auto` comes to
_WORDS = {
    "model.source": "Model",
    "calibration.source": "Calibration text or images",
    "calibration.samples": "Calibration sequences",
    "calibration.tokens": "Tokens in each",
    "seed": "Seed",
    "save.model": "Save the model",
}
_LAST = {
    "method": "Method",
    "structure": "What goes",
    "sparsity": "Share removed",
    "steps": "Training steps",
}


def shown(recipe: Recipe, runs: Path, described: Mapping[str, Any]) -> dict[str, Any]:
    """What the component under the plan shows: what it changes, and the weights before and after."""
    before, name = last(runs)
    lines = [(words, f"{old} → {new}" if new else old) for words, old, new in changes(recipe, before)] if before else []
    title = f"Against the last run, {name}" if before else "The first run of this workspace"
    if before and not lines:
        at = jobs.status(runs / name)
        again = ": it would give the same mask, bit for bit" if at and at.state == "done" else ", which has not finished"
        title = f"The same as the last run, {name}{again}"
    more = [("and more", f"{len(lines) - _MOST} other changes")] if len(lines) > _MOST else []
    left = weights_left(recipe, described)
    size = (
        [(f"{left[0]}, about", f"{count_text(left[1])} → {count_text(left[2])} ({100 * (left[2] / left[1] - 1):.0f} %)")]
        if left
        else []
    )
    return facts.said(title, "", "estimate" if size else "", [*size, *lines[:_MOST], *more])


def last(runs: Path) -> tuple[Recipe | None, str]:
    """The newest run that pruned, and its name."""
    for path in folder.runs(runs):
        asked = runs / jobs.ASKED / f"{path.name}.yaml"
        found = known.asked_of(asked if asked.is_file() else path / folder.RECIPE)
        if found and any(step.prune for step in found.steps):
            return found, path.name
    return None, ""


def changes(now: Recipe, before: Recipe) -> list[tuple[str, str, str]]:
    """(what, before, now) for each field in which two recipes differ, with every default filled in."""
    one, two = (_flat(to_dict(_resolved(recipe), full=True)) for recipe in (before, now))
    bars = [key for key in one | two if key.endswith(_BARS)]
    other_method = [key.rpartition(".")[0] for key in two if key.endswith(".method") and one.get(key) != two[key]]
    moved = [row for key in dict.fromkeys(bars) for row in _bars(one.get(key) or {}, two.get(key) or {})]
    return moved + [
        (_words(key), _value(one.get(key)), _value(two.get(key)))
        for key in dict.fromkeys([*two, *one])
        if one.get(key) != two.get(key)
        and key not in bars
        and key not in _NOT_TOLD
        and {one.get(key), two.get(key)} not in ({"auto", source} for source in _STANDARD)
        and not any(key.startswith(f"{step}.params.") for step in other_method)  # another method has other parameters
    ]


def _resolved(recipe: Recipe) -> Recipe:
    try:
        return catalogue.resolve(recipe)
    except PrunariumError:
        return recipe


def _bars(one: Mapping[str, float], two: Mapping[str, float]) -> list[tuple[str, str, str]]:
    """A budget made by hand, a line a block or layer that differs; a few of them, and how many more there are."""
    names = [name for name in dict.fromkeys([*two, *one]) if one.get(name) != two.get(name)]
    percent = [
        [f"{100 * shares[name]:.4g} %" if name in shares else "none of its own" for shares in (one, two)] for name in names
    ]
    told = [(_bar(name), *values) for name, values in zip(names, percent, strict=True)]
    if len(told) <= _MOST_BARS:
        return told
    more = len(told) - _MOST_BARS
    return [*told[:_MOST_BARS], ("and more of the budget", f"{more} other bar{'s' * (more != 1)}", "")]


def _bar(name: str) -> str:
    """blocks.0.mlp.up_proj -> Block 0, mlp.up_proj."""
    head, _, rest = name.partition(".")
    number, _, layer = rest.partition(".")
    return name if head != "blocks" else f"Block {number}, {layer}" if layer else f"Block {number}"


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """Nested mappings and lists as one mapping by dotted keys, the bars of a budget under one; an empty one says nothing."""
    if isinstance(value, dict) and key.endswith(_BARS):
        return {key: value} if value else {}
    if isinstance(value, dict):
        return {k: v for name, item in value.items() for k, v in _flat(item, f"{key}.{name}".lstrip(".")).items()}
    if isinstance(value, list):
        return {k: v for at, item in enumerate(value) for k, v in _flat(item, f"{key}.{at}").items()}
    return {} if value is None else {key: value}


def _words(key: str) -> str:
    """steps.0.prune.sparsity -> Share removed."""
    if key in _WORDS:
        return _WORDS[key]
    parts = key.split(".")
    tail = _LAST.get(parts[-1], parts[-1].replace("_", " "))
    if parts[0] == "steps" and len(parts) > 3:
        inner = ".".join(parts[3:-1])
        return f"{tail} ({parts[2]}{', ' + inner if inner else ''})" if inner or parts[2] != "prune" else tail
    return f"{tail} ({'.'.join(parts[:-1])})" if len(parts) > 1 else tail


def _value(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)[:40]


def weights_left(recipe: Recipe, described: Mapping[str, Any]) -> tuple[str, int, int] | None:
    """(what is counted, before, after) where the recipe's shares alone say it; None where it is known only once the model was looked at."""
    total, layers = (
        int(described.get("parameters") or 0),
        [row for row in described.get("layers") or () if row.get("block") is not None],
    )
    prunes = [step.prune for step in recipe.steps if step.prune]
    if len(prunes) != 1 or not total or not layers or catalogue.pruner(catalogue.load(), prunes[0].method).inside:
        return None
    prune = prunes[0]
    if prune.budget:
        return (
            ("Parameters", total, round(total * (1 - prune.budget.remove)))
            if prune.budget.cost == "parameters" and prune.budget.remove
            else None
        )
    masked = prune.structure == "unstructured" or n_of_m(prune.structure) or tile_size(prune.structure)
    roles = {"neurons": ("gate", "up", "down", "mlp"), "heads": ("query", "key", "value", "output", "qkv")}.get(prune.structure)
    if not masked and not roles and prune.structure != "blocks":
        return None
    gone = sum(
        _share(prune, str(row["name"])) * int(row["parameters"]) for row in layers if not roles or row.get("role") in roles
    )
    return ("Weights that are not zero" if masked else "Parameters"), total, round(total - gone)


def _share(prune: Prune, name: str) -> float:
    """The share that goes from a layer: its own in a budget by hand, else its block's."""
    if (prune.only and not any(fnmatch(name, one) for one in prune.only)) or any(fnmatch(name, one) for one in prune.protect):
        return 0.0
    if prune.allocation.method == "by_hand":
        shares = prune.allocation.shares
        return float(shares.get(name, shares.get(".".join(name.split(".")[:2]), 0.0)))
    return float(prune.sparsity or 0.0)
