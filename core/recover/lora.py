from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from torch import Tensor, nn

from core.events import Watcher
from core.method import Paper, Param, recovery
from core.model.adapters import train_adapted


@recovery(
    "lora",
    label="LoRA through the mask",
    paper=Paper("Hu, Shen, Wallis et al.", 2021, "LoRA: Low-Rank Adaptation of Large Language Models", "2106.09685"),
    learning_rate=3e-4,
    place="recovery/training",
)
def lora(
    model: nn.Module,
    batches: Iterable[Any],
    masks: Mapping[str, Tensor],
    steps: int,
    learning_rate: float,
    watcher: Watcher,
    *,
    rank: Annotated[int, Param("Rank", 1, 256)] = 8,
    alpha: Annotated[float, Param("Alpha", 0.1, 512.0)] = 16.0,
) -> list[float]:
    """Keep the pruned weights' pattern; add to each pruned layer a product of two thin matrices, then melt it in: every zero stays zero.

    W' = W + keep * (B A) * alpha / rank, with A (rank, in), B (out, rank), B = 0 at first; `keep` is 0 where W is 0 (or its mask says so). The mask
    is in place *while* training, so the model that is trained is the one that is left: merging changes nothing, and no zero can come back
    (asserted). Trained with AdamW on the mean negative log-likelihood; returns its value at each step, before that step.

    batches: int64 ids (batch, tokens) or (images, labels), one a step. masks: {module path: bool, as the weight}: the layers trained. Where there are no
    masks (whole blocks were removed), every linear layer but the head. Layers that are not linear are left as they are.

    Intuition: errors of a pruned layer lie mostly along few directions of its input and output; a low rank reaches them with one or two
    percent of the parameters' training state.
    When it lies: the mask cuts the update, whose rank is then no longer low; a mask that left too little cannot be healed by any rank; and a few
    hundred steps on one text also teach that text, so compare with a dense model trained the same way before praising the recovery.
    Deviations from the paper: mask on the update, as in MaskLoRA of PERP (Zimmer et al. 2023, arXiv 2312.15230); merged; no dropout; A starts from the
    run's seed whatever else has drawn random numbers. A Stop merges the steps taken so far.
    """
    return train_adapted(model, batches, masks, steps, learning_rate, watcher, rank=rank, alpha=alpha)
