"""What methods there are, without importing them: cards read from assets/catalogue.json. Torch-free.

`python -m core.catalogue` lists them, `--json` as JSON, `write` makes the file anew (a test holds it fresh).
"""

from __future__ import annotations

import difflib
import json
import os
import sys
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from core import cost, formula, listing
from core.errors import RecipeError
from core.recipe import Choose, Prune, Recipe, Select, Step, Text, n_of_m, tile_size

PRUNERS = (
    "score",
    "solver",
    "search",
    "transform",
    "learned",
)  # the kinds of method that a prune step may name; a name belongs to one of them
GENERAL = "builtin:wikitext2/train"  # the general text where a step names none
FILE = Path(os.environ.get("PRUNARIUM_CATALOGUE") or listing.FILE)


@dataclass(frozen=True)
class PaperCard:
    authors: str
    year: int
    title: str
    arxiv: str = ""

    @property
    def said(self) -> str:
        """Authors (year), title, and its number where it has one."""
        return f"{self.authors} ({self.year}), {self.title}" + (f", arXiv {self.arxiv}" if self.arxiv else "")


@dataclass(frozen=True)
class ParamCard:
    """A control: `type` is float | int | str | bool; bounds are inclusive, None where open. `longest`, `grammar`: of free text."""

    name: str
    label: str
    type: str
    default: Any
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    longest: int | None = None
    grammar: str = ""


@dataclass(frozen=True)
class MethodCard:
    """All that the screen, the docs and the recipe check need to know about a method.

    `selector`: what a data score is used with where a recipe names no selector. `decides`: it needs no share to keep. `learning_rate`: a
    recovery's default. `adds_bias`: the parameter with which units that go leave their mean behind in the next layer's bias.
    `spares_above`: the parameter above which no unit goes, whatever the share. `inside`: "experts" where it scores the weights inside
    experts, which are no layers, and nothing else. `problem`: why the method cannot be used, else empty.
    """

    name: str
    kind: str
    label: str
    summary: str = ""
    doc: str = ""
    version: int = 1
    place: str = ""
    compare: str = ""
    paper: PaperCard | None = None
    needs: tuple[str, ...] = ()
    structures: tuple[str, ...] = ()
    params: tuple[ParamCard, ...] = ()
    selector: str = ""
    decides: bool = False
    learning_rate: float | None = None
    adds_bias: str = ""
    inside: str = ""
    spares_above: str = ""
    problem: str = ""


@cache
def load(file: Path = FILE) -> tuple[MethodCard, ...]:
    """The cards as last written."""
    return tuple(_card(value) for value in json.loads(file.read_text(encoding="utf-8"))["methods"])


def of_kind(kind: str) -> tuple[MethodCard, ...]:
    return tuple(card for card in load() if card.kind == kind)


def pruners() -> tuple[MethodCard, ...]:
    """The cards of all methods that a prune step may name."""
    return tuple(card for card in load() if card.kind in PRUNERS)


def pruner(cards: tuple[MethodCard, ...], name: str) -> MethodCard:
    """The card of a prune step's method. Raises RecipeError."""
    kind = next((card.kind for card in cards if card.name == name and card.kind in PRUNERS), "score")
    return find(cards, kind, name)


UNITS_IN_CURVES = ("neurons", "heads")


def resolve(recipe: Recipe, cards: tuple[MethodCard, ...] | None = None) -> Recipe:
    """Check every method and parameter that the recipe names, and fill in the parameters left out. Raises RecipeError."""
    cards = load() if cards is None else cards
    steps = tuple(_resolved_step(step, cards, recipe.calibration) for step in recipe.steps)
    _check_refits(steps, cards)
    changed: dict[str, Any] = {"steps": steps}
    if recipe.observe:
        for name in recipe.observe.scores:
            _seen_without_pruning(find(cards, "score", name), ("unstructured", "blocks"))
        if recipe.observe.curves:
            of = recipe.observe.curves
            _seen_without_pruning(
                find(cards, "score", of.method), (of.structure if of.structure in UNITS_IN_CURVES else "unstructured",)
            )
    if recipe.damage:
        _seen_without_pruning(find(cards, "score", recipe.damage.method), ("unstructured",))
    for text in recipe.evolve.start if recipe.evolve else ():
        formula.parse(text)
    if recipe.select:
        heals = recipe.heal is not None
        changed["select"] = resolved_select(
            recipe.select, cards, recipe.model is not None, heals, counted=heals or recipe.cross is not None
        )
    for text in (recipe.calibration, *(step.prune.general for step in recipe.steps if step.prune and step.prune.general)):
        if text.choose:
            resolved_choice(text.choose, cards)
    if any(step.recover and step.recover.data and step.recover.data.choose for step in recipe.steps):
        raise RecipeError(
            "Recovery reads a whole text, so there is nothing to choose.", "Use heal to compare choices of recovery data."
        )
    if recipe.heal:
        card = find(cards, "recovery", recipe.heal.method)
        changed["heal"] = recipe.heal.model_copy(
            update={"params": fill(card, recipe.heal.params), "learning_rate": recipe.heal.learning_rate or card.learning_rate}
        )
    if recipe.data:
        changed["embedding"] = recipe.embedding.model_copy(
            update={"params": fill(find(cards, "embedding", embedding_method(recipe.embedding.source)), recipe.embedding.params)}
        )
    return recipe.model_copy(update=changed)


