"""What a lesson's check is shown: the open model, the budget, the runs and what the person answered. Plain data; torch-free."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from core.budget import CostCurves, estimate
from core.errors import LessonError, PrunariumError
from core.recipe import Prune, Recipe

_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?")
_THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?![\d,])")  # 1,250; but 0,085 is a decimal comma
_BROKEN = 20.0  # the log increase of a level at which the model's quality was no number


@dataclass(frozen=True)
class Verdict:
    """What a check found. `why`: what it sees, in a sentence; `told`: figures for the lesson's own words."""

    right: bool
    why: str = ""
    told: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Done:
    """A finished run that pruned and measured. `prune`: its only or first pruning step."""

    name: str
    prune: Prune
    healed: bool
    report: Mapping[str, Any]

    @property
    def dense(self) -> float:
        return float(self.report["dense"]["perplexity"])

    def value(self, moment: str) -> float:
        return float((self.report.get(moment) or {}).get("perplexity") or float("nan"))

    @property
    def times(self) -> float:
        """The perplexity right after pruning, over that of the dense model on the same text."""
        return self.value("pruned") / self.dense

    @property
    def protocol(self) -> Any:
        """On what it was measured: two runs compare only where this is equal."""
        told = (self.report.get("protocol") or {}).get("perplexity") or {}
        return tuple(told.get(key) for key in ("source", "samples", "tokens"))

    @property
    def removed(self) -> float:
        """The share that really went: of the pruned layers' weights, or of the units where whole ones go."""
        told = self.report.get("sparsity") or {}
        return float(told.get("pruned_layers") or told.get(self.prune.structure) or 0.0)


def done(name: str, recipe: Recipe, report: Mapping[str, Any] | None) -> Done | None:
    """A run as the checks see it; None where it pruned nothing or measured no perplexity."""
    prunes = [step.prune for step in recipe.steps if step.prune]
    measured = all(((report or {}).get(moment) or {}).get("perplexity") for moment in ("dense", "pruned"))
    if not prunes or not report or not measured:
        return None
    return Done(name, prunes[0], any(step.recover for step in recipe.steps), report)


@dataclass(frozen=True)
class Scene:
    """Everything a check may name. shares, sizes, blocks: {layer: share to remove | weights | its block}. seen: observations of the model, or None.
    runs: finished runs of the model, newest first. figure(path): a figure of `seen` or `last` (the newest run's report). ask(question, **what): the worker.
    answers: {number of a step: what was answered there}."""

    model: str
    sizes: Mapping[str, int]
    blocks: Mapping[str, str]
    shares: Mapping[str, float]
    seen: Mapping[str, Any] | None = None
    runs: Sequence[Done] = ()
    answer: str = ""
    answers: Mapping[int, str] = field(default_factory=dict)
    ask: Callable[..., Any] | None = None

    def have(self) -> dict[str, Any]:
        own = {part.name: getattr(self, part.name) for part in fields(self)}
        return {**own, "figure": self.figure, "predict": self.predict}

    def figure(self, path: str) -> float:
        """A live figure by its path. Raises LessonError where the model has none such yet."""
        from core.lesson.figures import found

        last = self.runs[0].report if self.runs else None
        return found(path, {"seen": self.seen, "last": last})

    def predict(self, shares: Mapping[str, float]) -> float:
        """The quality predicted from the measured curves, as the Budget room does. Raises LessonError where there are none."""
        curves = curves_of(self.seen, self.sizes, self.blocks)
        if curves is None:
            raise LessonError("Nobody has measured this model's curves yet.", "Press Measure curves in the Budget room.")
        return estimate(curves, self.sizes, dict(shares)).quality


def by_layer(shares: Mapping[str, float], blocks: Mapping[str, str]) -> dict[str, float]:
    """{layer or block: share} -> {layer: share}. A layer's own name wins over its block's."""
    return {layer: shares.get(layer, shares.get(block, 0.0)) for layer, block in blocks.items()}


def total(shares: Mapping[str, float], sizes: Mapping[str, int]) -> float:
    """The share of all prunable weights that a budget removes."""
    return sum(share * sizes[layer] for layer, share in shares.items()) / max(sum(sizes.values()), 1)


def of_block(block: str, values: Mapping[str, float], sizes: Mapping[str, int], blocks: Mapping[str, str]) -> float:
    """The share that a budget removes of one block. Raises LessonError for a block that the model lacks."""
    mine = [layer for layer, name in blocks.items() if name == block]
    if not mine:
        raise LessonError(f"This model has no {block}.", "Open the model that the lesson is about.")
    return sum(values[layer] * sizes[layer] for layer in mine) / sum(sizes[layer] for layer in mine)


def curves_of(seen: Mapping[str, Any] | None, sizes: Mapping[str, int], blocks: Mapping[str, str]) -> CostCurves | None:
    """The cost of each layer from observations; a curve of a whole block is shared out by size. None where there is none."""
    given = (seen or {}).get("curves")
    if not given or given.get("dense") is None or given.get("structure") in ("neurons", "heads"):
        return None
    cost = {unit: tuple(_BROKEN if x is None else float(x) for x in values) for unit, values in given["cost"].items()}
    if not set(cost) & set(sizes):
        whole = {block: sum(sizes[layer] for layer, name in blocks.items() if name == block) for block in set(blocks.values())}
        cost = {
            layer: tuple(x * sizes[layer] / whole[block] for x in cost[block]) for layer, block in blocks.items() if block in cost
        }
    known = {part.name for part in fields(CostCurves)} - {"levels", "cost"}
    try:
        return CostCurves(tuple(given["levels"]), cost, **{key: given[key] for key in known if given.get(key) is not None})
    except (ValueError, TypeError, KeyError):
        return None


def number(text: str) -> float:
    """What a person typed as a number: `57.5`, `57,5`, `about 57`, `50 %`. Raises LessonError on none or on several."""
    plain = _THOUSANDS.sub(lambda hit: hit[0].replace(",", ""), text.strip()).replace(",", ".")
    hits = _NUMBER.findall(plain)
    if len(hits) != 1 or abs(float(hits[0])) == float("inf"):
        said = f"not “{text.strip()[:40]}”" if text.strip() else "and nothing was typed"
        raise LessonError(f"This asks for one number, {said}.", "Type digits, such as 57.5.")
    return float(hits[0])


def words(value: float) -> str:
    """A figure as a sentence says it: three digits or so."""
    size = abs(value)
    return f"{value:,.0f}" if size >= 1000 else f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 1 else f"{value:.3f}"


def percent(share: float) -> str:
    return f"{100 * share:.1f}".removesuffix(".0") + " %"


def plainly(check: Callable[[], Verdict]) -> Verdict:
    """A check's verdict, or its problem as one."""
    try:
        return check()
    except PrunariumError as error:
        return Verdict(False, str(error))
