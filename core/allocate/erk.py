from __future__ import annotations

import math
from collections.abc import Mapping

from core.budget import kept_in_proportion
from core.method import Paper, allocator


@allocator(
    "erk",
    label="Erdős–Rényi kernel",
    paper=Paper("Evci, Gale, Menick, Castro, Elsen", 2019, "Rigging the Lottery: Making All Tickets Winners", "1911.11134"),
    place="allocation/shapes",
)
def erk(sizes: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]], sparsity: float) -> dict[str, float]:
    """Large layers give more: what a layer keeps grows with the sum of its sides, not with their product.

    shapes {layer: (out, in, kernel...)}; density proportional to (out + in + kernel sides) / (out * in * kernel area), capped at 1; what a full
    layer cannot keep goes to the others in the same proportion. Returns {layer: share}; the total is met to the weight.

    Intuition: in a random sparse graph each neuron then keeps about the same number of connections, whatever the layer's width.
    When it lies: it never looks at a weight or an input. Where layers are of like shape, as in language models, it is close to uniform.
    Deviations from the paper: none in the densities; the last weights that rounding leaves over go to the layers that it wronged most.
    """
    parts = {name: sum(shape) / math.prod(shape) for name, shape in shapes.items()}
    return kept_in_proportion(parts, sizes, sparsity)
