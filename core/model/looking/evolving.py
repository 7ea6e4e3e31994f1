"""The run of a genetic search over formulas: what it tries is measured in a lab, what it found lies in formulas.json, the best is proved on other text."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from core import folder
from core.errors import ModelError, RecipeError
from core.events import Progress, Watcher
from core.evolve import Search, Tried, evolve, fittest
from core.formula import Node, parse
from core.model.blocks import known_ids
from core.model.files.source import fingerprint
from core.model.inputs import text
from core.model.loading import LoadedModel
from core.model.looking.formula_lab import REFERENCES, Lab, open_lab
from core.model.pruning.step import prune
from core.recipe import Evolve, Prune, Recipe

BEST = 12  # formulas in the report; formulas.json has them all
SECOND_LOOK = 4  # times as many windows, on which the BEST are measured again: the best of many is partly the luckiest of many


def evolve_formulas(
    recipe: Recipe, path: Path, loaded: LoadedModel, calibration: Callable[[], Tensor], held_out: Tensor | None, watcher: Watcher
) -> dict[str, Any]:
    """Search as `recipe.evolve` says, write formulas.json into `path` after each generation, return what the report says of it.

    held_out: windows (samples, tokens) on which the best formula is measured in the end, behind a real prune step; None: not measured. The model
    is left as it was. Raises ModelError where no formula works, RecipeError where `resume` names a search of another kind.
    """
    ask = recipe.evolve
    if loaded.tokenizer is None:
        raise ModelError(
            f"{loaded.name} has no tokenizer, so no formula can be judged on text.", "Use a model with its tokenizer."
        )
    windows = known_ids(loaded, text.sequences(ask.source, loaded.tokenizer, ask.samples, ask.tokens, recipe.seed, ask.column))
    lab = open_lab(loaded, calibration(), windows, watcher)
    found = _Found(path, lab, ask, _about(recipe, loaded), watcher)
    if ask.resume:
        found.known = _known(Path(ask.resume), found.about)
    found.references = {"dense": lab.perplexity({})} | {
        name: lab.perplexity(lab.masks_of(name, ask.structure, ask.sparsity)) for name in REFERENCES
    }
    search = Search(ask.population, ask.generations, recipe.seed, ask.start)
    watcher.say(Progress("evolve", 0, found.places, values=found.told()))
    try:
        best = evolve(found.fitness, search, found.hear, found.end)
    finally:
        found.write()
    if not best or not math.isfinite(best[0].fitness):
        raise ModelError("No formula that was tried gives a score for every weight.", "Search with a larger population.")
    more = text.sequences(ask.source, loaded.tokenizer, SECOND_LOOK * ask.samples, ask.tokens, recipe.seed + 1, ask.column)
    found.again = _again(lab, ask, found.best(), known_ids(loaded, more))
    found.write()
    if held_out is not None:
        found.held_out = _proved(lab, recipe, found.best(), held_out, calibration)
    found.write()
    return found.said()


@dataclass
class _Found:
    """What a search has found so far, and the file that says it. `known`: perplexities of an earlier search, by formula."""

    path: Path
    lab: Lab
    ask: Evolve
    about: dict[str, Any]
    watcher: Watcher
    known: dict[str, float] = field(default_factory=dict)
    references: dict[str, float] = field(default_factory=dict)
    tried: list[Tried] = field(default_factory=list)
    generations: int = -1
    again: dict[str, float] = field(default_factory=dict)  # by formula, or name of a reference: perplexities of the second look
    held_out: dict[str, Any] | None = None

    @property
    def places(self) -> int:
        return self.ask.population * (self.ask.generations + 1)

    def fitness(self, node: Node) -> float:
        self.watcher.check()
        if node.text in self.known:
            return self.known[node.text]
        return self.lab.fitness(node, self.ask.structure, self.ask.sparsity)

    def hear(self, tried: Tried, filled: int) -> None:
        self.tried.append(tried)
        if math.isfinite(tried.fitness):
            self.watcher.say(Progress("evolve", min(filled, self.places), self.places, text=tried.formula, values=self.told()))

    def end(self, generation: int) -> None:
        self.generations = generation
        done = self.ask.population * (generation + 1)
        self.watcher.say(Progress("evolve", done, self.places, values=self.told()))
        self.write()

    def told(self) -> dict[str, float]:
        best = min(self.tried, key=Tried.rank, default=None)
        return {"best_perplexity": best.fitness} if best and math.isfinite(best.fitness) else {}

    def best(self) -> list[Tried]:
        """The best formulas, one of those that keep the same weights; by the second look, where it was taken."""
        works = fittest([tried for tried in self.tried if math.isfinite(tried.fitness)], BEST)
        return sorted(works, key=lambda tried: (self.again.get(tried.formula, math.inf), *tried.rank()))

    def said(self) -> dict[str, Any]:
        works = sum(math.isfinite(tried.fitness) for tried in self.tried)
        return {
            **self.about, "generations": self.generations, "tried": len(self.tried), "worked": works, "references": self.references,
            "best": [_row(tried) | {"again": self.again.get(tried.formula)} for tried in self.best()],
            "again": {name: self.again.get(name) for name in REFERENCES}, "held_out": self.held_out,
        }  # fmt: skip

    def write(self) -> None:
        folder.write_json(self.path / folder.FORMULAS, {**self.said(), "all": [_row(tried) for tried in self.tried]})


def _row(tried: Tried) -> dict[str, Any]:
    """`perplexity` is null where the formula failed."""
    row = asdict(tried)
    return {"formula": row.pop("formula"), "perplexity": row.pop("fitness"), **row}


def _about(recipe: Recipe, loaded: LoadedModel) -> dict[str, Any]:
    """All that a formula's perplexity depends on besides the formula: two searches with equal words here may share what they found."""
    ask, text_ = recipe.evolve, recipe.calibration
    return {
        "model": {"source": recipe.model.source, "fingerprint": fingerprint(loaded.location)},
        "protocol": {
            "structure": ask.structure, "sparsity": ask.sparsity, "source": ask.source, "samples": ask.samples, "tokens": ask.tokens,
            "column": ask.column, "calibration": {**text_.model_dump(), "seed": recipe.seed}, "dtype": str(next(loaded.model.parameters()).dtype),
        },
    }  # fmt: skip


