"""The width of the residual stream: which axis of which parameter is a channel of it, and the same model with fewer channels everywhere.

Told by the family itself: its config with another hidden_size, and heads of the size they have, builds parameters of other shapes; the axes that
differ are the stream's. So nothing is listed by family, and what is left is always a model of the family's own config.
"""

from __future__ import annotations

import copy
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from accelerate import init_empty_weights
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from core.errors import ModelError
from core.model.depth.gone import KEY
from core.model.units.groups import Group, Part

if TYPE_CHECKING:
    from core.model.anatomy import Block
    from core.model.roles import Layer

STRUCTURE, NAME = "width", "stream"
_ANOTHER = "Choose another structure for this model."
_REFUSALS = (
    ValueError,
    TypeError,
    AttributeError,
    ZeroDivisionError,
    RuntimeError,
    StrictDataclassError,
)  # of a family's own code
_KEPT = 64
_found: OrderedDict[tuple[Any, ...], dict[str, int] | str] = OrderedDict()  # axes, or why there are none, by class and config


def why_not(model: nn.Module, blocks: Sequence[Block], hidden: int) -> str:
    """The reason why the stream of this model cannot be narrowed, a sentence; empty where it can."""
    try:
        channel_axes(model, blocks, hidden)
    except ModelError as error:
        return error.problem
    return ""


def channel_axes(model: nn.Module, blocks: Sequence[Block], hidden: int) -> dict[str, int]:
    """{parameter name: its axis whose entries are channels of the stream}, tied ones under each name. Raises ModelError where it has no such axes."""
    what = type(model).__name__
    if not isinstance(model, PreTrainedModel) or not blocks or not hidden:
        raise ModelError(f"The blocks of {what} hand on no stream of one width.", _ANOTHER)
    if hasattr(model.config, KEY):
        raise ModelError(
            f"The config of {what} no longer says all its shapes since it was pruned, so it cannot say a smaller width; "
            "narrow the stream first.",
            _ANOTHER,
        )
    # shapes too: a model that is being cut may be asked before its config says so
    key = (type(model), hidden, json.dumps(model.config.to_dict(), sort_keys=True, default=str), tuple(_shapes(model).items()))
    if key not in _found:
        _found[key] = _told(model, blocks, hidden)
        while len(_found) > _KEPT:
            _found.popitem(last=False)
    if isinstance(found := _found[key], str):
        raise ModelError(found, _ANOTHER)
    return dict(found)


