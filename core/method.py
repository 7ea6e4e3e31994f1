"""The registry: a decorator for each kind of method. A method is one file: its decorator, signature and docstring say all about it.

A method asks for what it needs by parameter name. Positional parameters are filled from what the engine has (see each decorator);
keyword-only parameters are the person's, typed `Annotated[float, Param("Label", low, high)] = default`. From this one place come the menu
entry, the card, the controls, the recipe's validation, the docs table and the contract tests.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from core.catalogue import MethodCard, PaperCard, ParamCard
from core.errors import RecipeError

Function = TypeVar("Function", bound=Callable[..., Any])
PACKAGES = (
    "core.statistics",
    "core.prune",
    "core.allocate",
    "core.recover",
    "core.embed",
    "core.select",
    "core.lesson.checks",
)


@dataclass(frozen=True)
class Paper:
    authors: str
    year: int
    title: str
    arxiv: str = ""


@dataclass(frozen=True)
class Param:
    """A bound for a person's parameter: `low` and `high` inclusive, the `choices`, or (free text) the `longest` it may be.

    `grammar`: what free text is checked as before anything runs; "formula" is core.formula's; "model" is the source of a second model, which the person
    must give, with blocks of the same shapes; "data" is the source of a second data set, which the person must give; "column" names a column of the
    rows. A parameter `base` of that grammar gives a transform base_model (core.model.loading.LoadedModel, left in its
    file), a score of experts base_router.
    """

    label: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    longest: int | None = None
    grammar: str = ""


@dataclass(frozen=True)
class Method:
    """A registered method: its card, its function, and what only the engine needs to know."""

    card: MethodCard
    function: Callable[..., Any]
    needs: frozenset[str] = frozenset()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, have: Mapping[str, Any], params: Mapping[str, Any] | None = None) -> Any:
        """Call the function with those of `have` that it names, and the person's parameters (defaults where left out)."""
        names = [name for name, p in inspect.signature(self.function).parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
        return self.function(**{name: have[name] for name in names}, **dict(params or {}))

    def needed(self, params: Mapping[str, Any] | None = None) -> frozenset[str]:
        """What it needs with these parameters (a formula needs what its expression names)."""
        return frozenset(self.extra["needs_of"](dict(params or {}))) if "needs_of" in self.extra else self.needs


METHODS: dict[tuple[str, str], Method] = {}
_BROKEN: list[MethodCard] = []


Decorator = Callable[[Function], Function]
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def _register(
    kind: str,
    name: str,
    label: str,
    paper: Paper | None = None,
    needs: set[str] | None = None,
    *,
    extra: Mapping[str, Any] = _NOTHING,
    **card: Any,
) -> Decorator:
    def add(function: Function) -> Function:
        doc = inspect.getdoc(function)
        if not doc:
            raise TypeError(f"{kind} {name!r} has no docstring: the first line says what it keeps and why")
        shown = PaperCard(paper.authors, paper.year, paper.title, paper.arxiv) if paper else None
        needed = tuple(sorted(needs or ()))
        made = MethodCard(name, kind, label, doc.split("\n")[0], doc, paper=shown, needs=needed, params=_params(function), **card)
        METHODS[kind, name] = Method(made, function, frozenset(needed), extra)
        return function

    return add


def statistic(name: str, *, label: str, of: str, finish: Callable[..., Any], version: int = 1) -> Decorator:
    """What a calibration pass collects.

    `of` "layer": function(state, inputs) -> state, inputs float32 (sequences, tokens, features). `of` "block": function(state, before, after)
    -> state, both (sequences, tokens, hidden). `of` "gradient": function(state, gradient) -> state, once a sequence, gradient float32 (out, in): how
    that sequence's mean loss changes with each weight. `of` "experts": function(state, routed) -> state, what a batch does at the experts of a block
    (core.model.mixture.routing.Routed). `of` "expert weights": function(state, inputs, gates) -> state, for each matrix of each expert: what it reads, float32
    (tokens, features), of the tokens that visit the expert with these gates (tokens,); first called with no tokens. The first state is None;
    `finish(state, sequences)` makes the tensor that scores ask for.
    """
    return _register("statistic", name, label, extra={"of": of, "finish": finish}, version=version)


def score(
    name: str,
    *,
    label: str,
    paper: Paper | None = None,
    needs: set[str] | None = None,
    needs_of: Callable[[dict[str, Any]], set[str]] | None = None,
    rehearse: Callable[..., None] | None = None,
    **card: Any,
) -> Decorator:
    """Importances: the lowest go first. Single weights that are zero already go before all others, whatever they score.

    For unstructured, N:M and tiles (each by the mean of its weights): function(weight (out, in), ...) -> (out, in); a convolution comes as
    (out, in * kernel). For blocks: one number.
    For neurons, heads and channels: a function for single weights gives a unit the sum over its weights, in all the layers it runs through; any other
    scores units itself, -> (units,), and may name out_of (units, entries * out: the weights that read each entry of a unit, entry by entry),
    into (units, m: the weights that produce it), statistics of the reading layer's input as (units, entries), and parts (for each layer that the
    units run through, those that produce them first: {"weight" or statistic of gradients: (units, entries, m)}). A channel has an entry for each
    place of the kernel of each layer that reads it; where these make unequal numbers of outputs, out_of has zeros to fill up. For width: the same sum,
    or (units,) from shape, generator and statistics of what reads the stream, (units, places that read it). For experts: the sum over
    single weights where it names weight (and needs nothing else); any other -> (experts,), and may name statistics of experts, and router (experts,
    hidden: the rows that score them).
    May name weight, shape, generator (torch's, seeded by recipe and layer), its needs, and statistics (all of them, by name). Card: compare
    ("row" | "layer": what its scores are comparable within), structures, place, version, adds_bias (the name of a bool parameter; needs
    input_mean: units that go leave their mean in the reading layer's bias), spares_above (the name of a float parameter: units that score above it
    stay, whatever the share asks). needs_of(params): the needs, where parameters decide
    them (`needs` is then what the defaults need). inside ("experts": it scores the matrices of experts, one expert's at a time, and no layer; its needs
    are statistics of "expert weights"). rehearse(what the function is given, params): called for each layer of the dense model before any
    weight changes; raises where the score would fail.
    """
    extra = {key: value for key, value in (("needs_of", needs_of), ("rehearse", rehearse)) if value is not None}
    defaults = {"compare": "layer", "structures": ("unstructured", "N:M", "tiles")}
    return _register("score", name, label, paper, needs, extra=extra, **{**defaults, **card})


def solver(name: str, *, label: str, paper: Paper | None = None, needs: set[str] | None = None, **card: Any) -> Decorator:
    """A criterion that also changes the weights that stay: function(weight, share, ...) -> (new weight (out, in), kept bool (out, in)).

    May name weight (out, in) float32, share (to remove), pattern ((n, m) or None), watcher, and its needs. Structures: unstructured, N:M.
    For neurons and heads: weight of the layer that reads the units, index (units, entries: which of its columns are each unit's), count (of units to
    remove), its needs of that layer's input -> (new weight (out, in), kept bool (units,)); what it says of the columns that go is passed over.
    """
    return _register("solver", name, label, paper, needs, **{"structures": ("unstructured", "N:M"), **card})


def search(name: str, *, label: str, paper: Paper | None = None, **card: Any) -> Decorator:
    """Which units to remove, found by trying: function(units, ...) -> names of the units to remove, first removed first.

    May name units (names of those that may go, in order), sizes ({unit: parameters}, all units of the model in order), count (how many are asked for),
    share (the share asked for), evaluate (set of removed names -> mean loss in nats on the calibration inputs), evaluate_each (removed, candidates ->
    pairs (candidate, loss with it gone too), one at a time, for less work than evaluate), last_states (() -> (borders, sequences, hidden): the hidden
    state of each sequence's last token before each block and after the last), generator (torch's), watcher. Structures: blocks, sublayers, experts.
    For experts: units are those of one block ("0", "1", ...), and beside units, count, generator and watcher it may name errors (list of sets of
    removed names -> list of how much of that block's mixture is lost on the calibration inputs without each, |lost|^2 / |whole|^2).
    """
    return _register("search", name, label, paper, **{"structures": ("blocks",), **card})


def transform(name: str, *, label: str, structures: tuple[str, ...], paper: Paper | None = None, **card: Any) -> Decorator:
    """A change of the whole model at once, for what no score of one part can say: function(loaded, share, ...) -> core.model.pruning.pruned.Pruned.

    May name loaded (all in memory; it is changed in place), share (of the structure's units to remove), units (names of the blocks that may go or
    change, in order; empty for other structures), inputs (() -> calibration ids or pixels), generator (torch's), watcher, and second models (Param).
    Raises before it changes anything where the model or the step does not fit.
    """
    return _register("transform", name, label, paper, structures=structures, **card)


def learned(
    name: str,
    *,
    label: str,
    structures: tuple[str, ...],
    bytes_each: int,
    gradients: bool = True,
    paper: Paper | None = None,
    **card: Any,
) -> Decorator:
    """Scores of a whole model, learned from its loss with masks on: function(shapes, ...) -> {name: scores of that shape}; the lowest go.

    A mask is a float tensor, 1 = there, 0 = gone: (out, in) for a layer's weights, (units,) for the neurons or heads of a block. The method may name
    shapes ({name: shape} of all masks of the step), targets (pairs (names, how many of their entries go together)),
    ids (calibration sequences, (sequences, tokens)), loss(masks, rows) -> nats a token on those rows of them (all where rows is left out), generator
    (torch's), watcher, note(done, total, loss): tells how far it is, and obeys a stop; decide(scores, part) -> {name: bool kept}: what would stay at
    `part` of the share asked for. With gradients also backward(masks, ids) -> the loss on these ids, its gradient added to what the masks were made
    from; draw(size) -> ids from anywhere in the calibration source, to train on; weights() -> the parameters under the masks, which backward then
    reaches too (put back where the step fails). Of single weights scores(criterion) -> what a score gives each in the dense
    model; of units activity(masks) -> the mean size of what is read of each. bytes_each: memory a mask entry takes, all told, for the check beforehand.
    Structures: unstructured, N:M, tiles, neurons, heads. Afterwards the engine allocates, decides and cuts as for any score.
    """
    extra = {"bytes_each": bytes_each, "gradients": gradients}
    return _register("learned", name, label, paper, extra=extra, structures=structures, **card)


def allocator(name: str, *, label: str, paper: Paper | None = None, needs: set[str] | None = None, **card: Any) -> Decorator:
    """A total sparsity -> {layer name: share to remove}.

    May name sizes ({layer: weights}), sparsity, shapes ({layer: (out, in, kernel...)}), blocks ({layer: block name}), weights(layer) -> float32
    (out, in). Where needs names statistics of layers: statistics(layer) -> {statistic: tensor}; the block statistics "influence" and
    "angle": influence, angle ({block: value}); "scores": scores(layer) -> importances by the step's criterion; "curves": curves ({layer: {share removed:
    relative output error}}), measured on each layer alone with that criterion's masks. All of it from the dense model, in one pass. A solver has no
    scores: Wanda's stand in.
    "fitness" (with "scores"): fitness(shares, n) -> mean loss in nats on the first n of `sequences` calibration sequences with these shares masked.
    May name generator (torch's), watcher; and prices ({layer: core.cost.Price}: what its units take off) with owed (to be taken off in all): it then
    meets a budget in any cost itself. For one that names neither, the engine finds the sparsity at which its shares meet the budget.
    """
    return _register("allocator", name, label, paper, needs, **{"structures": ("unstructured",), **card})


def recovery(name: str, *, label: str, paper: Paper | None = None, learning_rate: float = 1e-4, **card: Any) -> Decorator:
    """Training after pruning: function(model, batches, masks, learning_rate, watcher) -> list of losses, one a step.

    `batches`: iterable of (batch, tokens) ids, one a step, on the model's device. `masks`: {module path: bool kept}; their zeros stay zero.
    Changes the torch module `model` in place.
    """
    return _register("recovery", name, label, paper, learning_rate=learning_rate, **card)


def embedding(
    name: str, *, label: str, of: tuple[str, ...], paper: Paper | None = None, fits: bool = False, **card: Any
) -> Decorator:
    """Rows of a data set -> float32 (rows, features): one array, or pieces of it in order, which are written as they come.

    May name images, texts, dataset (core.data.dataset.Dataset), frame (all columns, in memory), argument (what follows `@` or `:` in the source), loaded
    (a LoadedModel), watcher, seed, start (the first row that is asked for: a stopped embedding goes on there). `of`: what it can embed: "images",
    "text", "columns" (of numbers and few words), "any". `fits`: a row's vector depends on the other rows too.
    """
    return _register("embedding", name, label, paper, extra={"fits": fits}, structures=of, **card)


def data_score(
    name: str, *, label: str, paper: Paper | None = None, needs: set[str] | None = None, selector: str = "top", **card: Any
) -> Decorator:
    """One number a row, higher = keep first.

    May name rows (their number), row (their numbers in the source), vectors (rows, features), clusters (int a row), centroids, labels, texts, frame,
    generator (numpy's), watcher; and what is made only if it is named: neighbours(count, distinct=False) -> (index, distance 1 - cos), nearest first
    (core.data.neighbours.nearest); dynamics(learner, seeds, epochs) -> core.data.dynamics.Dynamics; loaded (the opened LoadedModel). A parameter
    `target` of grammar "data" gives target_rows (core.data.target.Target). needs: "labels" where it cannot do without, "loaded" where it reads with a
    model. `selector`: the one it is used with by nature. `decides`: rows of a score of 0 or more stay where the recipe says no share to keep.
    """
    return _register("data_score", name, label, paper, needs, selector=selector, **card)


def selector(name: str, *, label: str, paper: Paper | None = None, needs: set[str] | None = None, **card: Any) -> Decorator:
    """Which rows to keep: -> bool (rows,) with exactly `count` True.

    May name count, scores, and what a data score may name: rows (their number), vectors, clusters, labels, neighbours, generator (numpy's) ...
    """
    return _register("selector", name, label, paper, needs, **card)


def lesson_check(name: str, *, label: str, tells: tuple[str, ...] = (), **card: Any) -> Decorator:
    """Has a person done what a step of a lesson asks? -> core.lesson.scene.Verdict. Torch-free: it runs in the screen's process.

    May name what core.lesson.scene.Scene holds: shares, sizes, blocks, seen, runs, figure, predict, ask, answer, answers. One that names `answer` judges
    what was typed or chosen, any other what was done. `tells`: the figures in its verdict, which the lesson's words may name in braces.
    """
    return _register("lesson_check", name, label, extra={"tells": tells}, **card)


def load_methods() -> dict[tuple[str, str], Method]:
    """Import every method file, and those of the person's own folder (PRUNARIUM_METHODS). A file there that fails gets a greyed card."""
    for package in PACKAGES:
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__, package + "."):
            importlib.import_module(module.name)
    own = os.environ.get("PRUNARIUM_METHODS")
    _BROKEN.clear()
    for path in sorted(Path(own).expanduser().glob("*.py")) if own else ():
        try:
            _import_file(path)
        except Exception as error:  # a stranger's file may fail in any way; its card says how
            _BROKEN.append(
                MethodCard(name=path.stem, kind="score", label=path.stem, problem=f"{path.name}: {type(error).__name__}: {error}")
            )
    return METHODS


