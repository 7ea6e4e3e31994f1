from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated

from torch import Tensor

from core.budget import exactly
from core.method import Paper, Param, allocator


@allocator(
    "owl",
    label="OWL",
    paper=Paper(
        "Yin, Wu, Zhang et al.",
        2023,
        "Outlier Weighed Layerwise Sparsity (OWL): A Missing Secret Sauce for Pruning LLMs to High Sparsity",
        "2310.05175",
    ),
    needs={"input_norm"},
    place="allocation/outliers",
)
def owl(
    sizes: Mapping[str, int],
    blocks: Mapping[str, str],
    sparsity: float,
    weights: Callable[[str], Tensor],
    statistics: Callable[[str], Mapping[str, Tensor]],
    *,
    outlier: Annotated[float, Param("Outlier above, times the mean", 1.0, 20.0)] = 5.0,
    spread: Annotated[float, Param("Spread of the shares", 0.0, 0.3)] = 0.08,
) -> dict[str, float]:
    """Blocks with many outliers keep more: there a few weights times inputs tower over the rest.

    A block's outlier share: of all its weights, those whose |W| * input_norm exceeds `outlier` (the paper's M) times the mean over the block.
    Share removed = sparsity - (outlier share - its mean weighted by size), scaled so that the farthest block lies `spread` (lambda) from the sparsity.
    Returns {layer: share}, one for all layers of a block; the total is met to the weight.

    Intuition: outliers carry what language models say; a block that has them suffers more from the same cut.
    When it lies: it counts outliers, not what they do. In small models few blocks stand out, and the spread then magnifies what may be noise.
    Deviations from the paper: Wanda's scores whatever the step's method. Its code gives the shares a range of 2 lambda and then moves them to the mean, so that
    one block may lie almost 2 lambda from it; here none lies farther than lambda, as the paper's text says.
    """
    members: dict[str, list[str]] = {}
    for layer in sizes:
        members.setdefault(blocks[layer] or layer, []).append(layer)
    outliers = {block: _outlier_share(layers, weights, statistics, outlier) for block, layers in members.items()}
    size = {block: sum(sizes[layer] for layer in layers) for block, layers in members.items()}
    mean = sum(outliers[block] * size[block] for block in members) / max(sum(size.values()), 1)
    farthest = max(abs(value - mean) for value in outliers.values())
    scale = spread / farthest if farthest > 0 else 0.0
    shares = {layer: sparsity - scale * (outliers[block] - mean) for block, layers in members.items() for layer in layers}
    return exactly({layer: min(max(shares[layer], 0.0), 1.0) for layer in sizes}, sizes, sparsity)


def _outlier_share(
    layers: list[str], weights: Callable[[str], Tensor], statistics: Callable[[str], Mapping[str, Tensor]], outlier: float
) -> float:
    """Of all weights of these layers, the share whose score exceeds `outlier` times their mean. One layer's scores are in memory at a time."""

    def scores(layer: str) -> Tensor:
        return weights(layer).abs() * statistics(layer)["input_norm"]

    count = sum(weights(layer).numel() for layer in layers)
    cut = outlier * sum(float(scores(layer).double().sum()) for layer in layers) / count
    return sum(int((scores(layer) > cut).sum()) for layer in layers) / count
