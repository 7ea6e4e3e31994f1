"""A sweep: one YAML file that says many recipes, as a grid over fields of one recipe or as a list of recipes. Torch-free; decision 0016.

    recipe: 1
    name: methods-by-share
    model: {source: builtin:tiny-llama}
    steps: [{prune: {method: wanda, sparsity: 0.5}}]
    measure: {perplexity: {}}
    sweep: {steps.0.prune.method: [wanda, magnitude], steps.0.prune.sparsity: [0.3, 0.5, 0.7]}

or `sweep: {recipes: [one.yaml, another.yaml]}`, with paths beside the file. A cell is one recipe of it, and a run folder of its own under CELLS.
"""

from __future__ import annotations

import copy
import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from core import catalogue, folder
from core.errors import PrunariumError, RecipeError
from core.recipe import Recipe, parse
from core.views import slug
from core.yaml_text import plain

FILE, CELLS = "sweep.yaml", "cells"
MOST = 200
_LONGEST = 60  # letters of a cell's name


@dataclass(frozen=True)
class Cell:
    """One recipe of a sweep. values: what sets it apart, {field: value}; recipe None where it cannot run, and why: problem, remedy."""

    name: str
    values: dict[str, Any]
    recipe: Recipe | None
    problem: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Sweep:
    """`whole`: the mapping that makes it again, without anything beside it (recipes of a list stand inside)."""

    name: str
    whole: dict[str, Any]
    cells: tuple[Cell, ...]

    @property
    def fields(self) -> list[str]:
        return list(dict.fromkeys(name for cell in self.cells for name in cell.values))


@dataclass(frozen=True)
class CellState:
    """A cell as it stands on the disk. state: waiting | running | done | failed | stopped | interrupted; report: where it is done."""

    name: str
    values: dict[str, Any]
    path: Path
    state: str
    problem: str = ""
    report: dict[str, Any] | None = None


def loaded(text: str) -> Any:
    """YAML 1.2 text as plain data. Raises RecipeError."""
    return plain(text, "The sweep")


def is_sweep(file: Path) -> bool:
    """Does this YAML file say a sweep? A file that cannot be read is left to whoever reads recipes, who says what is wrong with it."""
    try:
        value = loaded(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, RecipeError):
        return False
    return isinstance(value, dict) and "sweep" in value


def read(file: Path) -> Sweep:
    """A sweep file -> Sweep. Raises RecipeError."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise RecipeError(f"There is no sweep that can be read at {file}.", "A sweep is a YAML file in UTF-8.") from None
    return from_yaml(text, file.parent)


def from_yaml(text: str, beside: Path | None = None) -> Sweep:
    """YAML text -> Sweep. beside: the folder of recipe files that it names; None: it may name none (the page reads no files)."""
    return made(loaded(text), beside)


def made(value: Any, beside: Path | None = None) -> Sweep:
    """A mapping -> Sweep, every cell checked. Raises RecipeError for a sweep of no cell or of too many, and where not one cell could run."""
    if not isinstance(value, dict) or "sweep" not in value:
        raise RecipeError("This is no sweep: it has no key `sweep`.", "Add sweep: {steps.0.prune.sparsity: [0.3, 0.5]}.")
    asked = value["sweep"]
    if not isinstance(asked, dict) or not asked:
        raise RecipeError(
            "The sweep has no cell: `sweep` says no field.",
            "Say fields with lists, such as {steps.0.prune.sparsity: [0.3, 0.5]}.",
        )
    base = {key: item for key, item in value.items() if key != "sweep"}
    name = str(base.get("name") or "sweep")
    if "recipes" in asked:
        whole, cells = _listed(base, asked, beside)
    else:
        whole, cells = value, tuple(_grid(base, asked))
    if all(cell.recipe is None for cell in cells):
        raise RecipeError(f"No cell of the sweep can run. The first: {cells[0].problem}", cells[0].remedy)
    return Sweep(name, whole, cells)


def to_yaml(whole: dict[str, Any]) -> str:
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style, yaml.width = None, 140
    yaml.sort_base_mapping_type_on_output = False
    out = io.StringIO()
    yaml.dump(whole, out)
    return out.getvalue()


def _grid(base: dict[str, Any], asked: dict[str, Any]) -> Iterator[Cell]:
    """Every combination of the fields' values, the last field fastest."""
    lists = {str(field): values if isinstance(values, list) else [values] for field, values in asked.items()}
    _check_count(lists)
    for number, values in enumerate(itertools.product(*lists.values()), 1):
        chosen = dict(zip(lists, values, strict=True))
        words = "-".join(_short(value) for value in values)
        name = slug(f"{number:03d}-{words}")[:_LONGEST].rstrip("-.")
        whole = copy.deepcopy(base)
        for field, value in chosen.items():
            _put(whole, field, copy.deepcopy(value))
        whole["name"] = f"{str(base.get('name') or 'sweep')[: 79 - len(name)]}-{name}"
        yield _cell(name, chosen, whole)


