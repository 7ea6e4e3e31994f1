"""The two stages of training, and the loop in each, that the language models of train_demos.py share."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from demo_card import curve, say
from torch import Tensor, nn

VOCABULARY, WINDOW, SHORT_WINDOW, TOKENS_A_STEP = 4096, 512, 128, 4096


@dataclass(frozen=True)
class Stage:
    """Some steps of training: `rate` is the highest learning rate, windows are short before step `long_from`."""

    steps: int
    rate: float
    long_from: int
    seed: int


def in_two_stages(
    name: str, model: nn.Module, steps: int, seed: int, loss_of: Callable[[int, np.random.Generator], Tensor]
) -> tuple[list[float], list[tuple[int, float]], float]:
    """Train, telling how it goes. Returns each step's loss, the curve for the card, and the seconds it took.

    Attention is what costs most here, so most steps see short windows. A model that never saw far positions fails on them, and the end of a cosine is
    too slow to learn them: hence a second stage of a quarter of the steps, on full windows with a learning rate that rises once more.
    """
    stages = (Stage(steps, 6e-3, steps * 7 // 8, seed), Stage(max(1, steps // 4), 4e-3, 0, seed + 1))
    started, losses, points, total = time.monotonic(), [], [], sum(stage.steps for stage in stages)
    for stage in stages:
        before = len(losses)
        for loss in training(model, stage, loss_of):
            losses.append(loss)
            say(name, len(losses), total, losses, started)
        points += [(before + step, loss) for step, loss in curve(losses[before:])]
    return losses, points, time.monotonic() - started


def training(model: nn.Module, stage: Stage, loss_of: Callable[[int, np.random.Generator], Tensor]) -> Iterator[float]:
    """Train in bfloat16 with float32 master weights; yields each step's loss. loss_of(window, random) runs the model on windows of so many tokens.

    Matrices inside blocks learn by Muon (orthogonalised momentum, which needs fewer tokens), each expert's by itself; the rest by AdamW.
    """
    named = [(name, part) for name, whole in model.named_parameters() for part in _matrices(whole.detach())]
    masters = [part.clone().float() for _, part in named]
    inside = [".layers." in name and part.ndim == 2 for name, part in named]
    matrices = [master for master, is_inside in zip(masters, inside, strict=True) if is_inside]
    others = [master for master, is_inside in zip(masters, inside, strict=True) if not is_inside]
    optimizers = (
        torch.optim.Muon(matrices, lr=stage.rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=stage.rate, betas=(0.9, 0.95), weight_decay=0.0),
    )
    steps = stage.steps
    warm = max(1, min(60, steps // 5))
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda step: _learning_rate(step, warm, steps)) for o in optimizers]
    parameters = list(model.parameters())
    for parameter in parameters:  # not model.to(bfloat16): that would round the rotary frequencies too, which loading does not
        parameter.data = parameter.data.bfloat16()
    parts = [part for parameter in parameters for part in _matrices(parameter.detach())]
    model.train()
    random = np.random.default_rng(stage.seed)
    for step in range(1, steps + 1):
        loss = loss_of(WINDOW if step > stage.long_from else SHORT_WINDOW, random)
        loss.backward()
        gradients = [part for parameter in parameters for part in _matrices(parameter.grad)]
        for master, gradient in zip(masters, gradients, strict=True):
            master.grad = gradient.float()
        for parameter in parameters:
            parameter.grad = None
        nn.utils.clip_grad_norm_(others, 1.0)
        for stepper in (*optimizers, *schedules):
            stepper.step()
        with torch.no_grad():
            torch._foreach_copy_(parts, masters)
        yield loss.item()


def _matrices(tensor: Tensor) -> tuple[Tensor, ...]:
    """The experts of a three-dimensional weight, one by one; anything else as it is. Views."""
    return tensor.unbind(0) if tensor.ndim == 3 else (tensor,)


def _learning_rate(step: int, warm: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to a fiftieth."""
    if step < warm:
        return (step + 1) / warm
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
