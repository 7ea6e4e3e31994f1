"""How much a step asks of its layers or groups in all, by a share of their units or by a budget in a cost, and how an allocator meets it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

from core.cost import Owed, Prices, meet, most_removed, removed, whole
from core.errors import RecipeError
from core.method import Method
from core.model.units.groups import CHANNELS, UNITS
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
            shares = allocator({**given, "sparsity": self.step.sparsity, "prices": self.prices, "owed": total}, params)
            check_met(removed(shares, self.prices), self.step, self.sizes)
            return shares
        if knows_prices(allocator):
            shares = allocator({**given, "prices": self.prices, "owed": owed.amount}, params)
        else:
            shares = meet(lambda sparsity: allocator({**given, "sparsity": sparsity}, params), self.prices, owed.amount)
        owed.check(removed(shares, self.prices), f" by allocation {allocator.card.name}")
        return whole(shares, self.prices, owed.amount)


def check_met(gone: float, step: Prune, sizes: Mapping[str, int]) -> None:
    """Raises RecipeError where shares that take off `gone` of these units leave the step's sparsity unmet by more than rounding does, half a unit each."""
    there = sum(sizes.values())
    asked = (step.sparsity or 0.0) * there
    rounding = 1.0 if step.structure == CHANNELS else 0.5  # what all channels of a group would break is said there, with its name
    if gone >= asked * (1 - 1e-9) - rounding * len(sizes):
        return
    what = step.structure if step.structure in (*UNITS, "experts") else "weights"
    stays = "the last of a block always stays" if what != "weights" else "no more can go"
    raise RecipeError(
        f"The step asks for {step.sparsity:.4g} of the {what}, and with allocation {step.allocation.method} {gone / there:.4g} is the most that goes: "
        f"{'each keeps its floor, or ' if 'floor' in step.allocation.params else ''}{stays}.",
        f"Ask for at most {gone / there:.4g}, or change the allocation's parameters.",
    )
