from __future__ import annotations

from torch import Tensor

from core.method import Paper, score


@score(
    "block_influence",
    label="Block influence",
    paper=Paper(
        "Men, Xu, Zhang et al.",
        2024,
        "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect",
        "2403.03853",
    ),
    needs={"influence"},
    compare="model",
    structures=("blocks",),
    place="criterion/depth",
)
def block_influence(influence: Tensor) -> Tensor:
    """Keep blocks that turn the hidden state: a block whose output points where its input did can go.

    influence: 1 - the mean over tokens of cos(hidden state before the block, after it), in 0..2. Returned as it is; the lowest go.

    Intuition: blocks add to a residual stream. Where the sum hardly changes direction, the block said little.
    When it lies: the first block looks large because it starts from embeddings; two blocks that each look small can matter together, since all
    are judged once, in the whole model (SLEB judges again after each removal); and the length of the hidden state is ignored.
    Deviations from the paper: none; angles are averaged over every token of the calibration text.
    """
    return influence