def _check_count(lists: dict[str, list[Any]]) -> None:
    for field, values in lists.items():
        if not values:
            raise RecipeError(f"The sweep has no cell: the list of {field} is empty.", "Give it a value, or leave the field out.")
    count = 1
    for values in lists.values():
        count *= len(values)
    if count > MOST:
        sizes = " x ".join(str(len(values)) for values in lists.values())
        raise RecipeError(
            f"The sweep has {count:,} cells ({sizes}), and {MOST} is the most.", "Shorten a list, or make several sweeps."
        )


def _listed(base: dict[str, Any], asked: dict[str, Any], beside: Path | None) -> tuple[dict[str, Any], tuple[Cell, ...]]:
    """The recipes of a list, each a file's name or a mapping."""
    if len(asked) > 1:
        raise RecipeError("A sweep is a grid or a list of recipes, not both.", "Leave `recipes` or the fields out.")
    listed = asked["recipes"]
    if not isinstance(listed, list) or not listed:
        raise RecipeError("The sweep has no cell: its list of recipes is empty.", "Name a recipe file, such as [one.yaml].")
    _check_count({"recipes": listed})
    wholes = [_recipe_at(one, beside) for one in listed]
    cells = []
    for number, whole in enumerate(wholes, 1):
        own = str(whole.get("name") or "recipe") if isinstance(whole, dict) else "recipe"
        cells.append(_cell(slug(f"{number:03d}-{own}")[:_LONGEST].rstrip("-."), {"recipe": own}, whole))
    return {**base, "sweep": {"recipes": wholes}}, tuple(cells)


def _recipe_at(one: Any, beside: Path | None) -> Any:
    if not isinstance(one, str):
        return one
    if beside is None:
        raise RecipeError(
            f"The page reads no recipe files, and this sweep names {one[:60]!r}.", "Run it with launch.py run SWEEP.yaml."
        )
    try:
        whole = loaded((beside / one).read_text(encoding="utf-8"))
        return (
            whole if isinstance(whole, dict) else {"not a recipe": one}
        )  # kept as a mapping: a bare word would be read as a file's name again
    except (OSError, UnicodeDecodeError):
        raise RecipeError(
            f"There is no recipe that can be read at {beside / one}.", "Paths are taken from the sweep's own folder."
        ) from None


def _cell(name: str, values: dict[str, Any], whole: Any) -> Cell:
    try:
        recipe = parse(whole)
        catalogue.resolve(recipe)
    except PrunariumError as error:
        return Cell(name, values, None, error.problem, error.remedy)
    return Cell(name, values, recipe)


def _put(whole: Any, field: str, value: Any) -> None:
    """Set a field by its dotted path, numbers for places in lists. Raises RecipeError where the path leads nowhere."""
    at, parts = whole, field.split(".")
    for place, part in enumerate(parts):
        last = place == len(parts) - 1
        if isinstance(at, list):
            if not part.isdecimal() or int(part) >= len(at):
                raise RecipeError(
                    f"The sweep's field {field!r} leads nowhere: there is no {'.'.join(parts[: place + 1])}.",
                    "Number the steps from 0.",
                )
            key: Any = int(part)
        elif isinstance(at, dict):
            key = part
            if not last and not isinstance(at.get(key), (dict, list)):
                at[key] = {}
        else:
            raise RecipeError(
                f"The sweep's field {field!r} leads nowhere.", "Name a field of the recipe, such as steps.0.prune.method."
            )
        if last:
            at[key] = value
        else:
            at = at[key]


def _short(value: Any) -> str:
    """A value as part of a cell's name."""
    if isinstance(value, dict):
        return "-".join(_short(item) for item in value.values() if not isinstance(item, (dict, list))) or "mapping"
    if isinstance(value, list):
        return "-".join(_short(item) for item in value) or "none"
    return str(value).replace(":", "of").replace("/", "-")


def cells_in(path: Path) -> list[CellState]:
    """The cells of the sweep in this folder, as they stand on the disk. Empty where there is none, or its file is damaged."""
    try:
        sweep = read(path / FILE)
    except PrunariumError:
        return []
    return [_state(cell, path / CELLS / cell.name) for cell in sweep.cells]


def _state(cell: Cell, path: Path) -> CellState:
    if cell.recipe is None:
        return CellState(cell.name, cell.values, path, "failed", f"{cell.problem} {cell.remedy}")
    if not path.is_dir():
        return CellState(cell.name, cell.values, path, "waiting")
    try:
        at = folder.status(path)
        report = folder.read_json(path / folder.REPORT) if at.state == "done" else None
    except (OSError, ValueError, KeyError, TypeError):
        return CellState(cell.name, cell.values, path, "interrupted", "Its folder is damaged; start the sweep again.")
    return CellState(cell.name, cell.values, path, at.state, f"{at.problem} {at.remedy}".strip(), report)
