"""What the model is worth while a step prunes it: a quick figure after each block or layer, told as an event for the live curve. It decides nothing.

The figure is real: the whole model as it stands (blocks pruned so far, the others dense) on the first few windows, or images, of what quality is measured
on. It takes at most a tenth of the step's time, or two seconds: where that is spent, a block goes by unmeasured.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from math import exp, isfinite

import torch
from torch import Tensor

from core.events import Progress, Watcher
from core.model.loading import LoadedModel
from core.model.measuring.comparing import answers
from core.model.measuring.likelihood import token_losses
from core.model.measuring.measure import Prepared
from core.recipe import Prune, n_of_m, tile_size

PERPLEXITY, ACCURACY = "running_perplexity", "running_accuracy"
WINDOWS, TOKENS, IMAGES = 4, 128, 128
TIME_SHARE, FREE_S = 0.1, 2.0


@dataclass
class Running:
    """A watcher that hands everything on, and adds the figure to what a pruning step says of its progress."""

    watcher: Watcher
    loaded: LoadedModel
    inputs: Tensor
    labels: Tensor | None
    _started_s: float = field(default_factory=time.perf_counter)
    _spent_s: float = 0.0
    _seen: int = -1

    def say(self, progress: Progress) -> None:
        self.watcher.say(self._with_figure(progress) if self._due(progress) else progress)

    def check(self) -> None:
        self.watcher.check()

    def _due(self, progress: Progress) -> bool:
        if progress.kind != "progress" or not progress.stage.startswith("prune: ") or progress.done == self._seen:
            return False
        edge = progress.done in (0, progress.total)
        return edge or self._spent_s <= max(TIME_SHARE * (time.perf_counter() - self._started_s), FREE_S)

    def _with_figure(self, progress: Progress) -> Progress:
        start = time.perf_counter()
        self._seen = progress.done
        name, value = self._figure()
        self._spent_s += time.perf_counter() - start
        return replace(progress, values={**progress.values, name: value}) if isfinite(value) else progress

    def _figure(self) -> tuple[str, float]:
        with torch.no_grad():
            if self.labels is not None:
                return ACCURACY, float((answers(self.loaded, self.inputs) == self.labels).float().mean())
            mean = float(token_losses(self.loaded.model, self.inputs.to(self.loaded.device)).double().mean())
        return PERPLEXITY, exp(mean) if mean < 700 else float("inf")


def telling(watcher: Watcher, loaded: LoadedModel, step: Prune, prepared: Prepared) -> Watcher:
    """The watcher for a pruning step: with the figure where weights go block by block and quality is measured, else as it is."""
    in_place = step.structure == "unstructured" or n_of_m(step.structure) or tile_size(step.structure)
    if not in_place or loaded.lazy is not None or not loaded.anatomy.blocks:
        return watcher
    if prepared.sequences is not None:
        return Running(watcher, loaded, prepared.sequences[:WINDOWS, :TOKENS], None)
    if prepared.images is not None:
        return Running(watcher, loaded, prepared.images[:IMAGES], prepared.labels[:IMAGES])
    return watcher
