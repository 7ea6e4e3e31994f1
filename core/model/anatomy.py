"""What there is to prune in a model: blocks, attention, MLP layers, norms, embeddings. Found from modules and shapes, never from a table of
model names, so that a new architecture works on the day transformers has it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from core.errors import ModelError
from core.model import roles
from core.model.depth.gone import gone_from
from core.model.mixture import experts
from core.model.roles import Attention, Layer
from core.model.units import groups
from core.model.width import sliced, stream_width

__all__ = ["Anatomy", "Attention", "Block", "Layer", "read_anatomy"]
PRUNABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, Conv1D)


@dataclass(frozen=True)
class Block:
    """One of the equal parts a model is a chain of. `norms`: module paths. `parameters`: all of the block's."""

    index: int
    name: str
    path: str
    layers: tuple[Layer, ...]
    attention: Attention | None
    norms: tuple[str, ...]
    parameters: int


@dataclass(frozen=True)
class Anatomy:
    """`kind`: decoder | encoder | image_classifier | module. `outside`: layers in no block (the head, a patch projection), never pruned
    where there are blocks. `tied`: pairs of parameter names that are one tensor. `parameters`: each tensor counted once. `hidden`: width
    between blocks, 0 where it changes; `context`: most tokens, 0 where there is no such limit. `refused`: structure -> why not, a sentence.
    """

    family: str
    kind: str
    blocks: tuple[Block, ...]
    outside: tuple[Layer, ...]
    embeddings: tuple[str, ...]
    norms: tuple[str, ...]
    tied: tuple[tuple[str, str], ...]
    parameters: int
    hidden: int
    context: int
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All layers that can be pruned, in order: those of the blocks; of a module without blocks, all."""
        return tuple(layer for block in self.blocks for layer in block.layers) if self.blocks else self.outside

    @property
    def by_path(self) -> dict[str, Layer]:
        """Every layer by its module's path, those outside the blocks too."""
        inside = {layer.path: layer for block in self.blocks for layer in block.layers}
        return inside | {layer.path: layer for layer in self.outside}

    def layer(self, name: str) -> Layer:
        """A layer by its name. Raises ModelError with the nearest one."""
        layers = self.layers
        for layer in layers:
            if layer.name == name:
                return layer
        near = difflib.get_close_matches(name, [layer.name for layer in layers], 1)
        remedy = f"Did you mean {near[0]}?" if near else f"It has {', '.join(layer.name for layer in layers[:3])} ..."
        raise ModelError(f"This model has no layer called {name}.", remedy)


def read_anatomy(model: nn.Module) -> Anatomy:
    """Find the blocks and layers of a model, on any device (meta too). Raises ModelError where it has nothing that can be pruned."""
    config = model.config if isinstance(model, PreTrainedModel) else None
    config = config.get_text_config() if config is not None else None
    hidden = sliced.stream_width(model) or _number(config, "hidden_size")
    paths = block_paths(model) if config is not None else []
    widths = [_width(model, path, hidden) for path in paths]
    blocks = tuple(_block(model, path, index, config, widths[index]) for index, path in enumerate(paths))
    hidden = hidden if len(set(widths)) <= 1 else 0
    inside = tuple(f"{path}." for path in paths)
    rest = [(path, module) for path, module in model.named_modules() if not f"{path}.".startswith(inside)]
    outside = tuple(
        roles.make_layer(path or "(model)", path, module, None) for path, module in rest if isinstance(module, PRUNABLE)
    )
    if not blocks and not outside:
        raise ModelError(
            f"{type(model).__name__} has no linear or convolution layer.", "There is nothing in it that can be pruned."
        )
    kind = _kind(model, blocks) if config is not None else "module"
    family = config.model_type if config is not None else type(model).__name__
    return Anatomy(
        family=family,
        kind=kind,
        blocks=blocks,
        outside=outside,
        embeddings=tuple(path for path, module in rest if isinstance(module, nn.Embedding)),
        norms=tuple(path for path, module in rest if _is_norm(module)),
        tied=_tied(model),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        hidden=hidden,
        context=_number(config, "max_position_embeddings"),
        refused=_refused(model, family, kind, blocks, outside, hidden, len(set(widths)) <= 1),
    )


def block_paths(model: nn.Module) -> list[str]:
    """Module paths of the blocks, in order: the heaviest chain of modules of one class that hold two prunable layers or more each.

    A chain of stages (ResNet, Swin) is opened into the chains of which its stages consist. Empty where there is no chain, or where there
    are two models in one (an encoder and a decoder with cross-attention).
    """
    if getattr(model.config, "is_encoder_decoder", False):
        return []
    chains = list(_chains(model, ""))
    if not chains:
        return []
    weight = {path: sum(p.numel() for p in chain.parameters()) for path, chain in chains}
    path, chain = max(chains, key=lambda item: (weight[item[0]], -item[0].count(".")))
    return _opened(path, chain)


