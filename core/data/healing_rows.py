"""Texts as the tokens that heal a model: so many of them, joined and cut into sequences, whatever rows they come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.data.dataset import Dataset
from core.data.selection import generator
from core.recipe import Heal


@dataclass(frozen=True)
class Texts:
    """ids: int64 of each row, its end token after them."""

    ids: list[np.ndarray]

    @property
    def sizes(self) -> np.ndarray:
        return np.array([len(row) for row in self.ids])

    def count(self, rows: np.ndarray, tokens: int) -> int:
        """How many whole sequences of `tokens` these rows make."""
        return int(self.sizes[rows].sum()) // tokens

    def windows(self, rows: np.ndarray, tokens: int) -> Tensor:
        """The rows in that order, joined and cut: int64 (sequences, tokens). What is left over is left out."""
        joined = np.concatenate([self.ids[at] for at in rows]) if len(rows) else np.empty(0, np.int64)
        return torch.from_numpy(joined[: len(joined) // tokens * tokens].reshape(-1, tokens))


def texts_of(dataset: Dataset, tokenizer: Any, tokens: int) -> Texts:
    """The first `tokens` tokens of each text, and the tokenizer's end token where it has one."""
    assert dataset.texts is not None
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    found = tokenizer(list(dataset.texts), truncation=True, max_length=tokens, return_attention_mask=False)["input_ids"]
    return Texts([np.array([*row, *(end if row[-1:] != end else [])], dtype=np.int64) for row in found])


def random_rows(texts: Texts, pool: np.ndarray, budget: int, seed: int) -> np.ndarray:
    """The fewest rows of a random order of the pool that hold `budget` tokens. The same order for every budget and every learner of this seed."""
    order = generator(seed, "random of the same size").permutation(pool)
    return order[: int(np.searchsorted(np.cumsum(texts.sizes[order]), budget)) + 1]


def rows_within(kept: Callable[[int], np.ndarray], texts: Texts, most: int, budget: int) -> np.ndarray:
    """The smallest choice kept(count) that holds `budget` tokens, by bisection: more rows are taken to hold more tokens."""
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        if texts.sizes[kept(middle)].sum() >= budget:
            high = middle
        else:
            low = middle + 1
    return kept(low)


def batches_of(texts: Texts, rows: np.ndarray, windows: int, ask: Heal, seed: int) -> list[Tensor]:
    """`epochs` passes over exactly `windows` sequences of these rows, rows in a new order each pass; the last batch of a pass may be smaller. int64
    (batch, tokens) each."""
    out: list[Tensor] = []
    random = generator(seed, "order of the rows that heal")
    for _ in range(ask.epochs):
        out += texts.windows(random.permutation(rows), ask.tokens)[:windows].split(ask.batch)
    return out
