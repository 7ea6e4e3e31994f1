"""A genetic search over formulas (Pruner-Zero, arXiv 2406.02924): trees are drawn, paired, changed and simplified, and the fittest stay. Torch-free.

It knows nothing of models: `fitness` says how good a formula is. With equal fitness the shorter formula wins, so a part that changes nothing goes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from core.formula import LONGEST, Node, parse
from core.formula_trees import call, depth, grafted, name, negative, number, operation, places, simplified, size

FUNCTIONS = ("abs", "sqrt", "log", "exp", "square", "minmax", "zscore", "rank")
OPERATORS = ("+", "-", "*", "/")
LARGEST, DEEPEST = 15, 6  # parts, nested parts: beyond that nobody can say what a formula means
TOURNAMENT = 4  # how many are drawn, of which the fittest becomes a parent
CROSSED = 0.6  # share of children with two parents; the others are one parent changed
DRAWS = 60  # attempts at a formula that is new and gives a number, before a place stays empty
_NUMBERS = (0.001, 0.1, 0.5, 2.0, 3.0)

# What the studio's formula lab looks at, and what its searches judge by, so that their perplexities compare.
CALIBRATION = {"source": "builtin:wikitext2/train", "samples": 16, "tokens": 128}
WINDOWS = {"source": "builtin:wikitext2/valid", "samples": 16, "tokens": 128}
MOST_PARAMETERS = 20_000_000  # a formula is tried on models up to this size, in seconds

Random = random.Random


@dataclass(frozen=True)
class Tried:
    """A formula and how good it is. `fitness`: lower is better, infinite where it fails. `generation`: the one that it came up in, 0 the first."""

    formula: str
    fitness: float
    generation: int
    size: int

    def rank(self) -> tuple[float, int, str]:
        return self.fitness, self.size, self.formula


@dataclass(frozen=True)
class Search:
    """What to search with. `start`: formulas that are among the first generation, as they are."""

    population: int
    generations: int
    seed: int = 0
    start: tuple[str, ...] = ()


def evolve(
    fitness: Callable[[Node], float],
    ask: Search,
    told: Callable[[Tried, int], None],
    ended: Callable[[int], None] = lambda _: None,
) -> list[Tried]:
    """Every formula that was tried, the best first.

    told(formula, places filled so far) hears each one the moment it is known; ended(generation) when a generation is whole. The same seed and the
    same fitness give the same search, so one that was cut off is taken up again by replaying what was known.
    """
    work = _Work(fitness, told, Random(ask.seed))
    for text in ask.start:
        work.try_(simplified(parse(text)), 0)
    population = [tried for tried in work.tried.values() if math.isfinite(tried.fitness)]
    work.filled = len(population)
    for _ in range(ask.population - len(population)):
        population += work.new(lambda: _grown(work.random, work.random.randint(2, 4)), 0)
    ended(0)
    for generation in range(1, ask.generations + 1):
        population = fittest(population, ask.population)
        population += _children(work, population, generation)
        ended(generation)
    return sorted(work.tried.values(), key=Tried.rank)


def fittest(population: list[Tried], count: int) -> list[Tried]:
    """The best, one of each fitness: formulas that are equally good keep the same weights, and a crowd of one kind breeds nothing new."""
    kinds = {
        tried.fitness: tried for tried in sorted(population, key=Tried.rank, reverse=True)
    }  # of each, the shortest stands last
    return sorted(kinds.values(), key=Tried.rank)[:count]


def _children(work: _Work, parents: list[Tried], generation: int) -> list[Tried]:
    """As many new formulas as there are parents, where the draws give so many."""
    return [child for _ in parents for child in work.new(lambda: _child(work, parents), generation)]


@dataclass
class _Work:
    fitness: Callable[[Node], float]
    told: Callable[[Tried, int], None]
    random: Random
    tried: dict[str, Tried] = field(default_factory=dict)
    trees: dict[str, Node] = field(default_factory=dict)
    shortest: dict[float, int] = field(default_factory=dict)  # size of the shortest formula of each fitness
    filled: int = 0  # places taken so far

    def try_(self, tree: Node, generation: int) -> Tried:
        """How good it is; nothing is worked out twice."""
        if tree.text not in self.tried:
            value = self.fitness(tree) if tree.names() else math.inf
            value = value if math.isfinite(value) else math.inf  # what is not a number never wins a comparison
            found = Tried(tree.text, value, generation, size(tree))
            self.tried[tree.text], self.trees[tree.text] = found, tree
            self.shortest[value] = min(found.size, self.shortest.get(value, found.size))
            self.told(found, self.filled)
        return self.tried[tree.text]

    def new(self, make: Callable[[], Node], generation: int) -> list[Tried]:
        """One formula that was never tried before, gives a number, and is not a longer way to say one that was; none where no draw gave one."""
        for _ in range(DRAWS):
            tree = simplified(make())
            fits = tree.names() and size(tree) <= LARGEST and depth(tree) <= DEEPEST and len(tree.text) <= LONGEST
            if fits and tree.text not in self.tried:
                found = self.try_(tree, generation)
                if math.isfinite(found.fitness) and found.size <= self.shortest[found.fitness]:
                    self.filled += 1
                    return [found]
        return []


def _grown(rng: Random, levels: int) -> Node:
    """A random tree of at most so many levels."""
    if levels <= 1 or rng.random() < 0.2:
        return _leaf(rng)
    if rng.random() < 0.45:
        return call(rng.choice(FUNCTIONS), _grown(rng, levels - 1))
    return operation(rng.choice(OPERATORS), _grown(rng, levels - 1), _grown(rng, levels - 1))


def _leaf(rng: Random) -> Node:
    """A weight comes most often without its sign, which says nothing of how much it matters."""
    kind = rng.choices(("abs(W)", "W", "X", "G", "number"), (4, 1, 3, 3, 1))[0]
    if kind == "number":
        return number(rng.choice(_NUMBERS))
    return call("abs", name("W")) if kind == "abs(W)" else name(kind)


def _child(work: _Work, parents: list[Tried]) -> Node:
    rng = work.random
    tree = work.trees[_won(rng, parents).formula]
    if rng.random() >= CROSSED:
        return _changed(rng, tree)
    other = work.trees[_won(rng, parents).formula]
    at, _ = rng.choice(list(places(tree)))
    _, part = rng.choice(list(places(other)))
    crossed = grafted(tree, at, part)
    return _changed(rng, crossed) if rng.random() < 0.3 else crossed


def _won(rng: Random, parents: list[Tried]) -> Tried:
    """The winner of a tournament."""
    return min((rng.choice(parents) for _ in range(TOURNAMENT)), key=Tried.rank)


def _changed(rng: Random, tree: Node) -> Node:
    """One random part replaced: by another operation on the same parts, by a new part, by one of its own parts, or wrapped in a function."""
    at, part = rng.choice(list(places(tree)))
    way = rng.choice(("operation", "part", "lift", "wrap"))
    if way == "wrap":
        return grafted(tree, at, negative(part) if rng.random() < 0.1 else call(rng.choice(FUNCTIONS), part))
    if way == "lift" and part.parts:
        return grafted(tree, at, rng.choice(part.parts))
    if way == "operation" and part.kind == "call":
        return grafted(tree, at, call(rng.choice(FUNCTIONS), part.parts[0]))
    if way == "operation" and part.kind == "operator":
        return grafted(tree, at, operation(rng.choice(OPERATORS), *part.parts))
    return grafted(tree, at, _grown(rng, rng.randint(1, 3)))