def _chains(model: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    for path, module in model.named_modules(prefix=prefix):
        children = list(module.children())
        if (
            isinstance(module, (nn.ModuleList, nn.Sequential))
            and children
            and len({type(child) for child in children}) == 1
            and all(len(_prunable(child)) + len(gone_from(child)) >= 2 for child in children)
        ):
            yield path, module


def _opened(path: str, chain: nn.Module) -> list[str]:
    """The chain's elements; where each is itself little more than a chain (at most one layer beside it), the elements of those."""
    inner: list[str] = []
    for name, child in chain.named_children():
        place = f"{path}.{name}"
        found = [item for item in _chains(child, place) if len(_prunable(child)) - len(_prunable(item[1])) <= 1]
        if not found:
            return [f"{path}.{name}" for name, _ in chain.named_children()]
        inner += _opened(*min(found, key=lambda item: item[0].count(".")))
    return inner


def _prunable(module: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(path, part) for path, part in module.named_modules() if isinstance(part, PRUNABLE)]


def _block(model: nn.Module, path: str, index: int, config: Any, hidden: int) -> Block:
    module = model.get_submodule(path)
    name = f"blocks.{index}"
    layers = [roles.make_layer(f"{name}.{inner}", f"{path}.{inner}", part, index) for inner, part in _prunable(module)]
    gone = "attention" in gone_from(module).values()  # else an MLP could be taken for the attention that is not there
    attention, named = (None, {}) if gone else roles.find_attention(module, path, layers, config, hidden)
    named = {**roles.mlp_roles(layers, named, hidden), **named}
    return Block(
        index=index,
        name=name,
        path=path,
        layers=tuple(roles.with_role(layer, named.get(layer.path, layer.role)) for layer in layers),
        attention=attention,
        norms=tuple(f"{path}.{inner}" for inner, part in module.named_modules() if _is_norm(part)),
        parameters=sum(parameter.numel() for parameter in module.parameters()),
    )


def _width(model: nn.Module, path: str, hidden: int) -> int:
    """How wide the stream is at a block: of an image model, which may widen from stage to stage, what the block's first norm says."""
    if getattr(model, "main_input_name", "") != "pixel_values":
        return hidden
    return next((len(part.weight) for part in model.get_submodule(path).modules() if _is_norm(part)), hidden)


def _is_norm(module: nn.Module) -> bool:
    """A leaf whose weight is one number a feature: LayerNorm, RMSNorm, BatchNorm, GroupNorm, whatever its class is called."""
    weight = getattr(module, "weight", None)
    if isinstance(module, (nn.PReLU, nn.Embedding)) or next(module.children(), None) is not None:
        return False
    return isinstance(weight, nn.Parameter) and weight.dim() == 1


def _tied(model: nn.Module) -> tuple[tuple[str, str], ...]:
    """Pairs of parameter names that share one storage, each with the first name it goes by."""
    first: dict[Any, str] = {}
    pairs = []
    for name, parameter in model.named_parameters(remove_duplicate=False):
        place = 0 if parameter.is_meta else parameter.untyped_storage().data_ptr()
        key = (place, parameter.storage_offset(), parameter.shape) if place else id(parameter)
        if key in first:
            pairs.append((first[key], name))
        first.setdefault(key, name)
    return tuple(pairs)


def _kind(model: PreTrainedModel, blocks: tuple[Block, ...]) -> str:
    """image_classifier: takes pixels. decoder: its attention looks back only. Else encoder; without blocks: module."""
    if model.main_input_name == "pixel_values":
        return "image_classifier"
    if not blocks:
        return "module"
    marks = [
        part.is_causal
        for block in blocks
        for part in model.get_submodule(block.path).modules()
        if isinstance(getattr(part, "is_causal", None), bool)
    ]
    causal = any(marks) if marks else type(model).__name__.endswith(("ForCausalLM", "LMHeadModel"))
    return "decoder" if causal else "encoder"


def _number(config: Any, name: str) -> int:
    try:
        value = getattr(config, name, 0)
    except AttributeError:  # some configurations map one name to another that they lack
        return 0
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _refused(model: nn.Module, family: str, kind: str, blocks: tuple[Block, ...], outside: tuple[Layer, ...], hidden: int,
             even: bool) -> dict[str, str]:  # fmt: skip
    """Structures that this model does not have, each with the reason."""
    said: dict[str, str] = {}
    what = type(model).__name__
    if not blocks:
        chain = f"{what} is not a chain of equal blocks, so only its single weights can be pruned."
        said = dict.fromkeys(("blocks", "sublayers", *groups.IN_BLOCKS, "mixed", "width", "slices"), chain)
    else:
        attentive = all(block.attention or gone_from(model.get_submodule(block.path)) for block in blocks)
        if kind == "image_classifier" and not (attentive and even):
            said["blocks"] = said["sublayers"] = (
                f"The blocks of {what} may change width and resolution, so one cannot be left out."
            )
        for structure in groups.IN_BLOCKS:
            if why := groups.why_not(model, blocks, family, structure):
                said[structure] = why
        if why := next((said[part] for part in ("sublayers", "neurons", "heads") if part in said), ""):
            said["mixed"] = why
        elif kind != "decoder":
            said["mixed"] = f"{what} predicts no next token, so it gives no loss by which parts of several kinds are chosen."
        if why := stream_width.why_not(model, blocks, hidden):
            said[stream_width.STRUCTURE] = why
        if kind != "decoder":
            said["slices"] = f"{what} is not a decoder, and slicing rotates a decoder's residual stream."
        elif why := sliced.why_not(model, family, bool(sliced.said_of(model.config))):
            said["slices"] = why
        if why := sliced.why_none_goes(model):
            said["blocks"] = said["sublayers"] = said["mixed"] = why
    if kind != "decoder":
        said["vocabulary"] = f"{what} is not a decoder, and only a decoder's embedding and head can lose rows together."
    prunable = [layer for block in blocks for layer in block.layers] or outside
    if kind != "image_classifier":
        said["channels"] = f"{what} takes no image, and channels are followed through the model by showing it one."
    elif not any(layer.kind == "conv" for layer in prunable):
        said["channels"] = f"{what} has no convolutions to prune, so it has no channels to remove."
    if why := experts.why_not(model, blocks):
        said["experts"] = why
    return said
