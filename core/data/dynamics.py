"""Training dynamics: what a small learner answers on every row after every epoch, over several seeds. Scores of difficulty are read off it.

Plain numpy: one hidden layer at the most, and no wait for torch before a map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from core.data.draws import generator
from core.data.remembered import digest, is_remembered, remembered
from core.errors import DataError
from core.events import Progress, Watcher
from core.method import Param

STAGE = "train"
VERSION = 1
HIDDEN, BATCH, DECAY = 128, 64, 1e-4
RATE = {"linear": 3e-3, "mlp": 1e-3}
LEARNERS = tuple(RATE)
_FLOAT32_BYTES, _MOST_BYTES = 1_000_000_000, 4_000_000_000
_CHUNK_ROWS = 8192
# the controls of every score that is read off a training record
Learner = Annotated[str, Param("Small learner", choices=LEARNERS)]
Seeds = Annotated[int, Param("Seeds", 1, 20)]
Epochs = Annotated[int, Param("Epochs", 1, 100)]
Prefer = Annotated[str, Param("Keep first", choices=("hard", "easy"))]


@dataclass(frozen=True)
class Dynamics:
    """`probabilities` (seeds, epochs, rows, classes): softmax after each epoch, memory-mapped; float32, or float16 (to 0.0005) where it would be
    larger than 1 GB. `lengths` (seeds, epochs, rows): length of what the last layer reads, its constant 1 included. `labels` (rows,)."""

    probabilities: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray

    @property
    def seeds(self) -> int:
        return self.probabilities.shape[0]

    @property
    def epochs(self) -> int:
        return self.probabilities.shape[1]

    def at(self, seed: int, epoch: int) -> np.ndarray:
        """The answers of one seed after one epoch (-1: the last), float32 (rows, classes), the caller's own."""
        return np.array(self.probabilities[seed, epoch], dtype=np.float32)

    def own(self, seed: int, epoch: int) -> np.ndarray:
        """Probability of each row's own label, float32 (rows,)."""
        return self.at(seed, epoch)[np.arange(len(self.labels)), self.labels]

    def best_other(self, seed: int, epoch: int) -> np.ndarray:
        """The largest probability of another label, float32 (rows,)."""
        answers = self.at(seed, epoch)
        answers[np.arange(len(self.labels)), self.labels] = -np.inf
        return answers.max(axis=1)

    def right(self, seed: int, epoch: int) -> np.ndarray:
        """Is the own label the likeliest? bool (rows,); a tie counts as wrong."""
        return self.own(seed, epoch) > self.best_other(seed, epoch)


def record(
    vectors: np.ndarray, labels: np.ndarray, learner: str, seeds: int, epochs: int, seed: int, watcher: Watcher
) -> Dynamics:
    """Train `learner` (linear: softmax regression; mlp: one hidden layer of 128, ReLU) `seeds` times for `epochs` epochs; keep every answer.

    vectors (rows, features), each feature standardised on all rows; a constant one stays 0. Adam at 0.003 (linear) or 0.001 (mlp), batches of 64 in
    a new order each epoch, weight decay 1e-4. Bit-equal on repetition, on one thread; from the cache where it has been done before.
    Raises DataError where there is one class, or the record would pass 4 GB.
    """
    classes = int(labels.max()) + 1 if len(labels) else 0
    if len(np.unique(labels)) < 2:
        raise DataError("All rows have the same label, so there is nothing to learn.", "Choose another column with `label:`.")
    shape = (seeds, epochs, len(labels), classes)
    size = int(np.prod(shape, dtype=np.float64)) * 4
    kind = np.float32 if size <= _FLOAT32_BYTES else np.float16
    if size // 4 * np.dtype(kind).itemsize > _MOST_BYTES:
        raise DataError(
            f"The training record of {len(labels)} rows, {classes} classes, {seeds} seeds and {epochs} epochs passes 4 GB.",
            "Lower seeds or epochs.",
        )
    says = _says(vectors, labels, learner, seeds, epochs, seed)

    def fill(array: Callable[..., np.ndarray]) -> None:
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1, "blas"):  # products this small only lose by threads, and so their number cannot change a bit
            _train(
                vectors,
                labels,
                learner,
                seed,
                array("probabilities", shape, kind),
                array("lengths", shape[:3], np.float32),
                watcher,
            )

    made = remembered("dynamics", says, fill)
    return Dynamics(made["probabilities"], made["lengths"], labels)


def seconds(vectors: np.ndarray, labels: np.ndarray, learner: str, seeds: int, epochs: int, seed: int) -> float:
    """About how long `record` would take here, measured on one slow core; 0 where it lies in the cache."""
    if is_remembered("dynamics", _says(vectors, labels, learner, seeds, epochs, seed)):
        return 0.0
    width = HIDDEN if learner == "mlp" else int(labels.max()) + 1
    return seeds * epochs * len(labels) * (5e-6 + 3e-10 * vectors.shape[1] * width)