def _seen_without_pruning(card: MethodCard, structures: tuple[str, ...]) -> None:
    """The X-ray shows scores of weights and blocks, and its curves prune weights, neurons or heads. Raises RecipeError for a method of other structures."""
    if card.inside or not set(structures) & set(card.structures):
        scored = f"weights inside {card.inside}" if card.inside else ", ".join(card.structures)
        raise RecipeError(
            f"{card.name} scores {scored}, which observe does not show.",
            f"Choose one for {' or '.join(structures)}.",
        )
    if asks_general(card):
        raise RecipeError(
            f"{card.name} sets a second text against the calibration text, and observe reads one.",
            "Choose taylor or fisher there.",
        )


def embedding_method(source: str) -> str:
    """`builtin:minilm` -> minilm, `column:NAME` -> column, `model@BLOCK` -> model."""
    return source.removeprefix("builtin:").split("@")[0].split(":")[0]


def find(cards: tuple[MethodCard, ...], kind: str, name: str) -> MethodCard:
    """The card of that kind and name. Raises RecipeError with the nearest name as a remedy."""
    known = {card.name: card for card in cards if card.kind == kind}
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        remedy = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(sorted(known))}."
        raise RecipeError(f"There is no {kind.replace('_', ' ')} called {name!r}.", remedy)
    if known[name].problem:
        raise RecipeError(f"The method {name!r} cannot be used: {known[name].problem}.", "Mend its file, or choose another.")
    return known[name]


def fill(card: MethodCard, given: dict[str, Any]) -> dict[str, Any]:
    """The person's parameters checked against the card's types and bounds, defaults filled in. Raises RecipeError."""
    known = {param.name: param for param in card.params}
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            remedy = f"Did you mean {near[0]!r}?" if near else f"It has: {', '.join(known) or 'no parameters'}."
            raise RecipeError(f"{card.name} has no parameter {name!r}.", remedy)
    return {name: _checked(card.name, param, given.get(name, param.default)) for name, param in known.items()}


def _named(card: MethodCard, params: dict[str, Any]) -> dict[str, Any]:
    """The same parameters. Raises RecipeError where one that names a second model or data set names none."""
    wanted = {"model": ("compares with a second model", "a folder"), "data": ("aims at a second data set", "a file")}
    for param in card.params:
        if param.grammar in wanted and not params[param.name].strip():
            does, where = wanted[param.grammar]
            raise RecipeError(
                f"{card.name} {does}, and {param.name} does not say which.",
                f"Add params: {{{param.name}: ...}}, with builtin:NAME, {where} or a hub id.",
            )
    return params


def _checked(method: str, param: ParamCard, value: Any) -> Any:
    types = {"float": (int, float), "int": (int,), "str": (str,), "bool": (bool,)}[param.type]
    wrong = not isinstance(value, types) or (isinstance(value, bool) and param.type != "bool")
    if wrong or (param.choices and value not in param.choices):
        means = "one of " + ", ".join(param.choices) if param.choices else f"a {param.type}"
        raise RecipeError(f"{method}: {param.name} must be {means}, not {value!r}.", f"Its default is {param.default!r}.")
    if (param.low is not None and not value >= param.low) or (param.high is not None and not value <= param.high):
        raise RecipeError(
            f"{method}: {param.name} must lie between {param.low:g} and {param.high:g}, not {value!r}.",
            f"Its default is {param.default!r}.",
        )
    if param.longest is not None and len(value) > param.longest:
        raise RecipeError(
            f"{method}: {param.name} is {len(value)} characters long; {param.longest} are allowed.",
            f"Its default is {param.default!r}.",
        )
    if param.grammar == "formula":
        formula.parse(value)
    return float(value) if param.type == "float" else value


