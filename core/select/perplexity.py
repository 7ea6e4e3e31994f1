"""How surprising the opened language model finds each text."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np

from core.events import Watcher
from core.method import Paper, Param, data_score


@data_score(
    "perplexity",
    label="Perplexity",
    paper=Paper(
        "Ankner, Blakeney, Sreenivasan, Marion, Leavitt, Paul",
        2024,
        "Perplexed by Perplexity: Perplexity-Based Data Pruning With Small Reference Models",
        "2405.20541",
    ),
    needs={"texts", "loaded"},
    place="language model",
)
def perplexity(
    texts: list[str],
    row: np.ndarray,
    loaded: Any,
    watcher: Watcher,
    *,
    prefer: Annotated[str, Param("Keep first", choices=("low", "middle", "high"))] = "middle",
    tokens: Annotated[int, Param("Tokens read", 8, 2048)] = 256,
) -> np.ndarray:
    """Keep texts of a low, middle or high perplexity under the opened language model: too easy is repetition, too hard is often noise.

    texts (rows); of each the first `tokens` tokens are read. Returns float32 (rows,): log perplexity in nats a token (high), its negative
    (low), or minus the distance of the row's rank from the median rank, in shares of all rows (middle).

    Intuition: a small model knows what is common in text; what it finds too easy or too surprising is often worth less to a larger one.

    When it lies: the best band differs from data set to data set: prove all three. Short texts have noisy perplexities, and a model that
    has seen another language calls all of this one surprising.

    Ours: each text stands alone after the model's first token; equal perplexities keep the order of the rows.
    """
    from core.data.documents import document_losses

    losses = document_losses(texts, row, loaded, tokens, watcher)
    if prefer == "high":
        return losses
    if prefer == "low":
        return -losses
    rank = np.empty(len(losses))
    rank[np.argsort(losses, kind="stable")] = np.arange(len(losses))
    return (-np.abs(rank - (len(losses) - 1) / 2) / len(losses)).astype(np.float32)
