"""A perceptron with one hidden layer, on the vectors."""

from __future__ import annotations

import numpy as np
from torch import nn

from core.data.learners import Fitted, Task
from core.data.learners.descent import Standardised, classify, seeded

_HIDDEN, _RATE = 128, 2e-3


def train(task: Task) -> Fitted:
    """Features standardised on the training rows (of RS2: on its first epoch's), 128 hidden units, ReLU."""
    with seeded(task.seed):
        model = nn.Sequential(
            Standardised(np.asarray(task.inputs[task.schedule[0]])),
            nn.Linear(task.inputs.shape[1], _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, task.classes),
        )
    return classify("mlp", task, model, _RATE)
