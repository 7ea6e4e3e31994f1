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

from core.errors import ModelError
from core.model.anatomy import PRUNABLE, Anatomy, read_anatomy
from core.model.gone import KEY, gone_from, say_gone, take_out
from core.model.groups import STRUCTURES, Group, unit_groups
from core.model.narrow import cut
from core.model.sliced import said_of
from core.model.slicing import rebuild as slice_as_said

_INNER = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")
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
    for fields in _ways_to_say(read_anatomy(model)) if not said["biases"] else ():
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


def _difference(model: PreTrainedModel, config: PreTrainedConfig) -> Said:
    """Where a model differs from what the config alone would build."""
    with init_empty_weights(include_buffers=True):
        built = type(model)._from_config(copy.deepcopy(config), dtype=torch.float32)
        slice_as_said(built, config)
        take_out(built, gone_from(model))
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
            layer = model.get_submodule(path)
            if not isinstance(layer, PRUNABLE):
                raise ModelError(
                    f"{name} has another shape than its config says.", "Please report this with the model's architecture."
                )
            widths[path] = list(shape if isinstance(layer, nn.Linear) else shape[::-1])
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
    for structure in STRUCTURES:
        if structure in anatomy.refused:
            continue
        for group in unit_groups(model, anatomy.blocks, anatomy.family, structure):
            kept = _kept(model, group, widths)
            if kept < group.units:
                cut(model, anatomy.blocks[group.block], group, torch.arange(group.units) < kept)
    for path, wanted in widths.items():
        if _shape(model.get_submodule(path)) != wanted:
            raise _damaged(f"{path} cannot be {wanted[0]} by {wanted[1]}")
    for path in biases:
        layer = model.get_submodule(path)
        if layer.bias is None:
            layer.bias = nn.Parameter(
                torch.empty_like(layer.weight[:, 0] if isinstance(layer, nn.Linear) else layer.weight[0]), False
            )


def _checked(model: PreTrainedModel, said: Any) -> tuple[dict[str, list[int]], list[str]]:
    widths, biases = (said.get("widths", {}), said.get("biases", [])) if isinstance(said, dict) else (None, None)
    if not isinstance(widths, dict) or not isinstance(biases, list):
        raise _damaged("it is no mapping with widths and biases")
    layers = {path for path, module in model.named_modules() if isinstance(module, PRUNABLE)}
    for path in (*widths, *biases):
        if path not in layers:
            raise _damaged(f"there is no layer {str(path)[:80]!r}")
    for path, wanted in widths.items():
        if not (isinstance(wanted, list) and len(wanted) == 2 and all(type(size) is int and size > 0 for size in wanted)):
            raise _damaged(f"the size of {path} is not two whole numbers")
    return widths, biases


def _kept(model: PreTrainedModel, group: Group, widths: dict[str, list[int]]) -> int:
    """Units that the widths leave in a group: all its layers must agree."""
    left = set()
    for part in group.everything:
        there = _shape(model.get_submodule(part.path))[part.axis]
        left.add(widths[part.path][part.axis] * group.units / there if part.path in widths else float(group.units))
    kept = left.pop()
    if left or kept != int(kept) or not 1 <= kept <= group.units:
        raise _damaged(f"the layers of {group.name} do not fit together")
    return int(kept)


def _shape(layer: nn.Module) -> list[int]:
    return list(layer.weight.shape if isinstance(layer, nn.Linear) else layer.weight.shape[::-1])


def _damaged(why: str) -> ModelError:
    return ModelError(
        f"The widths in config.json cannot be right: {why}.", "Get the model again, or save it again with Prunarium."
    )
