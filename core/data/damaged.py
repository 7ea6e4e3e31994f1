"""What single texts lose when a model is pruned: each read by the dense model and by the pruned one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from core.data.damage import jensen_shannon, read
from core.data.dataset import Dataset
from core.data.pooling import batches
from core.events import Progress, Watcher
from core.model import blocks
from core.model.loading import LoadedModel

STAGE = "damage"


@dataclass(frozen=True)
class Damaged:
    """Of each row, all (rows,): `row`, its number in the source; `divergence`, the Jensen-Shannon divergence between the answers of both models, in nats,
    mean over its tokens; `rise`, by how much its loss is higher in the pruned model, nats a token; `tokens`, how many of it are predicted."""

    row: np.ndarray
    divergence: np.ndarray
    rise: np.ndarray
    tokens: np.ndarray

    def of(self, row: np.ndarray) -> Damaged:
        """The same of these row numbers, in their order."""
        order = np.argsort(self.row)
        at = order[np.searchsorted(self.row, row, sorter=order)]
        return Damaged(self.row[at], self.divergence[at], self.rise[at], self.tokens[at])


def damage_of(dense: LoadedModel, pruned: LoadedModel, dataset: Dataset, tokens: int, watcher: Watcher) -> Damaged:
    """Read the first `tokens` tokens of every text with both models. A text of one token predicts nothing and has no damage."""
    assert dataset.texts is not None
    divergence, rise, count = (np.zeros(len(dataset)) for _ in range(3))
    done = 0
    for positions, ids, mask in batches(dataset.texts, dense.tokenizer, dense.model, tokens):
        watcher.check()
        blocks.check_context(dense, ids.shape[1])
        before, after = read(dense, (ids, mask)), read(pruned, (ids, mask))
        place = np.asarray(positions)[before.row.numpy()]
        np.add.at(divergence, place, jensen_shannon(before.log_probs, after.log_probs).double().numpy())
        lost = (before.log_probs - after.log_probs).gather(1, before.right[:, None])[:, 0]
        np.add.at(rise, place, lost.double().numpy())
        np.add.at(count, place, 1)
        done += len(positions)
        watcher.say(Progress(STAGE, done, len(dataset)))
    each = np.maximum(count, 1)
    return Damaged(dataset.row, divergence / each, rise / each, count)
