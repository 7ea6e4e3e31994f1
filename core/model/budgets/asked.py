"""How much a step asks of its layers or groups in all, by a share of their units or by a budget in a cost, and how an allocator meets it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

from core.cost import Owed, Prices, meet, most_removed, removed, whole
from core.method import Method
from core.recipe import Prune

_PRICED = {"prices", "owed"}


def knows_prices(allocator: Method) -> bool:
    """Does it meet a budget itself, from what each step of a layer or group takes off?"""
    return bool(_PRICED & signature(allocator.function).parameters.keys())


@dataclass
class Asked:
    """`owed`: the step's budget, None where it says a sparsity. `sizes`: {layer or group: weights or units}. `prices`: what their steps take off."""

    step: Prune
    owed: Owed | None
    sizes: Mapping[str, int]
    prices: Prices = field(default_factory=dict)

    def priced(self, prices: Prices) -> Asked:
        """The same with its prices. Raises RecipeError where they cannot add up to the budget."""
        self.prices = prices
        if self.owed:
            self.owed.check(most_removed(prices))
        return self

    def spread(self, allocator: Method, given: Mapping[str, Any]) -> dict[str, float]:
        """{layer or group: share}. An allocator that knows of prices meets the budget itself; of another, the sparsity is found that does."""
        params, owed = self.step.allocation.params, self.owed
        if owed is None:
            total = round(self.step.sparsity * sum(self.sizes.values())) if self.step.sparsity is not None else 0
            return allocator({**given, "sparsity": self.step.sparsity, "prices": self.prices, "owed": total}, params)
        if knows_prices(allocator):
            shares = allocator({**given, "prices": self.prices, "owed": owed.amount}, params)
        else:
            shares = meet(lambda sparsity: allocator({**given, "sparsity": sparsity}, params), self.prices, owed.amount)
        owed.check(removed(shares, self.prices), f" by allocation {allocator.card.name}")
        return whole(shares, self.prices, owed.amount)
