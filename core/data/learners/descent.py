"""What the learners that descend share: batches by schedule, AdamW on a cosine, moments at which the held-out rows are looked at."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.data.learners import Fitted, Task, Teacher, diverged
from core.data.selection import generator

_MOMENTS = 20  # how often, at most, the held-out rows are looked at; their seconds are not counted
_ROWS_AT_ONCE = 512
_HIGHEST_NORM = 1.0
_WARM_SHARE = 0.1


def device_of(asked: str) -> torch.device:
    """auto: CUDA, then MPS, then the CPU. Raises RecipeError where the device is not there."""
    from core.model.loading import pick_device

    return pick_device(asked)


@contextmanager
def seeded(seed: int) -> Any:
    """torch's random numbers from this seed, and as they were afterwards: a model's start depends on nothing else."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def descend(
    name: str,
    task: Task,
    model: nn.Module,
    loss_of: Callable[[np.ndarray], Tensor],
    figure_of: Callable[[], float],
    rate: float,
) -> tuple[tuple[float, float, float], ...]:
    """Train `model` over the schedule and return the history of Fitted. loss_of(positions): the mean loss of a batch.

    Each epoch's rows are shuffled anew (seeded). AdamW, weight decay 0.01, gradients scaled down to norm 1; the rate climbs over the first tenth
    of all steps and falls along a cosine to 0 at the last one, however many steps there are.
    """
    random = generator(task.seed, "order of the rows")
    total = sum(math.ceil(len(rows) / task.batch) for rows in task.schedule)
    looks = {round(total * at / _MOMENTS) for at in range(1, _MOMENTS + 1)} - {0}
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    history, step, seconds, started = [], 0, 0.0, time.perf_counter()
    for epoch, rows in enumerate(task.schedule):
        order = random.permutation(rows)
        for start in range(0, len(order), task.batch):
            task.watcher.check()
            step += 1
            for group in optimizer.param_groups:
                group["lr"] = rate * rate_share(step, total)
            loss = loss_of(order[start : start + task.batch])
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), _HIGHEST_NORM)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if step in looks:
                if not math.isfinite(loss.item()):
                    raise diverged(name)
                seconds += time.perf_counter() - started
                done = epoch + min(start + task.batch, len(order)) / len(order)
                history.append((done, seconds, figure_of()))
                started = time.perf_counter()
    return tuple(history)


def rate_share(step: int, total: int) -> float:
    """What share of the learning rate step 1..total gets."""
    warm = max(1, round(_WARM_SHARE * total))
    if step <= warm:
        return step / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


def taught(logits: Tensor, target: Tensor, teacher: Teacher | None, batch: Any) -> Tensor:
    """Mean loss of rows: cross-entropy, or (1 - alpha) CE + alpha T^2 KL(teacher / T || own / T). logits (rows, classes), target (rows,)."""
    loss = F.cross_entropy(logits, target)
    if teacher is None:
        return loss
    with torch.no_grad():
        soft = F.log_softmax(teacher.logits(batch) / teacher.temperature, dim=-1)
    own = F.log_softmax(logits / teacher.temperature, dim=-1)
    far = F.kl_div(own, soft, reduction="batchmean", log_target=True)
    return (1 - teacher.alpha) * loss + teacher.alpha * teacher.temperature**2 * far


def classify(name: str, task: Task, model: nn.Module, rate: float) -> Fitted:
    """Train a classifier of `task.inputs` (any array whose rows the model reads), with the held-out accuracy as the figure."""
    device = device_of(task.device)
    model = (task.start or model).to(device).train()
    labels = torch.tensor(np.array(task.labels, dtype=np.int64))

    def batch_of(positions: np.ndarray) -> Tensor:
        return torch.tensor(np.asarray(task.inputs[positions], dtype=np.float32), device=device)

    def loss_of(positions: np.ndarray) -> Tensor:
        batch = batch_of(positions)
        return taught(model(batch), labels[torch.from_numpy(positions)].to(device), task.teacher, batch)

    @torch.no_grad()
    def predict(positions: np.ndarray) -> np.ndarray:
        answers = []
        for start in range(0, len(positions), _ROWS_AT_ONCE):
            task.watcher.check()
            answers.append(model(batch_of(positions[start : start + _ROWS_AT_ONCE])).argmax(dim=1).cpu().numpy())
        return np.concatenate(answers)

    def figure_of() -> float:
        return float(np.mean(predict(task.test) == task.labels[task.test]))

    history = descend(name, task, model, loss_of, figure_of, rate)
    return Fitted(history, predict, model.eval(), model)


class Standardised(nn.Module):
    """Features to mean 0 and standard deviation 1 of the rows that are learned from; a constant one to 0."""

    def __init__(self, rows: np.ndarray):
        super().__init__()
        spread = rows.std(axis=0, dtype=np.float64)
        spread[spread == 0] = 1.0
        self.register_buffer("mean", torch.from_numpy(rows.mean(axis=0, dtype=np.float64)).float())
        self.register_buffer("spread", torch.from_numpy(spread).float())

    def forward(self, batch: Tensor) -> Tensor:
        return (batch - self.mean) / self.spread
