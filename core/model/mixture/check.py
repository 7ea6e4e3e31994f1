"""Can this model do without an expert? Tried on a copy of a block, and on a model built from the config, before any weight changes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate import init_empty_weights
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import PreTrainedModel

from core.errors import ModelError
from core.model.anatomy import read_anatomy
from core.model.depth.gone import KEY, gone_from, take_out
from core.model.loading import LoadedModel
from core.model.mixture.experts import ExpertLayer, cut_experts, expert_layers, rows, tell_one
from core.model.width.rehearse import block_arguments, differ, first_output, stand_in

_ANOTHER = "Choose another structure for this model; how its experts belong together is not known here."
_NEVER = -1e4  # a logit with which softmax and sigmoid give 0 in float32


def check(loaded: LoadedModel, layers: Sequence[ExpertLayer], kept: int) -> None:
    """Raise ModelError where an expert cannot go from one of these blocks, or the config cannot say that `kept` are left in each."""
    if kept == layers[0].count:
        return
    if len({(layer.count, layer.top_k) for layer in layers}) > 1:
        raise ModelError(f"The blocks of {type(loaded.model).__name__} have unequal numbers of experts.", _ANOTHER)
    for layer in {type(loaded.module(layer.parent)): layer for layer in layers}.values():
        _rehearse(loaded, layer)
    _check_config(loaded.model, layers[0], kept)


def _rehearse(loaded: LoadedModel, layer: ExpertLayer) -> None:
    """Cut one expert out of a copy of its block, and see that the block then says what it says with a router that never chooses that one."""
    block = loaded.anatomy.blocks[layer.block]
    args, kwargs = _exact(block_arguments(loaded, loaded.module(block.path)))
    keep = torch.ones(layer.count, dtype=torch.bool)
    keep[layer.count // 2] = False
    with stand_in(loaded, block.path) as copied, torch.no_grad():
        copied.float()  # in fewer digits logits tie, and which of equals is chosen says nothing
        try:
            _never(loaded.model, layer, layer.count // 2, lambda: copied(*args, **kwargs))
            expected = first_output(copied(*args, **kwargs))
            cut_experts(loaded.model, layer, keep)
            found = first_output(copied(*args, **kwargs))
        except Exception as error:  # a family's own code may fail in any way once a number is not what it was built for
            raise _cannot(loaded, layer, f"it fails with {type(error).__name__}") from error
    if differ(expected, found):
        raise _cannot(loaded, layer, "what it says is not what its router says without that one")


def _exact(value: Any) -> Any:
    """The same arguments with their numbers in float32."""
    if isinstance(value, dict):
        return {key: _exact(item) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_exact(item) for item in value)
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def _never(model: nn.Module, layer: ExpertLayer, expert: int, run: Callable[[], Any]) -> None:
    """Change a router so that, for the inputs of this run, that expert's logit (and its bias, where there is one) is lower than any other's by far."""
    seen: list[Tensor] = []
    router = model.get_submodule(layer.router)
    handle = router.register_forward_pre_hook(lambda module, args: seen.append(args[0].reshape(-1, args[0].shape[-1])))
    run()
    handle.remove()
    inputs = torch.cat(seen).double().cpu()
    row = torch.linalg.pinv(inputs) @ torch.full((len(inputs),), _NEVER, dtype=torch.float64)
    matrix, *biases = [getattr(module, name) for module, name, _ in rows(model, layer)]
    matrix[expert] = row.to(matrix)
    for bias in biases:
        bias.view(-1)[expert] = _NEVER


def _check_config(model: PreTrainedModel, layer: ExpertLayer, kept: int) -> None:
    """Would a config with the new number build such a model? Some families hold it under names, or by rules, that are not known here."""
    config = copy.deepcopy(model.config)
    vars(config).pop(KEY, None)
    tell_one(config.get_text_config(), layer, kept)
    try:
        with init_empty_weights(include_buffers=True):
            built = type(model)._from_config(type(config).from_dict(config.to_dict()), dtype=torch.float32)
            take_out(built, gone_from(model))
        found = expert_layers(built, read_anatomy(built).blocks)
        alike = {(each.count, each.top_k) for each in found} == {(kept, min(layer.top_k, kept))}
    except (ValueError, TypeError, AttributeError, StrictDataclassError, ModelError) as error:
        raise ModelError(
            f"The config of {type(model).__name__} cannot say that {kept} experts are left ({type(error).__name__}).", _ANOTHER
        ) from error
    if not alike:
        raise ModelError(f"The config of {type(model).__name__} does not say how many experts a block has.", _ANOTHER)


def _cannot(loaded: LoadedModel, layer: ExpertLayer, why: str) -> ModelError:
    return ModelError(
        f"{layer.name} of {type(loaded.model).__name__} cannot do without one of its experts: tried on a copy, {why}.", _ANOTHER
    )