def _told(model: PreTrainedModel, blocks: Sequence[Block], hidden: int) -> dict[str, int] | str:
    """The axes, or the reason why there are none."""
    what = type(model).__name__
    width = accepted(model.config, hidden, hidden // 2)
    try:
        shapes = None if width is None else _shapes(_built(model, narrower(model.config, hidden, width)))
    except _REFUSALS:
        shapes = None
    if shapes is None:
        return f"The config of {what} allows no other width beside heads of the size that these have."
    here = _shapes(model)
    if shapes.keys() != here.keys():
        return f"With another width, {what} would have other parts than it has."
    axes: dict[str, int] = {}
    for name, shape in here.items():
        differ = [axis for axis, (old, new) in enumerate(zip(shape, shapes[name], strict=False)) if old != new]
        if len(shape) != len(shapes[name]) or any((shape[axis], shapes[name][axis]) != (hidden, width) for axis in differ):
            return f"{name} of {what} would change with the width in another way than by losing channels."
        if len(differ) > 1:
            return f"{name} of {what} runs from the width to the width, so the size of its heads follows from it."
        if differ:
            axes[name] = differ[0]
    return _odd(model, blocks, axes) or axes


def _odd(model: PreTrainedModel, blocks: Sequence[Block], axes: Mapping[str, int]) -> str:
    """Why these axes cannot all be the stream's: what an attention or MLP has inside must not change with it. Empty where they can."""
    what = type(model).__name__
    writes = ("output", "down")
    for block in blocks:
        for layer in block.layers:
            axis = axes.get(f"{layer.path}.weight")
            axis = None if axis is None else 1 - axis if layer.kind == "conv1d" else axis
            if layer.role not in ("other", "conv") and axis != (0 if layer.role in writes else 1):
                return f"{layer.path} of {what} does not read or write the stream in the way of its kind."
        inside = {f"{layer.path}.{last}" for layer in block.layers for last in ("weight", "bias")}
        apart = block.attention is not None and block.attention.path != block.path
        within = [name for name in axes if apart and name.startswith(f"{block.attention.path}.") and name not in inside]
        if within:
            return f"{within[0]} of {what} follows the width, and lies inside an attention whose heads stay as they are."
    return ""


def accepted(config: PreTrainedConfig, hidden: int, near: int) -> int | None:
    """The width nearest to `near` (the wider of two) that the family's config accepts, under `hidden`; None where it accepts none."""
    for distance in range(hidden):
        for width in (near + distance, near - distance):
            if 0 < width < hidden and narrower(config, hidden, width) is not None:
                return width
        if distance > 256:  # a family that asks for more than that has a rule of another kind
            return None
    return None


def narrower(config: PreTrainedConfig, hidden: int, width: int) -> PreTrainedConfig | None:
    """The config with this width and heads of the size they have; None where the family refuses it."""
    config = copy.deepcopy(config)
    text = config.get_text_config()
    try:
        heads = getattr(text, "num_attention_heads", None)
        if heads and not getattr(text, "head_dim", None):
            if hidden % heads:
                return None
            text.head_dim = hidden // heads
        text.hidden_size = width
        found = type(config).from_dict(config.to_dict())  # as it would be read from its file
        said = found.get_text_config()
        return found if said.hidden_size == width and (not heads or getattr(said, "head_dim", None) == text.head_dim) else None
    except _REFUSALS:
        return None


def narrowed(model: PreTrainedModel, axes: Mapping[str, int], keep: Tensor) -> PreTrainedModel:
    """A model of the same class with only the channels that `keep` (bool) names, built from the narrower config. The given one stays as it is.

    Raises ModelError where what comes out does not run.
    """
    kept = keep.nonzero().flatten()
    config = narrower(model.config, len(keep), len(kept))
    if config is None:
        raise ModelError(
            f"The config of {type(model).__name__} does not accept a width of {len(kept)}.", "Ask for another share."
        )
    built = _built(model, config, real_buffers=True)
    state = {name: tensor if name not in axes else tensor.index_select(axes[name], kept.to(tensor.device)) for name, tensor in
             model.state_dict().items()}  # fmt: skip
    built.load_state_dict(state, strict=True, assign=True)
    built.tie_weights()
    built.generation_config = copy.deepcopy(getattr(model, "generation_config", None))
    wanted = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for name, parameter in built.named_parameters():
        parameter.requires_grad_(wanted.get(name, False))
    first = next(model.parameters())
    return built.to(first.device).train(model.training)


def _built(model: PreTrainedModel, config: PreTrainedConfig, real_buffers: bool = False) -> PreTrainedModel:
    with init_empty_weights(include_buffers=not real_buffers):
        return type(model)._from_config(
            copy.deepcopy(config), dtype=next(model.parameters()).dtype, attn_implementation=model.config._attn_implementation
        )


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters(remove_duplicate=False)}


def channel_group(axes: Mapping[str, int], layers: Sequence[Layer], hidden: int) -> Group:
    """The channels of the stream as units: their rows and columns in the layers of the blocks (not in embeddings, norms and the head)."""
    index, parts = torch.arange(hidden)[:, None], []
    for layer in layers:
        if (axis := axes.get(f"{layer.path}.weight")) is not None:
            parts.append(Part(layer.path, 1 - axis if layer.kind == "conv1d" else min(axis, 1), index))
    return Group(NAME, -1, STRUCTURE, hidden, tuple(parts[:-1]), parts[-1])
