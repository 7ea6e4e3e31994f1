from __future__ import annotations

from collections.abc import Mapping

from core.method import allocator


@allocator(
    "uniform",
    label="Uniform",
    structures=(
        "unstructured",
        "N:M",
        "tiles",
        "neurons",
        "heads",
        "query_heads",
        "heads_and_neurons",
        "channels",
        "width",
        "experts",
    ),
    place="allocation/baseline",
)
def uniform(sizes: Mapping[str, int], sparsity: float) -> dict[str, float]:
    """Every layer gives the same share.

    sizes {layer: weights}; sparsity 0..1 -> {layer: share}.

    When it lies: layers differ. The first and last blocks often cost far more for the same share; see their curves in the Budget room.
    """
    return dict.fromkeys(sizes, sparsity)