def _resolved_step(step: Step, cards: tuple[MethodCard, ...], calibration: Text) -> Step:
    if step.prune:
        return step.model_copy(update={"prune": _with_general(_resolved_prune(step.prune, cards), cards, calibration)})
    kind, part = ("reconstruction", step.reconstruct) if step.reconstruct else ("recovery", step.recover)
    card = find(cards, kind, part.method)
    if step.reconstruct:
        return step.model_copy(update={"reconstruct": part.model_copy(update={"params": fill(card, part.params)})})
    update = {"params": fill(card, part.params), "learning_rate": part.learning_rate or card.learning_rate}
    return step.model_copy(update={"recover": part.model_copy(update=update)})


def _check_refits(steps: tuple[Step, ...], cards: tuple[MethodCard, ...]) -> None:
    """A reconstruction whose card names structures refits layers under a mask of such a structure. Raises RecipeError without one, or with another."""
    for number, step in enumerate(steps):
        card = find(cards, "reconstruction", step.reconstruct.method) if step.reconstruct else None
        prunes = [before.prune for before in steps[:number] if before.prune and not pruner(cards, before.prune.method).inside]
        gone = {_kind(prune.structure) for prune in prunes}
        if card and "vocabulary" in gone:
            raise RecipeError("After tokens went, the dense model reads other ids than the pruned one.",
                              "Put the reconstruct step before the step that removes them.")  # fmt: skip
        if card and gone & {"width", "slices"}:
            raise RecipeError("After the hidden width was narrowed, no layer has the dense one's shape.",
                              "Put the reconstruct step before the step that narrows it.")  # fmt: skip
        if card and card.structures and any(map(_moves_weights, steps[:number], [cards] * number)):
            raise RecipeError(f"{card.name} begins at the dense weights, and a step before it has trained or refitted others.",
                              "Put it right after the pruning.")  # fmt: skip
        if card and card.structures and (wrong := sorted(gone & {"unstructured", "N:M", "tiles"} - set(card.structures))):
            raise RecipeError(f"{card.name} would break the pattern of a mask of {wrong[0]}.", "Use admm or sparsegpt_update.")
        if card and card.structures and not gone & set(card.structures):
            raise RecipeError(f"{card.name} refits layers under a mask, and no step before it leaves one.",
                              "Prune single weights before it, or use least_squares.")  # fmt: skip


def _moves_weights(step: Step, cards: tuple[MethodCard, ...]) -> bool:
    """Does a step leave weights or biases that a refit towards the dense weights would undo?"""
    return bool(step.recover) or bool(step.reconstruct and not find(cards, "reconstruction", step.reconstruct.method).structures)


def _kind(structure: str) -> str:
    return "N:M" if n_of_m(structure) else "tiles" if tile_size(structure) else structure


def asks_general(card: MethodCard) -> bool:
    """Does the method read a second text, the step's `general`?"""
    return any(need.startswith("general_") for need in card.needs)


def _with_general(prune: Prune, cards: tuple[MethodCard, ...], calibration: Text) -> Prune:
    """A method that reads a second text gets the standard one where the step names none, as much of it as of the calibration text."""
    if not asks_general(pruner(cards, prune.method)):
        if prune.general is not None:
            others = ", ".join(card.name for card in cards if card.kind in PRUNERS and asks_general(card))
            raise RecipeError(
                f"{prune.method} reads no general text beside the calibration text.", f"Leave general out; {others} reads one."
            )
        return prune
    general = prune.general or Text(samples=calibration.samples, tokens=calibration.tokens)
    if general.source == "auto":
        general = general.model_copy(update={"source": GENERAL})
    return prune.model_copy(update={"general": general})


