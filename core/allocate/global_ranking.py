from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated

from torch import Tensor

from core.method import Param, allocator
from kernels.threshold import drops_per_array


@allocator(
    "global",
    label="Global ranking",
    needs={"scores"},
    structures=("unstructured", "neurons", "heads", "channels"),
    place="allocation/one ranking",
)
def global_ranking(
    sizes: Mapping[str, int],
    sparsity: float,
    scores: Callable[[str], Tensor],
    *,
    floor: Annotated[float, Param("Kept at least", 0.0, 0.5)] = 0.05,
) -> dict[str, float]:
    """All weights (or units) stand in one ranking; each layer gives as many as it has below the common cut.

    sizes {layer: weights}; scores(layer) -> importances; floor: the share that every layer keeps. Returns {layer: share}; the total is met to the
    weight, by raising the cut for the others where a layer stands on its floor. A total that the floors forbid is refused.
    Which of a layer's weights go is decided as the criterion compares: magnitude's are those below the cut; Wanda's are compared within a row, so every
    row of the layer gives the same share, some of it above the cut.

    When it lies: scores of different layers must be of one scale. Where a layer's weights are small all through, a global cut empties it (layer
    collapse), which is what the floor is for.
    """
    share: dict[str, float] = {}
    free, left = list(sizes), round(sparsity * sum(sizes.values()))
    while free:
        counts = _drops(free, sizes, scores, left)
        over = [name for name in free if counts[name] > int(sizes[name] * (1 - floor))]
        if not over:
            return share | {name: counts[name] / sizes[name] for name in free}
        for name in over:
            share[name] = int(sizes[name] * (1 - floor)) / sizes[name]
            left -= int(sizes[name] * (1 - floor))
        free = [name for name in free if name not in over]
    return share


def _drops(names: list[str], sizes: Mapping[str, int], scores: Callable[[str], Tensor], drop: int) -> dict[str, int]:
    counts = drops_per_array(
        lambda i: scores(names[i]).numpy(), [sizes[name] for name in names], min(drop, sum(map(sizes.get, names)))
    )
    return dict(zip(names, counts, strict=True))