def _known(earlier: Path, about: dict[str, Any]) -> dict[str, float]:
    """{formula: perplexity} of an earlier search, which must have judged formulas as this one does."""
    try:
        told = folder.read_json(earlier / folder.FORMULAS)
        known = {str(row["formula"]): math.inf if row["perplexity"] is None else float(row["perplexity"]) for row in told["all"]}
        same = {part: told[part] for part in about}
    except (OSError, ValueError, KeyError, TypeError):
        raise RecipeError(
            f"There is no search to take up again in {earlier}.", "Give resume the folder of a run that has evolved formulas."
        ) from None
    for part, value in folder.finite(about).items():
        for name in value:
            if same[part].get(name) != value[name]:
                raise RecipeError(
                    f"The search in {earlier} judged formulas by another {name}: {same[part].get(name)!r}, not {value[name]!r}.",
                    "Leave resume out, or ask for the same.",
                )
    return known


def _again(lab: Lab, ask: Evolve, best: list[Tried], windows: Tensor) -> dict[str, float]:
    """{formula or reference: perplexity} of the second look."""
    share = ask.structure, ask.sparsity
    found = {name: lab.perplexity_on(windows, lab.masks_of(name, *share)) for name in REFERENCES}
    for number, tried in enumerate(best):
        lab.watcher.say(Progress("second look", number, len(best)))
        found[tried.formula] = lab.perplexity_on(windows, lab.masks(lab.scores(parse(tried.formula)), *share))
    lab.watcher.say(Progress("second look", len(best), len(best)))
    return found


def _proved(lab: Lab, recipe: Recipe, best: list[Tried], held_out: Tensor, calibration: Callable[[], Tensor]) -> dict[str, Any]:
    """Perplexities on windows that no formula was chosen by, each behind a prune step of its own: dense, the references, the best formula that prunes."""
    asked, ask, loaded = recipe.measure.perplexity, recipe.evolve, lab.loaded

    def after(method: str, params: dict[str, Any]) -> float:
        step = Prune(method=method, structure=ask.structure, sparsity=ask.sparsity, params=params)
        try:
            prune(loaded, step, calibration, recipe.seed, lab.watcher)
            return lab.perplexity_now(held_out)
        finally:
            lab.put_back()

    said: dict[str, Any] = {
        "source": asked.source, "samples": len(held_out), "tokens": int(held_out.shape[1]),
        "dense": lab.perplexity_now(held_out),
        **{name: after(name, {}) for name in REFERENCES},
    }  # fmt: skip
    for tried in best:
        try:
            return said | {"best": tried.formula, "formula": after("formula", {"expression": tried.formula})}
        except (
            ModelError
        ) as error:  # it held on the dense model's inputs, not on those behind pruned blocks: the next one is the best then
            lab.watcher.say(Progress("evolve", kind="note", text=f"{tried.formula}: {error.problem}"))
    return said | {"best": None, "formula": None}