def _resolved_prune(prune: Prune, cards: tuple[MethodCard, ...]) -> Prune:
    card = pruner(cards, prune.method)
    structure = _kind(prune.structure)
    if structure not in card.structures:
        others = ", ".join(c.name for c in cards if c.kind in PRUNERS and structure in c.structures) or "none yet"
        raise RecipeError(
            f"{prune.method} does not work on {structure}; it works on {', '.join(card.structures)}.",
            f"For {structure}: {others}.",
        )
    if prune.budget:
        cost.check(structure, prune.budget.cost)
        if card.kind in ("transform", "learned") or card.inside:
            raise RecipeError(
                f"{prune.method} decides {'inside ' + card.inside if card.inside else 'for the whole model'} by a share, so it takes no budget.",
                "Say sparsity instead of budget.",
            )
    allocation = prune.allocation
    if card.inside and allocation.method not in ("uniform", "by_hand"):
        raise RecipeError(
            f"Allocation {allocation.method} looks at layers, and the weights inside {card.inside} are none.",
            "Use uniform or by_hand for them.",
        )
    if allocation.method != "by_hand":
        allocator = find(cards, "allocator", allocation.method)
        if allocation.method != "uniform" and structure not in allocator.structures:
            raise RecipeError(f"Allocation {allocation.method} does not apply to {structure}.", "Leave allocation out there.")
        allocation = allocation.model_copy(update={"params": fill(allocator, allocation.params)})
    return prune.model_copy(update={"params": _named(card, fill(card, prune.params)), "allocation": allocation})


def resolved_select(
    select: Select, cards: tuple[MethodCard, ...], reads: bool, heals: bool = False, counted: bool = False
) -> Select:
    """`method: NAME` becomes the score with its natural selector (or the selector of that name where no score is needed). Raises RecipeError.

    reads: a model is there to read with; heals: what rows lose by pruning is known; counted: how many stay is said elsewhere.
    """
    scores = {card.name: card for card in cards if card.kind == "data_score"}
    name, chosen = select.score, select.selector
    if select.method is not None:
        name, chosen = (select.method, scores[select.method].selector) if select.method in scores else (None, select.method)
    decides = not counted and select.keep is None and select.selector is None and name in scores and scores[name].decides
    chosen = None if decides else chosen or (scores[name].selector if name in scores else "") or "top"
    params = dict(select.params)
    found = [find(cards, "selector", chosen)] if chosen else []
    found += [find(cards, "data_score", name)] if name else []
    known = {param.name for card in found for param in card.params}
    for unknown in params.keys() - known:
        raise RecipeError(
            f"{name or chosen} has no parameter {unknown!r}.", f"It has: {', '.join(sorted(known)) or 'no parameters'}."
        )
    filled = {}
    for card in found:
        filled |= _named(card, fill(card, {key: value for key, value in params.items() if key in {p.name for p in card.params}}))
        if "loaded" in card.needs and not reads:
            raise RecipeError(f"{card.name} reads the rows with a model, and the recipe names none.", "Add model: {source: ...}.")
        if "damaged" in card.needs and not heals:
            raise RecipeError(f"{card.name} sets a pruned model beside the dense one.", "Say heal, with model and steps.")
    if select.keep is None and not decides and not counted:
        raise RecipeError("select does not say what share to keep.", "Add keep, such as keep: 0.3.")
    return select.model_copy(update={"method": None, "score": name, "selector": chosen, "params": filled})


def resolved_choice(choose: Choose, cards: tuple[MethodCard, ...] | None = None) -> Select:
    """What a text's `choose` asks for, checked. Raises RecipeError."""
    cards = load() if cards is None else cards
    find(cards, "embedding", embedding_method(choose.embedding))
    select = resolved_select(Select(method=choose.method, params=choose.params), cards, reads=True, counted=True)
    for card in cards:
        if "labels" in card.needs and card.name in (select.score, select.selector):
            raise RecipeError(
                f"{card.name} needs labels, and windows of a text have none.", "Choose k_center, herding or density_quotas."
            )
    return select


def _card(value: dict[str, Any]) -> MethodCard:
    value = dict(value)
    value["paper"] = PaperCard(**value["paper"]) if value.get("paper") else None
    value["params"] = tuple(ParamCard(**{**param, "choices": tuple(param["choices"])}) for param in value["params"])
    return MethodCard(**{**value, "needs": tuple(value["needs"]), "structures": tuple(value["structures"])})


def to_json(cards: list[MethodCard] | tuple[MethodCard, ...]) -> str:
    return json.dumps({"methods": [asdict(card) for card in cards]}, indent=1, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    """`write` makes the file anew; else the list, from the methods themselves where the person has a folder of their own."""
    if "write" in arguments or os.environ.get("PRUNARIUM_METHODS"):
        from core.method import cards as registered

        found = tuple(registered())
        if "write" in arguments:
            FILE.write_text(to_json(found), encoding="utf-8")
            return 0
    else:
        found = load()
    listing.show([asdict(card) for card in found], "--json" in arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
