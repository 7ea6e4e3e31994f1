from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from torch import Tensor, nn

from core.errors import ModelError
from core.events import Watcher
from core.method import Paper, Param, recovery
from core.model.anatomy import block_paths
from core.model.tuning import tune


@recovery(
    "last_blocks",
    label="Head and last blocks",
    paper=Paper("Lu, Cheng, Fang, Wang, Wei, Xu, Xuan, Yang, Zhu", 2024, "Reassessing Layer Pruning in LLMs: New Insights and Methods", "2411.15558"),
    learning_rate=1e-4,
    place="recovery/training",
)  # fmt: skip
def last_blocks(
    model: nn.Module,
    batches: Iterable[Any],
    masks: Mapping[str, Tensor],
    steps: int,
    learning_rate: float,
    watcher: Watcher,
    *,
    blocks: Annotated[int, Param("Last blocks", 0, 64)] = 3,
    head: Annotated[bool, Param("The head too")] = True,
) -> list[float]:
    """Keep all but the end of the model as it is: train the last blocks, the norm after them and the head.

    batches: int64 ids (batch, tokens) or (images, labels), one a step. masks: {module path: bool, as the weight}; their zeros are held. AdamW on the mean
    negative log-likelihood; returns its value at each step, before that step. Where the head is tied to the embedding, that one tensor is trained.

    Intuition: when the last quarter of the blocks went, what is left ends in the middle of a thought; its end must learn to be one, and the way there is sound.
    When it lies: where single weights went everywhere, the damage is everywhere; and a tied head moves the embedding that every block reads.
    Deviations from the paper: AdamW, linear warm-up and decay, no dropout.
    """
    paths = block_paths(model)
    if not paths:
        raise ModelError("This model is no chain of blocks, so it has no last ones.", "Use masked_tuning.")
    if not head and not blocks:
        raise ModelError("Neither a block nor the head is left to train.", "Say blocks: 3, or head: true.")
    inside = tuple(f"{path}." for path in paths)
    last = tuple(inside[max(len(inside) - blocks, 0) :])
    ends = getattr(model, "get_output_embeddings", lambda: None)()
    own = {id(parameter) for parameter in ends.parameters()} if ends is not None else set()
    chosen = [parameter for name, parameter in model.named_parameters()
              if name.startswith(last)
              or (not name.startswith(inside) and (head if id(parameter) in own else not _at_the_entrance(model, name)))]  # fmt: skip
    return tune(model, chosen, batches, masks, steps, learning_rate, watcher)


def _at_the_entrance(model: nn.Module, name: str) -> bool:
    """Whether a parameter outside the blocks is read before them: embeddings of any kind and what stands with them."""
    parts = name.split(".")[:-1]
    return isinstance(model.get_submodule(".".join(parts)), nn.Embedding) or any(
        "embed" in part or part == "project_in" for part in parts
    )
