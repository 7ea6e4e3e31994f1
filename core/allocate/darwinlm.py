from __future__ import annotations

from collections.abc import Callable, Mapping
from math import lcm
from typing import Annotated

import torch

from core.cost import Price, Prices, meet, removed, whole
from core.events import Progress, Watcher
from core.method import Paper, Param, allocator

_TRIES = 50  # at a switch that fits, before a child stays as it is
_Counts = tuple[int, ...]  # steps gone of each group, in the order of `prices`


@allocator(
    "darwinlm",
    label="Evolution (DarwinLM)",
    paper=Paper(
        "Tang, Sieberling, Kurtic, Shen, Alistarh",
        2025,
        "DarwinLM: Evolutionary Structured Pruning of Large Language Models",
        "2502.07780",
    ),
    needs={"scores", "fitness"},
    structures=("unstructured", "neurons", "heads", "query_heads"),
    place="allocation/search",
)
def darwinlm(
    sizes: Mapping[str, int],
    prices: Prices,
    owed: float,
    fitness: Callable[[Mapping[str, float], int], float],
    sequences: int,
    generator: torch.Generator,
    watcher: Watcher,
    *,
    generations: Annotated[int, Param("Generations", 1, 500)] = 10,
    offspring: Annotated[int, Param("Children a generation", 2, 64)] = 8,
    step: Annotated[float, Param("A switch moves, of a group", 0.005, 0.5)] = 0.05,
    most_switches: Annotated[int, Param("Switches a child, at most", 1, 10)] = 3,
    samples: Annotated[int, Param("Sequences in the last round", 1, 256)] = 8,
) -> dict[str, float]:
    """Budgets that leave the loss lowest survive: children switch what two groups give, total kept, and are tried on more text each round.

    prices {group: what its first k steps take off}; owed: to be taken off in all; fitness(shares, n): mean negative log-likelihood in nats a token of the
    first n calibration sequences with these shares masked. Starts from the uniform budget in whole steps. A generation: `offspring` children of the best;
    each makes 1 to `most_switches` switches (the smaller of two draws), in which one group gets back about `step` of its units and another gives what
    takes off exactly as much. Children are tried on a quarter of the text, the best half of them on half of it, the best quarter on all, beside
    their parent; the lowest loss goes on. Returns {group: share}: at most the start's loss on that text, and exactly its total (latency: its units).

    Intuition: no curve of single groups knows how cuts act together; trying whole models does, and most switches can be dismissed on little text.
    When it lies: it believes its few sequences; the more it searches, the better it fits just them. A local search: far budgets are not seen.
    Deviations from the paper: no light training before selection, the loss instead of the divergence from the dense model, and masks of the step's own
    criterion (for solvers: Wanda's) instead of a store of weights that OBS solved for each level; a parent always stands among its children.
    """
    names, start = list(prices), meet(lambda share: dict.fromkeys(sizes, share), prices, owed)
    first = whole(start, prices, owed)
    best: _Counts = tuple(round(first[name] * prices[name].steps) for name in names)
    full = min(samples, sequences)
    losses: dict[tuple[_Counts, int], float] = {}

    def loss(counts: _Counts, text: int) -> float:
        if (counts, text) not in losses:
            losses[counts, text] = fitness(
                {name: gone / prices[name].steps for name, gone in zip(names, counts, strict=True)}, text
            )
        return losses[counts, text]

    def say(done: int) -> None:
        watcher.say(Progress("allocate: darwinlm", done, generations, values={"loss": loss(best, full)}))

    say(0)
    for generation in range(generations):
        children = {_child(best, names, prices, owed, step, most_switches, generator) for _ in range(offspring)} - {best}
        ranked = sorted(children)  # a set has no order that repeats
        for text, left in ((max(full // 4, 1), -(-len(ranked) // 2)), (max(full // 2, 1), -(-len(ranked) // 4))):
            ranked = sorted(ranked, key=lambda counts: loss(counts, text))[:left]
        best = min([best, *ranked], key=lambda counts: loss(counts, full))
        say(generation + 1)
    return {name: gone / prices[name].steps for name, gone in zip(names, best, strict=True)}


def _child(
    parent: _Counts, names: list[str], prices: Prices, owed: float, step: float, most: int, generator: torch.Generator
) -> _Counts:
    """The parent with some switches made. A switch that fits nowhere in a number of tries is left out."""

    def draw(high: int) -> int:
        return int(torch.randint(high, (1,), generator=generator))

    child = list(parent)
    for _ in range(min(draw(most), draw(most)) + 1):
        for _ in range(_TRIES):
            back, gives = draw(len(names)), draw(len(names))
            moved = _switch(prices[names[back]], prices[names[gives]], step) if back != gives else None
            if moved is None or child[back] < moved[0] or child[gives] + moved[1] > prices[names[gives]].most:
                continue
            changed = list(child)
            changed[back], changed[gives] = child[back] - moved[0], child[gives] + moved[1]
            if _meets(changed, names, prices, owed):
                child = changed
                break
    return tuple(child)


def _switch(back: Price, gives: Price, step: float) -> tuple[int, int] | None:
    """(steps that one group gets back, steps that another gives for them): as much taken off, about `step` of the first. None where none is equal."""
    if back.is_linear and gives.is_linear:
        if back.each == gives.each:
            unit = (1, 1)
        elif back.each > 0 and gives.each > 0 and back.each.is_integer() and gives.each.is_integer():
            both = lcm(int(back.each), int(gives.each))
            unit = (both // int(back.each), both // int(gives.each))
        else:
            return None
    elif (back.at, back.off) == (gives.at, gives.off):
        unit = (1, 1)
    else:
        return None
    times = max(round(step * back.steps / unit[0]), 1)
    return unit[0] * times, unit[1] * times


def _meets(counts: list[int], names: list[str], prices: Prices, owed: float) -> bool:
    """Along curves that bend (latency), a switch of equal units may take off less than is owed."""
    shares = {name: gone / prices[name].steps for name, gone in zip(names, counts, strict=True)}
    return removed(shares, prices) >= owed * (1 - 1e-9)
