from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from core.errors import ModelError, Stopped
from core.events import Watcher
from core.method import Paper, Param, recovery
from core.model.training import train

_ADAPTER = "default"


@recovery(
    "lora",
    label="LoRA through the mask",
    paper=Paper("Hu, Shen, Wallis et al.", 2021, "LoRA: Low-Rank Adaptation of Large Language Models", "2106.09685"),
    learning_rate=3e-4,
    place="recovery/training",
)
def lora(
    model: nn.Module,
    batches: Iterable[Any],
    masks: Mapping[str, Tensor],
    steps: int,
    learning_rate: float,
    watcher: Watcher,
    *,
    rank: Annotated[int, Param("Rank", 1, 256)] = 8,
    alpha: Annotated[float, Param("Alpha", 0.1, 512.0)] = 16.0,
) -> list[float]:
    """Keep the pruned weights' pattern; add to each pruned layer a product of two thin matrices, then melt it in: every zero stays zero.

    W' = W + keep * (B A) * alpha / rank, with A (rank, in), B (out, rank), B = 0 at first; `keep` is 0 where W is 0 (or its mask says so). The mask
    is in place *while* training, so the model that is trained is the one that is left: merging changes nothing, and no zero can come back
    (asserted). Trained with AdamW on the mean negative log-likelihood; returns its value at each step, before that step.

    batches: int64 ids (batch, tokens) or (images, labels), one a step. masks: {module path: bool, as the weight}: the layers trained. Where there are no
    masks (whole blocks were removed), every linear layer but the head. Layers that are not linear are left as they are.

    Intuition: errors of a pruned layer lie mostly along few directions of its input and output; a low rank reaches them with one or two
    percent of the parameters' training state.
    When it lies: the mask cuts the update, whose rank is then no longer low; a mask that left too little cannot be healed by any rank; and a few
    hundred steps on one text also teach that text, so compare with a dense model trained the same way before praising the recovery.
    Deviations from the paper: mask on the update, as in MaskLoRA of PERP (Zimmer et al. 2023, arXiv 2312.15230); merged; no dropout; A starts from the
    run's seed whatever else has drawn random numbers. A Stop merges the steps taken so far.
    """
    layers = _targets(model, masks)
    keeps = {path: _keep(layer.weight, masks.get(path)) for path, layer in layers.items()}
    with _adapters(model, layers, keeps, rank, alpha) as adapted:
        parameters = [parameter for layer in adapted.values() for parameter in (_a(layer), _b(layer))]
        try:
            losses = train(model, parameters, batches, steps, learning_rate, watcher)
        except Stopped:
            _merge(adapted, keeps)
            raise
        _merge(adapted, keeps)
    return losses


def _targets(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, nn.Module]:
    """{module path: linear layer}: those with a mask, else all but the head and what shares its weight."""
    from transformers.pytorch_utils import Conv1D

    head = getattr(model, "get_output_embeddings", lambda: None)()
    found = {path: layer for path, layer in model.named_modules() if isinstance(layer, (nn.Linear, Conv1D)) and layer is not head}
    found = {path: layer for path, layer in found.items() if not masks or path in masks}
    if not found:
        raise ModelError("LoRA trains linear layers, and none of those that were pruned is linear.", "Use norms_and_biases.")
    return found


def _keep(weight: Tensor, mask: Tensor | None) -> Tensor:
    """Where the update may go, bool as the weight: never where the weight is zero now."""
    keep = weight.detach() != 0
    return keep if mask is None else keep & mask.to(keep.device).reshape(keep.shape)


@contextmanager
def _adapters(model: nn.Module, layers: Mapping[str, nn.Module], keeps: Mapping[str, Tensor], rank: int,
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
            layer.forward = _masked_forward(layer, keeps[path])
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
        return to_inputs, b.T @ to_update, to_update @ a.T, None, None, None, None


def _merge(adapted: Mapping[str, nn.Module], keeps: Mapping[str, Tensor]) -> None:
    """Add the updates to the weights. Raises ModelError if a zero came back, which only a fault here could do."""
    with torch.no_grad():
        for path, layer in adapted.items():
            base, keep = layer.base_layer.weight, keeps[path]
            transposed = not isinstance(layer.base_layer, nn.Linear)
            weight, mask = (base.T, keep.T) if transposed else (base, keep)
            before = torch.count_nonzero(base[~keep])
            weight.copy_(_effective(_a(layer), _b(layer), weight, mask, layer.scaling[_ADAPTER]))
            if torch.count_nonzero(base[~keep]) != before:
                raise ModelError(
                    f"LoRA brought back pruned weights of {path}.", "This is a fault of Prunarium; please report it."
                )
