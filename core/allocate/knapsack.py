from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from core.cost import Prices, whole
from core.events import Progress, Watcher
from core.method import Param, allocator
from kernels.knapsack import cover

_LEVELS = 1000  # a group with more units goes in so many equal parts, lowest scores first


@allocator(
    "knapsack",
    label="Knapsack",
    needs={"scores"},
    structures=("unstructured", "neurons", "heads"),
    place="allocation/importance per cost",
)
def knapsack(
    sizes: Mapping[str, int],
    scores: Callable[[str], Tensor],
    prices: Prices,
    owed: float,
    watcher: Watcher,
    *,
    floor: Annotated[float, Param("Kept at least", 0.0, 0.5)] = 0.05,
    relative: Annotated[bool, Param("Scores as shares of their group's sum")] = False,
) -> dict[str, float]:
    """Keep what is important for what it costs: the least importance lost that takes the budget off, as a knapsack.

    scores(group) -> importances (units,); prices {group: what its first k units take off: parameters, bytes, operations, milliseconds}; owed: to be taken
    off in all. In each group the lowest scores go first, so a choice is a number k for each; minimise the sum of the k lowest scores over the groups,
    subject to the sum of price(k) >= owed. Pieces are taken by importance per cost (exact where fractions of a unit could go), then dynamic
    programming looks at up to 16 levels on either side. Each group keeps the share `floor`; a
    total that the floors forbid is refused. Returns {group: share} in whole units.

    Intuition: of two neurons that matter alike, the one that costs twice as much should go; where all cost alike it is one ranking over all.
    When it lies: importances must be of one scale in all groups, as for the global ranking, and are taken to add up. `relative` makes each group's sum 1,
    which forgets that some groups matter more than others. A group of more than 1,000 units goes in 1,000 parts.
    """
    values, saves, shares = [], [], []
    for name, price in prices.items():
        ranked = scores(name).double().sort().values
        total = float(ranked.abs().sum())
        most = min(int(sizes[name] * (1 - floor)), int(price.most / price.steps * sizes[name] + 1e-9))
        levels = np.unique(np.linspace(0, most, min(most, _LEVELS) + 1).round().astype(np.int64))
        lost = torch.cat((ranked.new_zeros(1), ranked.cumsum(0)))[torch.from_numpy(levels)].numpy()
        lost = np.maximum.accumulate(lost - min(lost.min(), 0.0))  # a score below 0 is one that is not missed
        values.append((lost - lost[0]) / (total if relative and total > 0 else 1.0))
        shares.append(levels / max(sizes[name], 1))
        saves.append(np.maximum.accumulate([price(share * price.steps) for share in shares[-1]]))
    reach = sum(float(save[-1]) for save in saves)
    if reach < owed * (1 - 1e-9):  # the engine refuses it, and names what can be reached
        return {name: float(share[-1]) for name, share in zip(prices, shares, strict=True)}
    found = cover(values, saves, min(owed, reach))
    if found.value > 0:
        near = f"The importance lost is at most {100 * (found.value - found.bound) / found.value:.2g} % above the least that fractions of units could lose."
        watcher.say(Progress("allocate", kind="note", text=near))
    chosen = {name: float(share[level]) for name, share, level in zip(prices, shares, found.levels, strict=True)}
    return whole(chosen, prices, owed)
