"""Texts as a small sentence encoder sees them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np

from core.builtins import fetch
from core.events import Watcher
from core.method import Paper, Param, embedding


@embedding(
    "minilm",
    label="MiniLM",
    of=("text",),
    paper=Paper("Reimers, Gurevych", 2019, "Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks", "1908.10084"),
    place="encoder",
)
def minilm(
    texts: Sequence[str], watcher: Watcher, start: int, *, tokens: Annotated[int, Param("Tokens read", 8, 512)] = 256
) -> Iterator[np.ndarray]:
    """Describe each text by its meaning, as all-MiniLM-L6-v2 learned it from a billion pairs of sentences that belong together.

    texts (rows); of each the first `tokens` tokens are read. Mean of the last layer over a text's tokens, scaled to length 1. Gives
    float32 (rows, 384). Computes in bfloat16 where the processor has it (cosine to float32 at least 0.999).

    When it lies: trained on English web text; negation, numbers and jargon count for little. What lies beyond the tokens read is not seen.
    """
    from transformers import AutoModel, AutoTokenizer

    from core.data.pooling import fast_dtype, pooled

    folder = fetch("minilm")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=fast_dtype()).eval()
    for means in pooled(texts, tokenizer, model, model.encoder, tokens, watcher, start=start):
        yield means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
