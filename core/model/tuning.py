"""Training a model's own parameters where they stand, zeros held at zero."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import ModelError
from core.events import Watcher
from core.model.masks import weight_under
from core.model.training import train


def tune(
    model: nn.Module, parameters: Sequence[nn.Parameter], batches: Iterable[Any], masks: Mapping[str, Tensor], steps: int,
    learning_rate: float, watcher: Watcher,
) -> list[float]:  # fmt: skip
    """`core.model.training.train`, with the gradient of every masked weight, and of every weight under a mask that is zero, held at zero: AdamW then
    leaves it exactly where it is. A failure leaves all parameters as they were; a Stop keeps the steps done. Returns the losses."""
    keeps = {id(weight): mask.to(weight.device).reshape(weight.shape) & (weight.detach() != 0)
             for weight, mask in ((weight_under(model, path)[1], mask) for path, mask in masks.items())}  # fmt: skip
    held = [parameter for parameter in parameters if id(parameter) in keeps]
    before = [parameter.detach().clone() for parameter in parameters]
    wanted = [(parameter, parameter.requires_grad) for parameter in held]
    for parameter in held:
        parameter.requires_grad_(True)  # a hook can be laid on no other
    hooks = [parameter.register_hook(_holding(keeps[id(parameter)])) for parameter in held]
    try:
        return train(model, parameters, batches, steps, learning_rate, watcher)
    except ModelError:
        with torch.no_grad():
            for parameter, old in zip(parameters, before, strict=True):
                parameter.copy_(old)
        raise
    finally:
        for hook in hooks:
            hook.remove()
        for parameter, asked in wanted:
            parameter.requires_grad_(asked)


def _holding(keep: Tensor) -> Any:
    return lambda gradient: gradient * keep
