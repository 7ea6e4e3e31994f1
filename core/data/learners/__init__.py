"""Small learners that a proof trains from nothing: one file each, with one function `train(Task) -> Fitted`. Imports torch only when it trains.

`inputs` are the learner's own: vectors (rows, features), images (rows, height, width), or a list of token ids a row. A schedule says which rows
each epoch visits: the same ones every epoch, or (RS2) new ones; its length also sets the course of the learning rate, so that fewer steps
mean a compressed course, not one cut off.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from core.errors import DataError
from core.events import Watcher

_FILES = {"linear": "linear", "mlp": "mlp", "cnn": "cnn", "tiny-llama": "tiny_llama"}


@dataclass(frozen=True)
class Teacher:
    """A learner that saw all rows: its `logits` of a batch in the learner's own form; `alpha`: the share of the loss that is the KL to it."""

    logits: Callable[[Any], Any]
    alpha: float = 0.5
    temperature: float = 1.0


@dataclass(frozen=True)
class Task:
    """What to learn. labels int64 (rows,), empty for a language model; schedule: positions an epoch; test: positions that are only tested on."""

    inputs: Any
    labels: np.ndarray
    classes: int
    schedule: Sequence[np.ndarray]
    test: np.ndarray
    seed: int
    watcher: Watcher
    batch: int = 32
    device: str = "auto"
    teacher: Teacher | None = None
    start: Any = None  # a module to go on training, in the place of a new one


@dataclass(frozen=True)
class Fitted:
    """history: (epochs done, seconds of training so far, figure on the held-out rows) at some moments, the last one at the end. The figure is the
    accuracy (0..1), of a language model the perplexity a token. predict(positions): class numbers, of a language model the loss of each row in nats a
    token. logits(batch): as a teacher gives them. model: the module that was trained, of the learners that are one."""

    history: tuple[tuple[float, float, float], ...]
    predict: Callable[[np.ndarray], np.ndarray]
    logits: Callable[[Any], Any]
    model: Any = None


def train(learner: str, task: Task) -> Fitted:
    """Train one learner; the same task gives the same figures on the same machine. Raises Stopped within a step; DataError where it diverges."""
    return importlib.import_module(f"core.data.learners.{_FILES[learner]}").train(task)


def mixed(labels: np.ndarray, classes: int) -> np.ndarray:
    """Class numbers as one-hot rows, float64 (rows, classes)."""
    hard = np.zeros((len(labels), classes))
    hard[np.arange(len(labels)), labels] = 1.0
    return hard


def diverged(learner: str) -> DataError:
    return DataError(
        f"Training the {learner} on these rows went to infinity.",
        "Look for columns of a very different size, or choose the linear probe.",
    )
