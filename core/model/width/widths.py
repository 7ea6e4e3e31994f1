"""How wide each layer is, said in the config: under the family's own names where all blocks are alike, so that transformers loads it; else
under the key `prunarium`, from which this program builds the model again: {"widths": {module path: [out, in]}, "biases": [module paths]}.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from accelerate import init_empty_weights
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from core.errors import ModelError
from core.model.anatomy import PRUNABLE, Anatomy, Block, read_anatomy
from core.model.depth.gone import KEY, gone_from, say_gone, take_out
from core.model.inputs.pixels import pixel_shape
from core.model.units.groups import CHANNELS, QUERY_HEADS, STRUCTURES, Group, Part, unit_groups
from core.model.width.narrow import NORMS, cut, cut_layer, depthwise
from core.model.width.sliced import said_of
from core.model.width.slicing import rebuild as slice_as_said

_INNER = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")
_STREAMS = ("hidden_sizes", "embedding_size")
_HEADS = ("num_attention_heads", "num_key_value_heads", "head_dim")
Said = dict[str, Any]


def settle(model: nn.Module) -> None:
    """Make the config of a model say what its layers are now. Does nothing for a module that is not transformers'."""
    if not isinstance(model, PreTrainedModel):
        return
    plain, slices = copy.deepcopy(model.config), said_of(model.config)
    for config in (plain, model.config):
        vars(config).pop(KEY, None)
        if slices:  # said once, when they were cut
            setattr(config, KEY, {"slices": slices})
    said = _difference(model, plain)
    if said["widths"] or said["biases"]:
        _say(model, plain, said)
    say_gone(model)


def _say(model: PreTrainedModel, plain: PreTrainedConfig, said: Said) -> None:
    """In the family's own words where they can say it, else in ours."""
    # transformers would pass over added biases without a word, so a model with such must not load there
    for fields in (*_ways_to_say(read_anatomy(model)), _streams(model, plain)) if not said["biases"] else ():
        if _fits(model, plain, fields):
            _set(model.config, fields)
            return
    setattr(model.config, KEY, {**getattr(model.config, KEY, {}), **said})


def _ways_to_say(anatomy: Anatomy) -> list[Said]:
    """Fields of the family's config for an inner width, or heads, that all blocks have: each alone, then both."""
    inner = {layer.shape[1] for block in anatomy.blocks for layer in block.layers if layer.role == "down"}
    found = {
        (block.attention.query_heads, block.attention.kv_heads, block.attention.head_dim)
        for block in anatomy.blocks
        if block.attention
    }
    ways: list[Said] = [dict.fromkeys(_INNER, width) for width in inner] if len(inner) == 1 else []
    ways += [dict(zip(_HEADS, heads, strict=True)) for heads in found] if len(found) == 1 else []
    return [*ways, {**ways[0], **ways[1]}] if len(ways) == 2 else ways


def _streams(model: PreTrainedModel, plain: PreTrainedConfig) -> Said:
    """Fields for the widths of the streams of a convolutional network, where each number that stood there has become one other number."""
    became: dict[int, set[int]] = {}
    for path, built in _built(model, plain).named_modules():
        if isinstance(built, (*PRUNABLE, *NORMS)) and built.weight is not None:
            for before, after in zip(_shape(built), _shape(model.get_submodule(path)), strict=True):
                became.setdefault(before, set()).add(after)
    fields = {}
    for name in _STREAMS:
        value = getattr(plain, name, None)
        numbers = value if isinstance(value, list) else [value]
        if all(len(became.get(number, ())) == 1 for number in numbers):
            new = [next(iter(became[number])) for number in numbers]
            fields[name] = new if isinstance(value, list) else new[0]
    return fields


def _fits(model: PreTrainedModel, plain: PreTrainedConfig, fields: Said) -> bool:
    """Would a config with these fields build layers as wide as the model's? Some families refuse such a number of heads."""
    config = copy.deepcopy(plain)
    try:
        _set(config, fields)
        return not _difference(model, type(config).from_dict(config.to_dict()))["widths"]  # as it would be read from its file
    except (ValueError, TypeError, AttributeError, StrictDataclassError, ModelError):
        return False


def _set(config: PreTrainedConfig, fields: Said) -> None:
    """Set those fields that the family has; the size of a head is told even where it followed from others."""
    text = config.get_text_config()
    for name, value in fields.items():
        if name == "head_dim" or hasattr(text, name):
            setattr(text, name, value)


def _built(model: PreTrainedModel, config: PreTrainedConfig) -> PreTrainedModel:
    """A model on the meta device from a config, without the parts that are gone from `model`."""
    with init_empty_weights(include_buffers=True):
        built = type(model)._from_config(copy.deepcopy(config), dtype=torch.float32)
        slice_as_said(built, config)
        take_out(built, gone_from(model))
    return built


def _difference(model: PreTrainedModel, config: PreTrainedConfig) -> Said:
    """Where a model differs from what the config alone would build."""
    built = _built(model, config)
    there = {name: tuple(parameter.shape) for name, parameter in built.named_parameters(remove_duplicate=False)}
    here = {name: tuple(parameter.shape) for name, parameter in model.named_parameters(remove_duplicate=False)}
    if missing := there.keys() - here.keys():
        raise ModelError(
            f"The model has no {min(missing)}, which its config asks for.", "Please report this with its architecture."
        )
    widths, biases = {}, []
    for name, shape in here.items():
        path, _, last = name.rpartition(".")
        if name not in there and last == "bias":
            biases.append(path)
        elif last == "weight" and there.get(name) != shape:
            if not isinstance(layer := model.get_submodule(path), (*PRUNABLE, *NORMS)):
                raise ModelError(
                    f"{name} has another shape than its config says.", "Please report this with the model's architecture."
                )
            widths[path] = _shape(layer)
    return {"widths": dict(sorted(widths.items())), "biases": sorted(biases)}


