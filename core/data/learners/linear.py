"""A linear probe: softmax regression solved to its optimum, so that what differs is the rows alone."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from core.data.learners import Fitted, Task, mixed
from core.events import Silent, Watcher

_MOST_PASSES = 1000
_STEEPEST = 1e-4  # no part of the gradient is larger at the end, as scikit-learn's logistic regression asks


def train(task: Task) -> Fitted:
    """Standardise on the training rows, then minimise the loss plus half the squared weights (C = 1; biases are free).

    There are no epochs: the rows are the schedule's last. With a teacher the loss of a row is (1 - a) CE + a T^2 KL(teacher / T || own / T).
    """
    import scipy.optimize  # noqa: F401 - its first import is none of the seconds

    rows = task.schedule[-1]
    started = time.perf_counter()
    scale = scaling(task.inputs[rows])
    labels = task.labels[rows]
    soft = None
    if task.teacher:
        soft = softmax(task.teacher.logits(task.inputs[rows]) / task.teacher.temperature)
    alpha, temperature = (task.teacher.alpha, task.teacher.temperature) if task.teacher else (0.0, 1.0)
    solved = solve(scale(task.inputs[rows]), labels, task.classes, task.watcher, soft, alpha, temperature)
    seconds = time.perf_counter() - started

    def logits(vectors: np.ndarray) -> np.ndarray:
        return scale(vectors) @ solved[:-1] + solved[-1]

    def predict(positions: np.ndarray) -> np.ndarray:
        return logits(task.inputs[positions]).argmax(axis=1)

    figure = float(np.mean(predict(task.test) == task.labels[task.test]))
    return Fitted(((1.0, seconds, figure),), predict, logits)


def scaling(train: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Features to mean 0 and standard deviation 1 of these rows; a constant one to 0."""
    mean, spread = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    spread[spread == 0] = 1.0
    return lambda vectors: (vectors - mean) / spread


def softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def solve(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    watcher: Watcher | None = None,
    soft: np.ndarray | None = None,
    alpha: float = 0.0,
    temperature: float = 1.0,
) -> np.ndarray:
    """Weights and, in the last row, biases (features + 1, classes). A class that no row has is never answered: its bias is -infinity.

    Two classes share one weight vector (the first class's is 0), as in scikit-learn. L-BFGS; a stop is heard between two of its passes.
    """
    from scipy.optimize import minimize

    watcher = watcher or Silent()
    seen = np.arange(classes) if soft is not None else np.unique(labels)
    out = np.zeros((features.shape[1] + 1, classes))
    out[-1, np.setdiff1d(np.arange(classes), seen)] = -np.inf
    if len(seen) == 1:
        return out
    hard = mixed(np.searchsorted(seen, labels), len(seen))
    free = 1 if len(seen) == 2 else len(seen)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        watcher.check()
        own = flat.reshape(-1, free)
        logits = features @ own[:-1] + own[-1]
        if free == 1:
            logits = np.hstack([np.zeros_like(logits), logits])
        value, slope = _entropy(logits, hard)
        if soft is not None and alpha > 0:
            kept, kept_slope = _entropy(logits / temperature, soft)
            value = (1 - alpha) * value + alpha * temperature**2 * kept
            slope = (1 - alpha) * slope + alpha * temperature * kept_slope
        slope = slope[:, -free:]
        gradient = np.vstack([features.T @ slope + own[:-1], slope.sum(axis=0)])
        return value + 0.5 * float((own[:-1] ** 2).sum()), gradient.ravel()

    rules = {"maxiter": _MOST_PASSES, "maxls": 50, "gtol": _STEEPEST * len(features), "ftol": 64 * np.finfo(float).eps}
    found = minimize(loss, np.zeros((features.shape[1] + 1) * free), jac=True, method="L-BFGS-B", options=rules).x
    out[:, seen[-free:]] = found.reshape(-1, free)
    return out


def _entropy(logits: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
    """Cross-entropy summed over rows, and its slope by the logits."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return float((target * (log_sum - shifted)).sum()), np.exp(shifted - log_sum) - target
