"""What one prune step is given: all that carrying it out on a model needs, under one name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Generator, Tensor, nn

from core.cost import Owed
from core.events import Watcher
from core.method import Method
from core.model.inputs.texts import NO_TEXTS, Texts
from core.model.loading import LoadedModel
from core.model.masks import generator
from core.model.pruning.before import Before
from core.recipe import Prune


@dataclass(frozen=True)
class Task:
    """One prune step on the model in memory. inputs(): calibration ids or pixels, asked for only where they are needed. texts: what else may be read.
    owed: what the step's budget asks for, None where it says a sparsity. before: what it changes, as it was; None where nobody wants that back."""

    loaded: LoadedModel
    step: Prune
    method: Method
    inputs: Callable[[], Tensor]
    seed: int
    watcher: Watcher
    texts: Texts = NO_TEXTS
    owed: Owed | None = None
    before: Before | None = None

    @property
    def stage(self) -> str:
        """What progress calls it."""
        return f"prune: {self.step.method}"

    def will_write(self, *parameters: nn.Parameter) -> None:
        """To be said before parameters are written in place; a view of one taken earlier is of the old numbers."""
        if self.before is not None:
            self.before.values(*parameters)

    def generator(self, name: str) -> Generator:
        """Random numbers that depend on the recipe's seed and this name only."""
        return generator(self.seed, name)
