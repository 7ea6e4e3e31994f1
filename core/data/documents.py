"""How likely a language model finds each text of a data set, kept by content."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch

from core.data.remembered import is_remembered, remembered
from core.errors import DataError
from core.events import Progress, Watcher

STAGE = "score"
VERSION = 1
_BATCH_TOKENS = 4096


def document_losses(texts: list[str], row: np.ndarray, loaded: Any, tokens: int, watcher: Watcher) -> np.ndarray:
    """Mean negative log-likelihood a token of each text, in nats, float32 (rows,): the logarithm of its perplexity.

    Of each text the first `tokens` tokens are read, after the model's first token (its end token where it has none), so that every token of the
    text is predicted. Texts of one length share a batch: nothing is padded. `row`: their numbers, to say where the
    tokenizer makes nothing of a text (DataError).
    """
    from core.model.measuring.likelihood import check_causal, token_losses

    if loaded.tokenizer is None:
        raise DataError(f"{loaded.name} cannot read texts.", "Open a language model.")
    check_causal(loaded.model)
    first = next(loaded.model.parameters())

    def fill(array: Any) -> None:
        out = array("losses", (len(texts),), np.float32)
        ids = _ids(texts, row, loaded.tokenizer, tokens)
        order = sorted(range(len(ids)), key=lambda at: (len(ids[at]), at))
        done = 0
        with torch.inference_mode():
            for batch in _batches(order, ids):
                watcher.check()
                losses = token_losses(loaded.model, torch.tensor([ids[at] for at in batch], device=first.device))
                out[batch] = losses.double().mean(dim=1).cpu().numpy()
                done += len(batch)
                watcher.say(Progress(STAGE, done, len(ids)))

    return np.array(remembered("documents", _says(texts, loaded, tokens), fill)["losses"])


def seconds(texts: list[str], loaded: Any, tokens: int) -> float:
    """About how long `document_losses` would take here, at four letters a token on one slow core; 0 where it lies in the cache."""
    if is_remembered("documents", _says(texts, loaded, tokens)):
        return 0.0
    read = sum(min(len(text) / 4 + 1, tokens) for text in texts)
    return len(texts) * 2e-3 + read * sum(one.numel() for one in loaded.model.parameters()) * 1e-10


def _says(texts: list[str], loaded: Any, tokens: int) -> list[Any]:
    from core.model.files.source import fingerprint

    words = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    model = fingerprint(loaded.location) if loaded.location else id(loaded)
    return [VERSION, words, len(texts), tokens, model, str(next(loaded.model.parameters()).dtype)]


def _ids(texts: list[str], row: np.ndarray, tokenizer: Any, tokens: int) -> list[list[int]]:
    """Ids of each text, the model's first token before them."""
    plain = tokenizer(list(texts), add_special_tokens=False, truncation=True, max_length=tokens, return_attention_mask=False)[
        "input_ids"
    ]
    empty = [int(row[at]) for at, found in enumerate(plain) if not found]
    if empty:
        shown = ", ".join(map(str, empty[:5]))
        raise DataError(f"The tokenizer makes nothing of {len(empty)} texts (row numbers {shown}).", "Remove those rows.")
    lead = next((one for one in (tokenizer.bos_token_id, tokenizer.eos_token_id) if one is not None), plain[0][0])
    return [[lead, *found] for found in plain]


def _batches(order: list[int], ids: list[list[int]]) -> Any:
    """Rows of one length each, at most `_BATCH_TOKENS` tokens together."""
    batch: list[int] = []
    for at in order:
        if batch and (len(ids[at]) != len(ids[batch[0]]) or (len(batch) + 1) * len(ids[at]) > _BATCH_TOKENS):
            yield batch
            batch = []
        batch.append(at)
    if batch:
        yield batch
