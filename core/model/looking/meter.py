"""How far a model is from what it was: the yardstick of every measurement that cost curves are made of."""

from __future__ import annotations

from math import ceil, exp, inf, isfinite

import torch
from torch import Tensor

from core.errors import ModelError
from core.events import Watcher
from core.model.measuring.quality import Check

_FEW = 6  # one in so many batches is read for divergences, of which there are many
MOST_KEPT = 2**25  # log-probabilities of the dense model in memory (128 MB): a large vocabulary leaves predictions out
_AT_ONCE = 16  # predictions compared at a time: what they need stays in the cache (of 255 at once, 0.37 CPU-seconds; so, 0.03)


class Meter:
    """How far the model now is from what it was: in its answers, on a few batches, and in its loss, on all.

    The divergence from the dense model's own answers is the increase of the loss that a calibrated model expects, without the luck of which word came
    next: a twentieth of the noise on the same text. The loss itself needs many more predictions. `dense`: the quality figure of the model as it was;
    `compared`: how many of its answers are kept for divergences, evenly spaced where MOST_KEPT allows no more.
    """

    def __init__(self, check: Check, watcher: Watcher) -> None:
        self.check, self.few = check, max(check.batches // _FEW, 1)
        self._answers: list[Tensor] = []
        self._losses: list[Tensor] = []
        for number in range(check.batches):
            watcher.check()
            answers, right = check.read(number)
            self._losses.append(_loss(answers, right))
            if number < self.few:
                self._every = self._every if number else ceil(answers.numel() * self.few / MOST_KEPT) or 1
                self._answers.append(answers[:: self._every].clone())
        mean = float(torch.cat(self._losses).double().mean())
        self.dense, self.compared = exp(mean) if mean < 700 else inf, sum(map(len, self._answers))

    @classmethod
    def of(cls, check: Check, watcher: Watcher) -> Meter:
        """One whose dense model is sound; raises ModelError where its quality figure is no number."""
        watcher.check()
        meter = cls(check, watcher)
        if not isfinite(meter.dense):
            raise ModelError(
                f"The {check.metric} of the whole model is not a number.", "Check its weights, or compute in float32."
            )
        return meter

    def read(self, watcher: Watcher, loss: bool = False) -> tuple[float, ...]:
        """(mean Kullback-Leibler divergence, in nats a prediction,), and with `loss` the mean increase of the loss and its standard error, in one reading."""
        far, more = [], []
        for number in range(self.check.batches if loss else self.few):
            watcher.check()
            answers, right = self.check.read(number)
            if number < self.few:
                pairs = zip(self._answers[number].split(_AT_ONCE), answers[:: self._every].split(_AT_ONCE), strict=True)
                far += [(dense.exp() * (dense - now)).sum(-1) for dense, now in pairs]
            if loss:
                more.append(_loss(answers, right) - self._losses[number])
        divergence = float(torch.cat(far).double().mean())
        if not loss:
            return (divergence,)
        change = torch.cat(more).double()
        return divergence, float(change.mean()), float(change.std() / len(change) ** 0.5) if len(change) > 1 else 0.0


def _loss(answers: Tensor, right: Tensor) -> Tensor:
    return -answers.gather(1, right[:, None])[:, 0]
