"""A prune step's budget in what the model costs: what each structure can bring down, what a group of units gives back, and shares that meet a total.

Torch-free, so that the screen refuses what cannot be reached before anything is loaded. Real figures are `core.model.budgets.costing`'s.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import ceil, floor
from typing import Any

from core.errors import RecipeError

# cost in recipes -> (in words, the unit of a figure as people read it, how many in one such unit)
COSTS = {
    "parameters": ("parameters", "parameters", 1.0),
    "bytes": ("bytes on disk", "MB on disk", 1e6),
    "flops": ("floating-point operations", "million operations", 1e6),
    "kv_bytes": ("bytes of the key-value cache", "MB of key-value cache", 1e6),
    "latency": ("latency", "ms", 1.0),
}
MASKS = (
    "unstructured",
    "tiles",
)  # weights become zero and stay where they are: parameters and flops then count those that are not zero
FALLS = {  # structure -> what falls when it goes
    **dict.fromkeys(MASKS, ("parameters", "flops")),
    "neurons": ("parameters", "bytes", "flops", "latency"),
    "heads": tuple(COSTS),
    "query_heads": ("parameters", "bytes", "flops", "latency"),
    "heads_and_neurons": ("parameters", "bytes", "flops", "latency"),
    "blocks": tuple(COSTS),
    "sublayers": tuple(COSTS),
    "experts": ("parameters", "bytes"),
}
_NO_BUDGET = {
    "N:M": "fixes the share of every layer",
    "channels": "shares layers, so what one gives back depends on which others go",
}
_CALLS = 40  # of an allocator, to find the sparsity that meets a budget; five are usual


def check(structure: str, cost: str) -> None:
    """Raises RecipeError where this cost cannot fall when this structure goes. `structure`: as catalogue cards name it (N:M, tiles)."""
    falls, words = FALLS.get(structure), COSTS[cost][0]
    if falls is None:
        why = _NO_BUDGET.get(structure, "goes by one share of the whole model")
        raise RecipeError(
            f"Structure {structure} {why}, so no budget in {words} can be met.", "Leave budget out, or choose another structure."
        )
    if cost in falls:
        return
    others = ", ".join(name for name, costs in FALLS.items() if cost in costs)
    why = {
        "experts": "a token visits as many experts as before, whatever number there is",
        "neurons": "the key-value cache holds what attention heads say",
        "query_heads": "the key-value cache holds keys and values, which stay",
        "heads_and_neurons": "some of what goes, the neurons, has no part in the key-value cache",
    }.get(structure, "weights set to zero keep their place in memory and in every product")
    raise RecipeError(
        f"The {words} cannot fall with structure {structure}: {why}.",
        f"Choose structure {others} for it, or a budget in {' or '.join(falls)}.",
    )


def said(cost: str, value: float) -> str:
    """A figure of this cost as people read it: 12.3 MB on disk."""
    _, unit, scale = COSTS[cost]
    return f"{value / scale:,.4g} {unit}" if cost != "parameters" else f"{value:,.0f} {unit}"


@dataclass(frozen=True)
class Price:
    """What a group (a layer, the neurons or the heads of a block) takes off: off[i] where at[i] of its `steps` have gone, straight lines between.

    `steps`: whole units that go one at a time; `most`: how many of them may. `at` ascends from 0 to steps, `off` never falls.
    """

    steps: int
    most: int
    at: tuple[float, ...]
    off: tuple[float, ...]

    @staticmethod
    def linear(steps: int, each: float, most: int | None = None) -> Price:
        return Price(steps, steps if most is None else most, (0.0, float(steps)), (0.0, steps * each))

    @property
    def each(self) -> float:
        """What one step takes off, on average."""
        return self.off[-1] / self.steps

    @property
    def is_linear(self) -> bool:
        return len(self.at) == 2

    def __call__(self, gone: float) -> float:
        right = min(max(bisect_right(self.at, gone), 1), len(self.at) - 1)
        low, high = self.at[right - 1], self.at[right]
        return self.off[right - 1] + (self.off[right] - self.off[right - 1]) * (gone - low) / (high - low)


Prices = Mapping[str, Price]


@dataclass(frozen=True)
class Owed:
    """A budget resolved against the model as it stands: `before` and `target` in the unit of the cost, and how the figure is taken."""

    cost: str
    structure: str
    before: float
    target: float
    protocol: Mapping[str, Any] = field(default_factory=dict)

    @property
    def amount(self) -> float:
        """To be taken off."""
        return self.before - self.target

    def check(self, most: float, how: str = "") -> None:
        """Raises RecipeError where no more than `most` can be taken off. how: by which allocation, if that is what forbids it."""
        if most >= self.amount * (1 - 1e-9):
            return
        nearest = f"{said(self.cost, self.before - most)} ({100 * most / self.before:.3g} % off)"
        raise RecipeError(
            f"The budget asks for {said(self.cost, self.target)} with structure {self.structure}{how}, and there are {said(self.cost, self.before)}: "
            f"the nearest that can be reached is {nearest}.",
            "Ask for no more than that, widen `only`, shorten `protect`, "
            + ("change the allocation's parameters, or choose another." if how else "or choose another structure."),
        )


def removed(shares: Mapping[str, float], prices: Prices) -> float:
    """What these shares take off."""
    return sum(price(min(shares[name] * price.steps, price.most)) for name, price in prices.items())


def most_removed(prices: Prices) -> float:
    return sum(price(price.most) for price in prices.values())


def meet(shares_at: Callable[[float], Mapping[str, float]], prices: Prices, owed: float) -> dict[str, float]:
    """The shares that an allocator gives at the smallest sparsity at which they take off `owed`, to within a step; all it can, if that is less.

    shares_at: sparsity -> {group: share}; what it takes off grows with the sparsity. False position, with halving where that creeps.
    """
    close = max(min((price.each for price in prices.values() if price.each > 0), default=0.0), owed * 1e-9)
    finest = 0.5 / sum(price.steps for price in prices.values())
    low, high, below, above = 0.0, 1.0, -owed, 0.0
    best = shares_at(1.0)
    if (above := removed(best, prices) - owed) <= 0:
        return dict(best)
    for turn in range(_CALLS):
        halve = turn % 3 == 2
        middle = (low + high) / 2 if halve else low - below * (high - low) / (above - below)
        found = shares_at(middle)
        over = removed(found, prices) - owed
        if over >= 0:
            best, high, above = found, middle, over
        else:
            low, below = middle, over
        if 0 <= over <= close or high - low < finest:
            break
    return dict(best)


def whole(shares: Mapping[str, float], prices: Prices, owed: float) -> dict[str, float]:
    """The shares in whole steps that take off `owed` or as little more as single steps allow.

    Walks through the groups and hands what rounding owes on to the next, so that groups too coarse for their share (three heads, of which a tenth shall
    go) lose units here and there instead of all at once. What is still short goes to the groups that it wronged most.
    """
    real = {name: min(max(shares[name], 0.0) * price.steps, float(price.most)) for name, price in prices.items()}
    gone: dict[str, int] = {}
    carry = 0.0
    for name, price in prices.items():
        want = real[name] + (carry / price.each if price.each > 0 else 0.0)
        gone[name] = min(max(floor(want + 0.5 + 1e-9), 0), price.most)
        carry += price(real[name]) - price(gone[name])
    slack = owed * 1e-9
    total = sum(price(gone[name]) for name, price in prices.items())
    while total < owed - slack:
        able = [name for name, price in prices.items() if gone[name] < price.most and price.each > 0]
        if not able:
            break
        name = max(able, key=lambda name: real[name] - gone[name])
        total += prices[name](gone[name] + 1) - prices[name](gone[name])
        gone[name] += 1
    for name in sorted(prices, key=lambda name: real[name] - gone[name]):  # what went beyond need comes back
        price = prices[name]
        if price.is_linear and price.each > 0:
            back = min(int((total - owed + slack) / price.each), gone[name])
            gone[name], total = gone[name] - max(back, 0), total - max(back, 0) * price.each
        while (
            not price.is_linear
            and gone[name] > real[name]
            and total - (price(gone[name]) - price(gone[name] - 1)) >= owed - slack
        ):
            total -= price(gone[name]) - price(gone[name] - 1)
            gone[name] -= 1
    return {name: gone[name] / price.steps for name, price in prices.items()}


def units_needed(costs: list[float], owed: float) -> int:
    """How many of these units must go so that they take off `owed`, whichever they are; all, where even they fall short."""
    total = 0.0
    for count, cost in enumerate(sorted(costs), 1):
        total += cost
        if total >= owed * (1 - 1e-9):
            return count
    return len(costs)


def steps_needed(price: Price, owed: float) -> int:
    """The fewest steps of one group that take off `owed`."""
    if price.is_linear:
        return min(ceil(owed * (1 - 1e-9) / price.each), price.most)
    return next((gone for gone in range(price.most + 1) if price(gone) >= owed * (1 - 1e-9)), price.most)
