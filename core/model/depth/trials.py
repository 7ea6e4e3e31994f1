"""Trying what a model loses without some of its blocks or sub-layers: the loss on the calibration text, nothing changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite

import torch
from torch import Tensor

from core.errors import ModelError
from core.events import Watcher
from core.model import blocks
from core.model.depth.bypass import Unit, answer_in_tuples, bypassed, starting_at
from core.model.loading import LoadedModel
from core.model.measuring.counts import check_in_memory
from core.model.measuring.likelihood import check_causal, mean_loss
from core.model.observe import stream

NO_LOSS = "gives no loss to search by"  # said of a model that predicts no next token


@dataclass
class Trials:
    """Losses of the model without some of its units. `losses`: every one found so far, by what was gone.

    ids (sequences, tokens). Hidden states of all sequences wait at the entrance of one block at a time, so memory does not grow with depth.
    """

    loaded: LoadedModel
    units: Mapping[str, Unit]
    ids: Tensor
    watcher: Watcher
    in_tuples: bool
    extras: list[blocks.Arguments]
    losses: dict[frozenset[str], float] = field(default_factory=dict)

    def evaluate(self, removed: frozenset[str]) -> float:
        """Mean negative log-likelihood in nats a token without these units; infinite where it is not a number."""
        if removed not in self.losses:
            with bypassed(self.loaded, self._units(removed), self.in_tuples):
                self.losses[removed] = mean_loss(self.loaded.model, self._batches(), self.watcher)
        return self.losses[removed]

    def evaluate_each(self, removed: frozenset[str], candidates: Iterable[str]) -> Iterator[tuple[str, float]]:
        """Pairs (candidate, loss without `removed` and it), in the model's order, one at a time.

        What lies before a candidate is computed once for all: the text waits at its entrance, and only the rest of the model runs.
        """
        at = {index: [unit for unit in self._units(candidates) if unit.block == index] for index in range(len(self.extras))}
        last = max((index for index, here in at.items() if here), default=-1)
        gone, ids = self._units(removed), self._batches()
        hidden = blocks.enter(self.loaded, self.ids, blocks.batch_for(self.extras))
        for index in range(last + 1):
            for unit in at[index]:
                without = removed | {unit.name}
                if without not in self.losses:
                    with (
                        bypassed(self.loaded, (*gone, unit), self.in_tuples),
                        starting_at(self.loaded, index, hidden, self.in_tuples),
                    ):
                        self.losses[without] = mean_loss(self.loaded.model, ids, self.watcher)
                yield unit.name, self.losses[without]
            if index < last:
                with bypassed(self.loaded, gone, self.in_tuples), self.loaded.block(index) as module:
                    blocks.advance(module, hidden, self.extras[index], self.watcher)

    def _units(self, names: Iterable[str]) -> list[Unit]:
        wanted = set(names)
        return [unit for name, unit in self.units.items() if name in wanted]

    def _batches(self) -> list[Tensor]:
        """The ids in the batches that `blocks.enter` makes of them."""
        size = blocks.batch_for(self.extras) or max(blocks.BATCH_TOKENS // self.ids.shape[1], 1)
        return list(self.ids.to(self.loaded.device).split(size))


def open_trials(loaded: LoadedModel, units: Mapping[str, Unit], ids: Tensor, watcher: Watcher) -> Trials:
    """Ready to try, the whole model's own loss already found. Raises ModelError where the model has no such loss, or it is no number."""
    check_in_memory(loaded)
    check_causal(loaded.model, NO_LOSS)
    extras = blocks.arguments(loaded, ids)
    in_tuples = answer_in_tuples(loaded, blocks.enter(loaded, ids[:1]), extras)
    trials = Trials(loaded, units, ids, watcher, in_tuples, extras)
    if not isfinite(trials.evaluate(frozenset())):
        raise ModelError(
            "The loss of the whole model on the calibration text is not a number.", "Check its weights, or compute in float32."
        )
    return trials


def last_states(loaded: LoadedModel, inputs: Tensor, watcher: Watcher) -> Tensor:
    """Float32 (borders, sequences, hidden): the hidden state of each sequence's last token before each block, and after the last one."""
    at = []
    for block, module, hidden, extra in stream(loaded, inputs, watcher, "observe"):
        at.append(_last(hidden))
        blocks.advance(module, hidden, extra, watcher)
        if block.index == len(loaded.anatomy.blocks) - 1:
            at.append(_last(hidden))
    return torch.stack(at)


def _last(hidden: blocks.Hidden) -> Tensor:
    if hidden[0].dim() != 3:
        raise ModelError("The blocks of this model hand on no sequence of tokens.", "Use block_influence or random.")
    return torch.cat([batch[:, -1].float() for batch in hidden])