def get(kind: str, name: str) -> Method:
    """A method by name. Raises RecipeError where there is none of that name."""
    methods = METHODS if (kind, name) in METHODS else load_methods()  # one method file may have been imported by itself
    if (kind, name) not in methods:
        known = ", ".join(sorted(found for k, found in methods if k == kind))
        raise RecipeError(f"There is no {kind.replace('_', ' ')} called {name!r}.", f"There are: {known}.")
    return methods[kind, name]


def cards() -> list[MethodCard]:
    """The cards of all methods, sorted by kind and name: what assets/catalogue.json holds."""
    return sorted([method.card for method in load_methods().values()] + _BROKEN, key=lambda card: (card.kind, card.name))


def _import_file(path: Path) -> None:
    spec = importlib.util.spec_from_file_location(f"own_methods.{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)


def _params(function: Callable[..., Any]) -> tuple[ParamCard, ...]:
    """The person's parameters of a method: its keyword-only ones."""
    hints = typing.get_type_hints(function, include_extras=True)
    found = []
    for name, p in inspect.signature(function).parameters.items():
        if p.kind is not p.KEYWORD_ONLY:
            continue
        base, *marks = typing.get_args(hints[name]) if typing.get_origin(hints[name]) is typing.Annotated else (hints[name],)
        bound = next((mark for mark in marks if isinstance(mark, Param)), None)
        if bound is None or p.default is p.empty:
            raise TypeError(f"{function.__name__}: parameter {name} needs Annotated[..., Param(...)] and a default")
        found.append(
            ParamCard(
                name, bound.label, base.__name__, p.default, bound.low, bound.high, bound.choices, bound.longest, bound.grammar
            )
        )
    return tuple(found)
