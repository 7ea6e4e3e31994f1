"""Which layers and blocks a prune step touches, and what a budget by hand asks of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

from core.errors import RecipeError
from core.model.anatomy import Anatomy, Layer
from core.model.mixture.experts import ExpertLayer
from core.model.units.groups import UNITS, Group
from core.recipe import Prune
from core.recipe_steps import SUPER_WEIGHTS

Units = TypeVar("Units", Group, ExpertLayer)


def chosen_layers(anatomy: Anatomy, only: Sequence[str], protect: Sequence[str]) -> list[Layer]:
    """The layers a step touches. `only` and `protect`: layer or block names, or patterns with * ? [ ]. A name that fits nothing is an error."""

    def fits(layer: Layer, pattern: str) -> bool:
        return any(fnmatchcase(name, pattern) or name.startswith(pattern + ".") for name in (layer.name, layer.path))

    for pattern in (*only, *protect):
        if not any(fits(layer, pattern) for layer in anatomy.layers):
            names = ", ".join(layer.name for layer in anatomy.layers[:3])
            raise RecipeError(f"No layer of this model fits {pattern!r}.", f"Layers are called {names}, ...")
    layers = [layer for layer in anatomy.layers if not only or any(fits(layer, pattern) for pattern in only)]
    layers = [layer for layer in layers if not any(fits(layer, pattern) for pattern in protect)]
    if not layers:
        raise RecipeError("The step leaves no layer to prune: everything is protected.", "Shorten `protect`, or widen `only`.")
    return layers


def by_hand(shares: Mapping[str, float], anatomy: Anatomy, layers: Sequence[Layer]) -> dict[str, float]:
    """{layer or block name: share} -> {layer name: share}. A layer's own name wins over its block's; what is not named stays whole."""
    known = {layer.name for layer in anatomy.layers} | {block.name for block in anatomy.blocks}
    for name in shares:
        if name not in known:
            raise RecipeError(
                f"The budget names {name!r}, which this model does not have.", f"It has {', '.join(sorted(known)[:4])}, ..."
            )
    block_name = {block.index: block.name for block in anatomy.blocks}
    return {layer.name: shares.get(layer.name, shares.get(block_name.get(layer.block, ""), 0.0)) for layer in layers}


def chosen_units(names: Mapping[str, str], what: str, only: Sequence[str], protect: Sequence[str]) -> list[str]:
    """The units that may go, of {name: path of its first module}. `only` and `protect` as for layers: a name that fits nothing is an error."""

    def fits(name: str, pattern: str) -> bool:
        return any(fnmatchcase(known, pattern) or known.startswith(pattern + ".") for known in (name, names[name]))

    for pattern in (*only, *protect):
        if not any(fits(name, pattern) for name in names):
            shown = ", ".join(list(names)[:3])
            raise RecipeError(f"No {what} of this model fits {pattern!r}.", f"They are called {shown}, ...")
    chosen = [name for name in names if not only or any(fits(name, pattern) for pattern in only)]
    chosen = [name for name in chosen if not any(fits(name, pattern) for pattern in protect)]
    if not chosen:
        raise RecipeError(f"The step leaves no {what} to remove: everything is protected.", "Shorten `protect`, or widen `only`.")
    return chosen


def removed_by_hand(shares: Mapping[str, float], names: Mapping[str, int]) -> list[str]:
    """The units, of {name: index of its block}, that a budget by hand takes out: a unit's own name wins over its block's. Shares are 0 or 1."""
    known = {*names, *(f"blocks.{index}" for index in names.values())}
    for name, share in shares.items():
        if name not in known:
            raise RecipeError(
                f"The budget names {name!r}, which this model does not have.", f"It has {', '.join(sorted(known)[:4])}, ..."
            )
        if share not in (0.0, 1.0):
            raise RecipeError("A block or sub-layer goes whole or stays.", "Give each one that you name a share of 0 or 1.")
    return [name for name, index in names.items() if shares.get(name, shares.get(f"blocks.{index}", 0.0)) == 1.0]


def chosen_groups(groups: Sequence[Units], anatomy: Anatomy, step: Prune) -> list[Units]:
    """The groups that may give units. `only` and `protect` name groups, their blocks or layers, or patterns; one that fits nothing is an error."""
    names = {group.name: _names(group, anatomy) for group in groups}
    what = step.structure if step.structure in (*UNITS, "experts") else "experts"  # weights inside experts are chosen by them

    def fits(group: Units, patterns: Sequence[str]) -> bool:
        return any(fnmatchcase(name, p) or name.startswith(p + ".") for name in names[group.name] for p in patterns)

    def chosen(group: Units) -> bool:  # what several blocks share is not one block's to give
        own = (group.name,) if group.block is None else names[group.name]
        return any(fnmatchcase(name, p) or name.startswith(p + ".") for name in own for p in step.only)

    for pattern in (*step.only, *step.protect):
        if not any(fits(group, (pattern,)) for group in groups):
            shown = ", ".join(group.name for group in groups[:3])
            raise RecipeError(f"No {what} of this model fit {pattern!r}.", f"They are called {shown}, ... or by their block.")
    allowed = [group for group in groups if (not step.only or chosen(group)) and not fits(group, step.protect)]
    if not allowed:
        raise RecipeError(f"The step leaves no {what} to remove: all are protected.", "Shorten `protect`, or widen `only`.")
    return allowed


def _names(group: Group | ExpertLayer, anatomy: Anatomy) -> tuple[str, ...]:
    """All that a group is called by: its own name, its layers', and those of the blocks they lie in."""
    layers = [anatomy.by_path[part.path] for part in group.everything if part.path in anatomy.by_path]
    lies_in = dict.fromkeys(layer.block for layer in layers) | ({} if group.block is None else {group.block: None})
    blocks = [name for index in lies_in if index is not None for name in (anatomy.blocks[index].name, anatomy.blocks[index].path)]
    return (group.name, *blocks, *(name for layer in layers for name in (layer.name, layer.path)))


def units_by_hand(shares: Mapping[str, float], anatomy: Anatomy, groups: Sequence[Group | ExpertLayer]) -> dict[str, float]:
    """{group or block name: share} -> {group name: share}. A group's own name wins over its block's; what is not named stays whole."""
    known = [*(group.name for group in groups), *(block.name for block in anatomy.blocks)]
    for name in shares:
        if name not in known:
            raise RecipeError(
                f"The budget names {name!r}, which has no such units here.",
                f"It may name {', '.join(known[:3])}, ... or whole blocks.",
            )
    return {group.name: shares.get(group.name, shares.get(f"blocks.{group.block}", 0.0)) for group in groups}


def check_spared(step: Prune, kind: str) -> None:
    """Raise RecipeError where single weights shall be protected from a method that is asked for no scores."""
    if SUPER_WEIGHTS in step.protect and kind != "score":
        does = "chooses its weights while it solves" if kind == "solver" else "learns which weights stay"
        raise RecipeError(f"{step.method} {does}, so single ones cannot be protected from it.",
                          "Leave super_weights out of protect, or use a criterion such as wanda.")  # fmt: skip