def rebuild(model: PreTrainedModel) -> None:
    """Narrow a model that was built from its config alone to what the config's `prunarium` says. Weights may lie on the meta device.

    Raises ModelError where that is damaged, or asks for layers that do not fit together: a config comes from a stranger.
    """
    said = getattr(model.config, KEY, None)
    if said is None:
        return
    widths, biases = _checked(model, said)
    anatomy = read_anatomy(model)
    for structure in (*STRUCTURES, QUERY_HEADS):
        if structure in anatomy.refused:
            continue
        anatomy = read_anatomy(model) if structure == QUERY_HEADS else anatomy  # whole groups may have gone just now
        if structure in anatomy.refused:
            continue
        for group in unit_groups(model, anatomy.blocks, anatomy.family, structure):
            kept = _kept(model, group, anatomy.blocks[group.block], widths)
            if kept < group.steps:
                cut(model, anatomy.blocks[group.block], group, group.first(kept))
    if CHANNELS not in anatomy.refused:
        _narrow_channels(model, widths)
    for path, wanted in widths.items():
        if _shape(model.get_submodule(path)) != wanted:
            raise _damaged(f"{path} cannot be {' by '.join(map(str, wanted))}")
    for path in biases:
        layer = model.get_submodule(path)
        if layer.bias is None:
            layer.bias = nn.Parameter(layer.weight.new_empty(_shape(layer)[0]), False)
    if CHANNELS not in anatomy.refused:
        _run_through(model)


def _narrow_channels(model: PreTrainedModel, widths: dict[str, list[int]]) -> None:
    """Narrow each layer and norm to its own size, where that is not wider. Which channels are left does not matter: their weights are not read yet."""
    for path, wanted in widths.items():
        layer = model.get_submodule(path)
        axes = zip(_shape(layer)[:1], wanted, strict=False) if depthwise(layer) else zip(_shape(layer), wanted, strict=True)
        for axis, (there, left) in enumerate(axes):
            if left < there:
                cut_layer(layer, axis, torch.arange(left))


def _run_through(model: PreTrainedModel) -> None:
    """See that an image would go through layers of these sizes: on the meta device, where nothing is computed."""
    image = torch.empty(1, *pixel_shape(model.config), dtype=model.dtype, device="meta")
    try:
        with torch.no_grad():
            copy.deepcopy(model).to("meta")(image)
    except (RuntimeError, ValueError) as error:
        raise _damaged("its layers do not fit together") from error


def _checked(model: PreTrainedModel, said: Any) -> tuple[dict[str, list[int]], list[str]]:
    widths, biases = (said.get("widths", {}), said.get("biases", [])) if isinstance(said, dict) else (None, None)
    if not isinstance(widths, dict) or not isinstance(biases, list):
        raise _damaged("it is no mapping with widths and biases")
    layers = {path for path, module in model.named_modules() if isinstance(module, PRUNABLE)}
    norms = {path for path, module in model.named_modules() if isinstance(module, NORMS) and module.weight is not None}
    for path in (*widths, *biases):
        if path not in layers and (path not in norms or path in biases):
            raise _damaged(f"there is no layer {str(path)[:80]!r}")
    for path, wanted in widths.items():
        count, said = (2, "two whole numbers") if path in layers else (1, "one whole number")
        if not (isinstance(wanted, list) and len(wanted) == count and all(type(size) is int and size > 0 for size in wanted)):
            raise _damaged(f"the size of {path} is not {said}")
    return widths, biases


def _kept(model: PreTrainedModel, group: Group, block: Block, widths: dict[str, list[int]]) -> int:
    """Units that the widths leave in a group (of each set of them): all its layers must agree."""

    def size(part: Part) -> tuple[int, int]:
        there = _shape(model.get_submodule(part.path))[part.axis]
        fixed = 0 if part.stays is None else len(part.stays)
        return there - fixed, (widths[part.path][part.axis] if part.path in widths else there) - fixed

    shared = (
        group.structure == "heads" and block.attention.query_heads > block.attention.kv_heads
    )  # query heads may have gone too
    if shared and len(group.parts) == 1:
        left = {(size(group.parts[0])[1] - size(group.reader)[1]) / (2 * block.attention.head_dim)}
    else:
        sizes = [size(part) for part in (group.parts[1:] if shared else group.everything)]
        left = {wanted * group.steps / there for there, wanted in sizes}
    kept = left.pop()
    if left or kept != int(kept) or not 1 <= kept <= group.steps:
        raise _damaged(f"the layers of {group.name} do not fit together")
    return int(kept)


def _shape(layer: nn.Module) -> list[int]:
    """A layer's [out, in], whatever its kernel; a norm's [features]."""
    return list(layer.weight.shape[:2] if not isinstance(layer, Conv1D) else layer.weight.shape[::-1])


def _damaged(why: str) -> ModelError:
    return ModelError(
        f"The widths in config.json cannot be right: {why}.", "Get the model again, or save it again with Prunarium."
    )
