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
    """`core.model.training.train`, with the gradient of every masked weight, and of every entry of a matrix that is zero now, held at zero: AdamW then
    leaves it exactly where it is. A training that fails leaves all parameters as they were, which costs a copy of them; a Stop keeps the steps done.
    Returns the losses."""
    under = {id(weight_under(model, path)[1]): mask for path, mask in masks.items()}
    keeps = {}
    for parameter in parameters:
        keep = parameter.detach() != 0 if parameter.ndim > 1 else torch.ones_like(parameter, dtype=torch.bool)
        if id(parameter) in under:
            keep &= under[id(parameter)].to(parameter.device).reshape(parameter.shape)
        if not keep.all():
            keeps[id(parameter)] = keep
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
