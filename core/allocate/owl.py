from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated

from torch import Tensor

from core.budget import OUTLIER_SPREAD, away_from_mean
from core.method import Paper, Param, allocator

OUTLIER = 5.0  # the paper's M: a score of so many times the mean stands out


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
    outlier: Annotated[float, Param("Outlier above, times the mean", 1.0, 20.0)] = OUTLIER,
    spread: Annotated[float, Param("Spread of the shares", 0.0, 0.3)] = OUTLIER_SPREAD,
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
    outliers = {block: outlier_share(layers, weights, statistics, outlier) for block, layers in members.items()}
    return away_from_mean(outliers, {layer: blocks[layer] or layer for layer in sizes}, sizes, sparsity, spread)


def outlier_share(
    layers: list[str], weights: Callable[[str], Tensor], statistics: Callable[[str], Mapping[str, Tensor]], outlier: float
) -> float:
    """Of all weights of these layers, the share whose score exceeds `outlier` times their mean. One layer's scores are in memory at a time."""

    def scores(layer: str) -> Tensor:
        return weights(layer).abs() * statistics(layer)["input_norm"]

    count = sum(weights(layer).numel() for layer in layers)
    cut = outlier * sum(float(scores(layer).double().sum()) for layer in layers) / count
    return sum(int((scores(layer) > cut).sum()) for layer in layers) / count
