"""Thin matrices beside the layers of a pruned model, trained through its mask and then melted in: every zero stays zero."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from core.errors import ModelError, Stopped
from core.events import Watcher
from core.model.training import train

_ADAPTER = "default"


def train_adapted(
    model: nn.Module, batches: Iterable[Any], masks: Mapping[str, Tensor], steps: int, learning_rate: float, watcher: Watcher,
    *, rank: int, alpha: float, by_weight: bool = False, also: Sequence[nn.Parameter] = (),
) -> list[float]:  # fmt: skip
    """Train W' = W + through * (B A) * alpha / rank for each layer under a mask, and the parameters `also`; leave W' in place of W. Returns the losses.

    through: 1 where a weight is kept and 0 elsewhere; `by_weight`: the weight itself, so that the product says by what share it changes. Where there are no
    masks (whole blocks were removed), every linear layer but the head is trained. A Stop merges the steps taken so far; a failure leaves all as it was.
    """
    layers = _targets(model, masks)
    keeps = {path: _keep(layer.weight, masks.get(path)) for path, layer in layers.items()}
    through = {path: layer.weight.detach().clone() * keeps[path] if by_weight else keeps[path] for path, layer in layers.items()}
    before = [parameter.detach().clone() for parameter in also]
    with _adapters(model, layers, through, rank, alpha) as adapted:
        parameters = [parameter for layer in adapted.values() for parameter in (_a(layer), _b(layer))]
        try:
            losses = train(model, [*parameters, *also], batches, steps, learning_rate, watcher)
        except Stopped:
            _merge(adapted, keeps, through)
            raise
        except ModelError:
            with torch.no_grad():
                for parameter, old in zip(also, before, strict=True):
                    parameter.copy_(old)
            raise
        _merge(adapted, keeps, through)
    return losses


def _targets(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, nn.Module]:
    """{module path: linear layer}: those with a mask, else all but the head and what shares its weight."""
    from transformers.pytorch_utils import Conv1D

    head = getattr(model, "get_output_embeddings", lambda: None)()
    found = {path: layer for path, layer in model.named_modules() if isinstance(layer, (nn.Linear, Conv1D)) and layer is not head}
    found = {path: layer for path, layer in found.items() if not masks or path in masks}
    if not found:
        raise ModelError(
            "Thin matrices are trained beside linear layers, and none of those that were pruned is linear.",
            "Use norms_and_biases.",
        )
    return found


def _keep(weight: Tensor, mask: Tensor | None) -> Tensor:
    """Where the update may go, bool as the weight: never where the weight is zero now."""
    keep = weight.detach() != 0
    return keep if mask is None else keep & mask.to(keep.device).reshape(keep.shape)


@contextmanager
def _adapters(model: nn.Module, layers: Mapping[str, nn.Module], through: Mapping[str, Tensor], rank: int,
              alpha: float) -> Iterator[dict[str, nn.Module]]:  # fmt: skip
    """{path: peft's LoRA layer around it} for as long as this lasts; afterwards the model is made of its own modules again."""
    from peft import LoraConfig
    from peft.tuners.lora import LoraModel

    wanted = "|".join(re.escape(path) for path in layers)
    transposed = any(not isinstance(layer, nn.Linear) for layer in layers.values())
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=wanted, fan_in_fan_out=transposed)
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns of a mixture of Linear and Conv1D, which it then handles
        torch.manual_seed(torch.initial_seed())
        tuner = LoraModel(model, config, _ADAPTER)
    try:
        adapted = {path: model.get_submodule(path) for path in layers}
        for path, layer in adapted.items():
            layer.forward = _masked_forward(layer, through[path])
        yield adapted
    finally:
        tuner.unload()
        for parameter, wanted_before in before:
            parameter.requires_grad_(wanted_before)


def _masked_forward(layer: nn.Module, keep: Tensor) -> Any:
    base, scale, transposed = layer.base_layer, layer.scaling[_ADAPTER], not isinstance(layer.base_layer, nn.Linear)

    def forward(inputs: Tensor) -> Tensor:
        weight, mask = (base.weight.T, keep.T) if transposed else (base.weight, keep)
        return _MaskedLinear.apply(inputs, _a(layer), _b(layer), weight, base.bias, mask, scale)

    return forward


def _a(layer: nn.Module) -> nn.Parameter:
    return layer.lora_A[_ADAPTER].weight


def _b(layer: nn.Module) -> nn.Parameter:
    return layer.lora_B[_ADAPTER].weight


def _effective(a: Tensor, b: Tensor, weight: Tensor, keep: Tensor, scale: float) -> Tensor:
    """W + keep * (B A) * scale, (out, in)."""
    return weight + ((b @ a) * scale * keep).to(weight.dtype)


class _MaskedLinear(torch.autograd.Function):
    """A linear layer with the masked update in place. The effective weight is made anew on the way back instead of being kept: otherwise
    training would hold a second copy of every layer."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, a: Tensor, b: Tensor, weight: Tensor, bias: Tensor | None, keep: Tensor, scale: float
    ) -> Tensor:
        ctx.save_for_backward(inputs, a, b, weight, keep)
        ctx.scale = scale
        return linear(inputs, _effective(a, b, weight, keep, scale), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, a, b, weight, keep = ctx.saved_tensors
        to_inputs = grad @ _effective(a, b, weight, keep, ctx.scale) if ctx.needs_input_grad[0] else None
        to_update = (grad.flatten(0, -2).T @ inputs.flatten(0, -2)).to(a.dtype) * ctx.scale * keep
        to_bias = grad.flatten(0, -2).sum(0) if ctx.needs_input_grad[4] else None
        return to_inputs, b.T @ to_update, to_update @ a.T, None, to_bias, None, None


def _merge(adapted: Mapping[str, nn.Module], keeps: Mapping[str, Tensor], through: Mapping[str, Tensor]) -> None:
    """Add the updates to the weights. Raises ModelError if a zero came back, which only a fault here could do."""
    with torch.no_grad():
        for path, layer in adapted.items():
            base, keep = layer.base_layer.weight, keeps[path]
            transposed = not isinstance(layer.base_layer, nn.Linear)
            weight, mask = (base.T, through[path].T) if transposed else (base, through[path])
            before = torch.count_nonzero(base[~keep])
            weight.copy_(_effective(_a(layer), _b(layer), weight, mask, layer.scaling[_ADAPTER]))
            if torch.count_nonzero(base[~keep]) != before:
                raise ModelError(
                    f"The adapters brought back pruned weights of {path}.", "This is a fault of Prunarium; please report it."
                )