def _says(vectors: np.ndarray, labels: np.ndarray, *asked: Any) -> list[Any]:
    return [VERSION, digest(vectors), digest(labels), *asked]


def _train(
    vectors: np.ndarray,
    labels: np.ndarray,
    learner: str,
    seed: int,
    answers: np.ndarray,
    lengths: np.ndarray,
    watcher: Watcher,
) -> None:
    """Train once a seed, and write down answers and lengths after each epoch."""
    seeds, epochs, _, classes = answers.shape
    inputs = standardised(vectors)
    for number in range(seeds):
        watcher.check()
        watcher.say(Progress(STAGE, number, seeds))
        draw = generator(seed, f"dynamics {number}")
        weights = _start(inputs.shape[1], classes, learner, draw)
        moments = [(np.zeros_like(w), np.zeros_like(w)) for w in weights]
        steps = 0
        for epoch in range(epochs):
            watcher.check()
            steps = _epoch(inputs, labels, weights, moments, steps, RATE[learner], draw)
            for start in range(0, len(inputs), _CHUNK_ROWS):
                stop = start + _CHUNK_ROWS
                read, answers[number, epoch, start:stop] = _answers(inputs[start:stop], weights)
                lengths[number, epoch, start:stop] = np.sqrt(np.einsum("rf,rf->r", read, read) + 1)
    watcher.say(Progress(STAGE, seeds, seeds))


def standardised(vectors: np.ndarray) -> np.ndarray:
    """Each feature with mean 0 and deviation 1, float32; a constant feature is 0. Beside the result only a chunk of rows lies in memory."""
    chunks = [slice(start, start + _CHUNK_ROWS) for start in range(0, len(vectors), _CHUNK_ROWS)]
    mean = sum(vectors[at].sum(axis=0, dtype=np.float64) for at in chunks) / len(vectors)
    spread = np.sqrt(sum(((vectors[at] - mean) ** 2).sum(axis=0) for at in chunks) / len(vectors))
    spread[spread < 1e-12] = 1.0
    out = np.empty(vectors.shape, dtype=np.float32)
    for at in chunks:
        out[at] = (vectors[at] - mean) / spread
    return out


def _start(features: int, classes: int, learner: str, draw: np.random.Generator) -> list[np.ndarray]:
    """Weights and biases, layer after layer; He's deviation before the ReLU, zeros at the end of a linear learner."""
    if learner == "linear":
        return [np.zeros((features, classes), np.float32), np.zeros(classes, np.float32)]
    first = draw.standard_normal((features, HIDDEN), dtype=np.float32) * np.float32((2 / features) ** 0.5)
    last = draw.standard_normal((HIDDEN, classes), dtype=np.float32) * np.float32((1 / HIDDEN) ** 0.5)
    return [first, np.zeros(HIDDEN, np.float32), last, np.zeros(classes, np.float32)]


def _answers(inputs: np.ndarray, weights: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """What the last layer reads, and the softmax of what it says."""
    read = np.maximum(inputs @ weights[0] + weights[1], 0) if len(weights) == 4 else inputs
    logits = read @ weights[-2] + weights[-1]
    logits = np.exp(logits - logits.max(axis=1, keepdims=True))
    return read, logits / logits.sum(axis=1, keepdims=True)


def _epoch(
    inputs: np.ndarray,
    labels: np.ndarray,
    weights: list[np.ndarray],
    moments: list[tuple[np.ndarray, np.ndarray]],
    steps: int,
    rate: float,
    draw: np.random.Generator,
) -> int:
    """One pass over the rows in a new order; changes weights and moments; returns how many steps have been taken in all."""
    order = draw.permutation(len(inputs))
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        batch = inputs[rows]
        read, delta = _answers(batch, weights)
        delta[np.arange(len(rows)), labels[rows]] -= 1
        delta /= len(rows)
        gradients = [read.T @ delta, delta.sum(axis=0)]
        if len(weights) == 4:
            back = (delta @ weights[2].T) * (read > 0)
            gradients = [batch.T @ back, back.sum(axis=0), *gradients]
        steps += 1
        _adam(weights, gradients, moments, steps, rate)
    return steps


def _adam(
    weights: list[np.ndarray],
    gradients: list[np.ndarray],
    moments: list[tuple[np.ndarray, np.ndarray]],
    step: int,
    rate: float,
) -> None:
    """Adam with decoupled weight decay on matrices, in place."""
    size = np.float32(rate * (1 - 0.999**step) ** 0.5 / (1 - 0.9**step))
    for weight, gradient, (mean, square) in zip(weights, gradients, moments, strict=True):
        mean += np.float32(0.1) * (gradient - mean)
        square += np.float32(0.001) * (gradient * gradient - square)
        if weight.ndim == 2:
            weight *= np.float32(1 - rate * DECAY)
        weight -= size * mean / (np.sqrt(square) + np.float32(1e-8))
