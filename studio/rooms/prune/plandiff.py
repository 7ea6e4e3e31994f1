"""What a plan changes: against the last run's recipe, or the default one where nothing was run yet; and how many weights it would leave. Pure reading."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core import catalogue, folder
from core.cost import MASKS
from core.errors import PrunariumError
from core.recipe import Prune, Recipe, n_of_m, tile_size, to_dict
from core.recipe_steps import SUPER_WEIGHTS
from studio import jobs, known, target
from studio.parts import facts
from studio.parts.facts import count_text
from studio.rooms.prune import scope
from studio.rooms.prune.plans import BY_HAND, STRUCTURE_WORDS

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
    "budget": "Target",
    "only": "Only from",
    "protect": "Never from",
    "allocation": "Spread",
    "learning_rate": "Learning rate",
}
_STEPS = {"prune": "Pruning", "reconstruct": "Reconstruction", "recover": "Recovery"}


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
    size = [_left(left)] if (left := weights_left(recipe, described) or budgeted(recipe, described)) else []
    return facts.said(title, "", "estimate" if size else "", [*size, *lines[:_MOST], *more])


def _left(left: tuple[str, float, float]) -> tuple[str, str]:
    """What is counted, and the figure before and after."""
    words, before, after = left
    text = facts.size_text if words == "Bytes on disk" else count_text
    return f"{words}, about", f"{text(before)} → {text(after)} ({100 * (after / before - 1):.0f} %)"


def budgeted(recipe: Recipe, described: Mapping[str, Any]) -> tuple[str, float, float] | None:
    """(what is counted, before, after) of a plan with a target in parameters or bytes: that much is asked for. None for others, and where nothing need go."""
    asked = [step.prune for step in recipe.steps if step.prune]
    budget = asked[0].budget if len(asked) == 1 else None
    words, key = {"parameters": ("Parameters", "parameters"), "bytes": ("Bytes on disk", "size_bytes")}.get(
        budget.cost if budget else "", ("", "")
    )
    total = float(described.get(key) or 0)
    if budget is None or not total:
        return None
    left = budget.at_most if budget.at_most is not None else total * (1 - (budget.remove or 0))
    masked = asked[0].structure in MASKS or tile_size(asked[0].structure)
    return ("Weights that are not zero" if masked else words), total, min(left, total)


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
    whole = _steps_come_or_gone(one, two)
    return [*whole.values()] + moved + [
        (_words(key), _value(key, one.get(key)), _value(key, two.get(key)))
        for key in dict.fromkeys([*two, *one])
        if one.get(key) != two.get(key)
        and key not in bars
        and key not in _NOT_TOLD
        and not key.startswith(tuple(whole))
        and {one.get(key), two.get(key)} not in ({"auto", source} for source in _STANDARD)
        and not any(key.startswith(f"{step}.params.") for step in other_method)  # another method has other parameters
    ]  # fmt: skip


def _steps_come_or_gone(one: Mapping[str, Any], two: Mapping[str, Any]) -> dict[str, tuple[str, str, str]]:
    """{beginning of its keys: (what, before, now)} of each step that only one of the recipes has: a line, not one for each of its fields."""
    out = {}
    for key in dict.fromkeys([*two, *one]):
        parts = key.split(".")
        if parts[0] == "steps" and len(parts) == 4 and parts[3] == "method" and (key in one) != (key in two):
            start = ".".join(parts[:3]) + "."
            said = [f"{_value(key, at[key])}{_long(at, start)}" if key in at else "none" for at in (one, two)]
            out[start] = (_STEPS[parts[2]], said[0], said[1])
    return out


def _long(at: Mapping[str, Any], start: str) -> str:
    return f", {at[start + 'steps']} steps" if f"{start}steps" in at else ""


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
    """Nested mappings and lists as one mapping by dotted keys, the bars of a budget, a target and a list of words under one; an empty one says nothing."""
    if isinstance(value, dict) and key.endswith(_BARS):
        return {key: value} if value else {}
    if isinstance(value, dict) and key.endswith(".prune.budget"):
        return {key: target.short(value["cost"], value.get("remove"), value.get("at_most"))}
    if isinstance(value, dict):
        return {k: v for name, item in value.items() for k, v in _flat(item, f"{key}.{name}".lstrip(".")).items()}
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return {key: ", ".join(value)}
    if isinstance(value, list):
        return {k: v for at, item in enumerate(value) for k, v in _flat(item, f"{key}.{at}").items()}
    return {} if value is None else {key: value}


def _words(key: str) -> str:
    """steps.0.prune.sparsity -> Share removed."""
    if key in _WORDS:
        return _WORDS[key]
    parts = key.split(".")
    if parts[0] == "steps" and parts[-2:] == ["allocation", "method"]:
        return _LAST["allocation"]
    tail = _LAST.get(parts[-1], parts[-1].replace("_", " "))
    if parts[0] == "steps" and len(parts) > 3:
        inner = ".".join(parts[3:-1])
        return f"{tail} ({parts[2]}{', ' + inner if inner else ''})" if inner or parts[2] != "prune" else tail
    return f"{tail} ({'.'.join(parts[:-1])})" if len(parts) > 1 else tail


def _value(key: str, value: Any) -> str:
    """A field's value in the words of the menus, a share in percent."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key.endswith(".prune.sparsity"):
        return f"{100 * value:.4g} %"
    if key.startswith("steps.") and key.endswith("method"):
        return "the budget by hand" if value == BY_HAND else _labels().get(value, str(value))
    if key.endswith(".structure"):
        size = tile_size(value)
        return f"{size} × {size} tiles" if size else STRUCTURE_WORDS.get(value, str(value))
    if key.endswith(".protect"):
        return str(value).replace(SUPER_WEIGHTS, "the super weights")[:80]
    return f"{value:g}" if isinstance(value, float) else str(value)[:40]


def _labels() -> dict[str, str]:
    """{name: label} of what a step may name."""
    return {
        card.name: card.label
        for card in catalogue.load()
        if card.kind in (*catalogue.PRUNERS, "allocator", "reconstruction", "recovery")
    }


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
    masked = prune.structure == "unstructured" or n_of_m(prune.structure) or tile_size(prune.structure)
    if prune.budget:
        return None
    roles = {"neurons": ("gate", "up", "down", "mlp"), "heads": ("query", "key", "value", "output", "qkv")}.get(prune.structure)
    if not masked and not roles and prune.structure != "blocks":
        return None
    gone = sum(
        _share(prune, str(row["name"])) * int(row["parameters"]) for row in layers if not roles or row.get("role") in roles
    )
    return ("Weights that are not zero" if masked else "Parameters"), total, round(total - gone)


def _share(prune: Prune, name: str) -> float:
    """The share that goes from a layer: its own in a budget by hand, else its block's."""
    if (prune.only and not any(scope.fits(name, one) for one in prune.only)) or any(
        scope.fits(name, one) for one in prune.protect
    ):
        return 0.0
    if prune.allocation.method == "by_hand":
        shares = prune.allocation.shares
        return float(shares.get(name, shares.get(".".join(name.split(".")[:2]), 0.0)))
    return float(prune.sparsity or 0.0)
