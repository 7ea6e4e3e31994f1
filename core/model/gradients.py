"""Gradients of the dense model, a sequence at a time: each layer's is folded into its statistics the moment it is there, and let go.

Memory is the weights, one float32 set for each statistic, and the activations of one sequence (where they are large, those of one block).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import ModelError
from core.events import Watcher, follow
from core.method import Method, get
from core.model.anatomy import Layer
from core.model.loading import LoadedModel
from core.model.measuring.counts import check_in_memory
from core.model.measuring.likelihood import check_causal, token_losses
from core.model.memory import available_bytes, check_fits
from core.model.observe import Statistics, matrix, of_kind
from core.model.training import KEPT_SHARE, activation_bytes, only_trains, recomputed

_OTHER = "Use a criterion without gradients, such as wanda or magnitude."


def gradient_statistics(
    loaded: LoadedModel, layers: Sequence[Layer], names: Sequence[str], inputs: Callable[[], Tensor], watcher: Watcher
) -> dict[str, Statistics]:
    """{layer name: {statistic: tensor (out, in)}} of the mean loss of each calibration sequence. No weight changes.

    Raises ModelError where the model predicts no next token, ResourceError where memory does not allow it. Obeys a stop between two sequences.
    """
    if not names:
        return {}
    check_in_memory(loaded)
    check_has_gradient(loaded)
    wanted, ids = [get("statistic", name) for name in names], inputs()
    keep = activation_bytes(loaded.model, ids[:1]) <= KEPT_SHARE * available_bytes()
    _check_memory(loaded, layers, len(wanted), ids[:1], keep)
    states: dict[str, dict[str, Any]] = {layer.name: {} for layer in layers}
    parameters = [loaded.module(layer.path).weight for layer in layers]
    with only_trains(loaded.model, parameters), torch.enable_grad(), ExitStack() as stack:
        if not keep:
            stack.enter_context(recomputed(loaded.model))
        for layer, parameter in zip(layers, parameters, strict=True):
            stack.callback(parameter.register_post_accumulate_grad_hook(_fold(layer, wanted, states[layer.name])).remove)
        for number in follow(range(len(ids)), "gradients", watcher, len(ids)):
            loss = token_losses(loaded.model, ids[number : number + 1].to(loaded.device)).mean()
            if not torch.isfinite(loss):
                raise ModelError(
                    f"The loss of calibration sequence {number + 1} is not a number, so it has no gradient.",
                    "Check the model's weights, or compute in float32.",
                )
            loss.backward()
    return {layer.name: _finished(layer, wanted, states[layer.name], len(ids)) for layer in layers}


def gradients_of(loaded: LoadedModel, scores: Sequence[Method], inputs: Tensor, watcher: Watcher) -> dict[str, Statistics]:
    """The gradient statistics that these scores need (with default parameters), of every layer."""
    names = of_kind({name for method in scores for name in method.needed()}, "gradient")
    return gradient_statistics(loaded, loaded.anatomy.layers, names, lambda: inputs, watcher)


def check_has_gradient(loaded: LoadedModel) -> None:
    """Raise ModelError for any but a causal language model in memory."""
    if loaded.lazy is not None:
        raise ModelError("Gradients need the whole model in memory, and this one is read a block at a time.", _OTHER)
    if loaded.anatomy.kind != "decoder":
        what = type(loaded.model).__name__
        raise ModelError(f"{what} predicts no next token, so its loss on text has no gradient.", _OTHER)
    check_causal(loaded.model, "has no gradient of its loss on text")


def _check_memory(loaded: LoadedModel, layers: Sequence[Layer], statistics: int, ids: Tensor, keep: bool) -> None:
    if loaded.device.type != "cpu":
        return
    sizes = [loaded.module(layer.path).weight.numel() for layer in layers]
    activations = activation_bytes(loaded.model, ids) / (1 if keep else max(len(loaded.anatomy.blocks), 1))
    needed = 4 * statistics * sum(sizes) + 8 * max(sizes) + int(activations)
    remedy = "Take fewer layers at a time with `only`, shorter samples, or a criterion without gradients, such as wanda."
    check_fits(needed, "The gradient of every weight", remedy)


def _fold(layer: Layer, wanted: Sequence[Method], state: dict[str, Any]) -> Callable[[nn.Parameter], None]:
    def fold(parameter: nn.Parameter) -> None:
        gradient = matrix(layer, parameter.grad).float()
        for method in wanted:
            state[method.card.name] = method.function(state.get(method.card.name), gradient)
        parameter.grad = None

    return fold


def _finished(layer: Layer, wanted: Sequence[Method], state: dict[str, Any], sequences: int) -> Statistics:
    """A layer's statistics; one that no sequence reached (an expert never asked) has a gradient of zero."""
    out = {}
    for method in wanted:
        name = method.card.name
        if name not in state:
            state[name] = method.function(None, torch.zeros(layer.shape).flatten(1))
        out[name] = method.extra["finish"](state.pop(name), sequences)
        if not torch.isfinite(out[name]).all():
            raise ModelError(f"The gradient of {layer.name} is not finite.", "Compute in float32, or check the model's weights.")
    return out
