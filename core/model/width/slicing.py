"""Turning and narrowing the residual stream of a decoder: weights into new bases, and the model built again from its config."""

from __future__ import annotations

import copy
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from core.errors import ModelError
from core.model.depth.gone import KEY
from core.model.width.narrow import cut_layer
from core.model.width.sliced import PARTS, add_turn, empty_turn, residual_stream, turns_of, why_not


def turn(model: PreTrainedModel, bases: list[Tensor], width: int) -> None:
    """Write a dense model in these bases, one a norm, norm scales folded into the layers that read them, the head untied; then keep the first
    `width` axes of each. With all axes kept it says what it said before. The config says so: natively where no residual has to turn."""
    untie(model)
    stream, dense = residual_stream(model), bases[0].shape[0]
    scale = (dense / width) ** 0.5  # the norm's mean is over fewer axes, and what is cut away counted there
    with torch.no_grad():
        stream.embedding.weight.copy_(stream.embedding.weight.double() @ bases[0].double())
        for place, part in enumerate(stream.parts):
            here, there = bases[place].double(), bases[place + 1].double()
            for layer in part.readers:
                _read(layer, part.norm, here, scale)
            part.norm.weight.fill_(1.0)
            _write(part.writer, there)
            if bases[place] is not bases[place + 1]:
                add_turn(part, (there.T @ here).to(part.writer.weight.dtype))
        _read(stream.head, stream.norm, bases[-1].double(), scale)
        stream.norm.weight.fill_(1.0)
    _narrow(model, width)
    _say(model, dense, width)


def _read(layer: nn.Linear, norm: nn.Module, basis: Tensor, scale: float) -> None:
    layer.weight.copy_((layer.weight.double() * norm.weight.double()) @ basis * scale)


def _write(layer: nn.Linear, basis: Tensor) -> None:
    layer.weight.copy_(basis.T @ layer.weight.double())
    if layer.bias is not None:
        layer.bias.copy_(basis.T @ layer.bias.double())


def untie(model: PreTrainedModel) -> None:
    """Give the head a weight of its own: it and the embedding are turned differently."""
    if not model.config.tie_word_embeddings:
        return
    head = model.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=head.weight.requires_grad)
    model.config.tie_word_embeddings = False
    model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=False)


def _narrow(model: PreTrainedModel, width: int) -> None:
    """Keep the first axes of the stream; its norms divide by the width that there was."""
    stream = residual_stream(model)
    embedding, kept = stream.embedding, torch.arange(width)
    rest = embedding.weight.shape[1] / width
    embedding.weight = nn.Parameter(embedding.weight.detach()[:, :width].clone(), requires_grad=embedding.weight.requires_grad)
    embedding.embedding_dim = width
    for part in stream.parts:
        for layer in part.readers:
            cut_layer(layer, 1, kept)
        cut_layer(part.writer, 0, kept)
        _narrow_norm(part.norm, width, rest)
        if (turning := part.block._modules.get(f"{part.name}_turn")) is not None:
            turning.weight = nn.Parameter(turning.weight.detach()[:width, :width].clone(), requires_grad=False)
    cut_layer(stream.head, 1, kept)
    _narrow_norm(stream.norm, width, rest)


def _narrow_norm(norm: nn.Module, width: int, rest: float) -> None:
    norm.weight = nn.Parameter(norm.weight.detach()[:width].clone(), requires_grad=norm.weight.requires_grad)
    norm.variance_epsilon *= rest


def _say(model: PreTrainedModel, dense: int, width: int) -> None:
    """What the config has to say: the family's own width where that is all, else the dense one and ours, so that nothing else loads it."""
    config, turns = model.config, turns_of(model)
    if not getattr(config, "head_dim", None):
        config.head_dim = dense // config.num_attention_heads  # it no longer follows from the width
    if turns or not _native(model, width):
        setattr(config, KEY, {**getattr(config, KEY, {}), "slices": {"width": width, "turns": turns}})
    else:
        config.hidden_size, config.rms_norm_eps = width, model.model.norm.variance_epsilon


def _native(model: PreTrainedModel, width: int) -> bool:
    """Can the family's config say it? Not where it refuses the width, or where norms beside the stream's (on heads) share its epsilon."""
    norms = sum(hasattr(module, "variance_epsilon") for module in model.modules())
    config = copy.deepcopy(model.config)
    config.hidden_size = width
    try:
        type(config).from_dict(config.to_dict())
    except (ValueError, TypeError, StrictDataclassError):
        return False
    return norms == 2 * len(model.model.layers) + 1


def rebuild(model: PreTrainedModel, config: PreTrainedConfig) -> None:
    """Narrow a model that was built from its config alone to what the config says of slices. Weights may lie on the meta device.

    Raises ModelError where that is damaged: a config comes from a stranger.
    """
    said = getattr(config, KEY, None)
    slices = said.get("slices") if isinstance(said, dict) else None
    if slices is None:
        return
    width, turns = _checked(model, config, slices)
    untie(model)
    stream = residual_stream(model)
    for part in stream.parts:
        if part.name in turns:
            add_turn(part, empty_turn(stream))
    _narrow(model, width)


def _checked(model: PreTrainedModel, config: PreTrainedConfig, slices: Any) -> tuple[int, list[str]]:
    width, turns = (slices.get("width"), slices.get("turns")) if isinstance(slices, dict) else (None, None)
    if type(width) is not int or not 1 <= width <= config.hidden_size:
        raise _damaged("the width of its stream is none that slicing could have left")
    if not isinstance(turns, list) or any(turn not in PARTS for turn in turns):
        raise _damaged("what turns is not told")
    if why := why_not(model, config.model_type):
        raise _damaged(why.rstrip("."))
    return width, turns


def _damaged(why: str) -> ModelError:
    return ModelError(
        f"What config.json says of slices cannot be right: {why}.", "Get the model again, or save it again with Prunarium."
    )
