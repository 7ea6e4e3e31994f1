"""How close a row's neighbours are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import numpy as np

from core.method import Param, data_score


@data_score("density", label="Density", needs={"vectors", "neighbours"}, place="geometry")
def density(
    neighbours: Callable[..., tuple[np.ndarray, np.ndarray]],
    *,
    prefer: Annotated[str, Param("Keep first", choices=("sparse", "dense"))] = "sparse",
    count: Annotated[int, Param("Neighbours", 1, 200)] = 20,
) -> np.ndarray:
    """Keep rows in thin places of the map, which few others speak for (sparse), or those in the thick of it (dense).

    The measure: mean of 1 - cos to the `count` nearest other rows, between 0 and 2; exact copies of a row count once. Returns float32
    (rows,): itself where sparse places are preferred, its negative where dense ones are.

    Intuition: where rows lie thick, one more adds little; a row far from all others is the only witness of its place.

    When it lies: broken, foreign and mislabelled rows lie alone too, and `sparse` keeps them first. Places of unlike density are compared
    on one scale.
    """
    distance = neighbours(count, distinct=True)[1].mean(axis=1)
    return distance if prefer == "sparse" else -distance
