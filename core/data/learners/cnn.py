"""A small convolutional network, on images of any size."""

from __future__ import annotations

from torch import Tensor, nn

from core.data.learners import Fitted, Task
from core.data.learners.descent import classify, seeded

_RATE = 3e-3


def train(task: Task) -> Fitted:
    """Two 3 x 3 convolutions (16 and 32 channels) with ReLU and 2 x 2 pooling, means over a 4 x 4 grid, a linear layer: about 10,000 weights.

    Images (rows, height, width), or with channels last, in 0..1; 0.5 is subtracted and nothing is augmented, so that rows alone make the difference.
    """
    shape = task.inputs.shape
    with seeded(task.seed):
        model = nn.Sequential(
            Channels(),
            nn.Conv2d(1 if len(shape) == 3 else shape[3], 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(32 * 16, task.classes),
        )
    return classify("cnn", task, model, _RATE)


class Channels(nn.Module):
    """(rows, height, width) or (rows, height, width, channels) to (rows, channels, height, width), about zero."""

    def forward(self, batch: Tensor) -> Tensor:
        return (batch[:, None] if batch.ndim == 3 else batch.permute(0, 3, 1, 2)) - 0.5
