"""Taking rows and columns out: neurons and heads really go, and what holds their number is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from core.model.anatomy import Block
from core.model.units.groups import Group, Part

_QUERY_COUNTS = ("num_heads", "num_attention_heads", "n_heads", "n_head")
_KEY_COUNTS = ("num_key_value_heads", "num_kv_heads")
_NORM_BUFFERS = ("running_mean", "running_var")
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)  # norms that see each channel by itself
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_WIDTHS = ("all_head_size", "embed_dim", "split_size", "inner_dim")


def cut(model: nn.Module, block: Block | None, group: Group, keep: Tensor) -> None:
    """Leave only the units that `keep` (bool, one a unit) names: smaller weights, and the counts of the attention's modules (heads: of `block`)."""
    for part in (*group.everything, *group.beside):
        cut_layer(model.get_submodule(part.path), part.axis, entries(part, keep))
    if group.structure == "heads" and block is not None:
        heads = block.attention
        kept = int(keep.sum())
        _set_heads(model, block, heads.query_heads // heads.kv_heads * kept, kept)
    elif isinstance(getattr(owner := model.get_submodule(group.reader.path.rpartition(".")[0]), "intermediate_size", None), int):
        owner.intermediate_size = int(keep.sum())


def entries(part: Part, keep: Tensor) -> Tensor:
    """Which rows or columns stay, ascending."""
    return part.index[keep.cpu()].flatten().sort().values


def cut_layer(layer: nn.Module, axis: int, kept: Tensor) -> None:
    """A layer with only these rows (axis 0) or columns (axis 1) of its weight as (out, in). The bias goes with the rows, as do a norm's means.

    A depthwise convolution reads and makes the same channels: its rows are both.
    """
    stored = stored_axis(layer, axis)
    layer.weight = _selected(layer.weight, stored, kept)
    if axis == 0 and layer.bias is not None:
        layer.bias = _selected(layer.bias, 0, kept)
    for name in _NORM_BUFFERS if axis == 0 else ():
        if isinstance(buffer := layer._buffers.get(name), Tensor):
            layer._buffers[name] = buffer.index_select(0, kept.to(buffer.device))
    for name in _counts(layer, axis):
        setattr(layer, name, len(kept))


def _counts(layer: nn.Module, axis: int) -> tuple[str, ...]:
    """Under which names a layer keeps how many rows or columns it has."""
    if isinstance(layer, nn.Linear):
        return ("out_features",) if axis == 0 else ("in_features",)
    if isinstance(layer, Conv1D):
        return ("nf",) if axis == 0 else ("nx",)
    if isinstance(layer, CONVOLUTIONS):
        return (
            ("out_channels", "in_channels", "groups")
            if depthwise(layer)
            else ("out_channels",)
            if axis == 0
            else ("in_channels",)
        )
    return ("num_features",) if hasattr(layer, "num_features") else ()


def depthwise(layer: nn.Module) -> bool:
    """Whether a layer is a convolution that makes each channel of one channel."""
    return isinstance(layer, CONVOLUTIONS) and layer.groups > 1 and layer.groups == layer.in_channels == layer.out_channels


def stored_axis(layer: nn.Module, axis: int) -> int:
    """An axis of a weight as (out, in), in the order in which the layer stores it: Conv1D's is (in, out)."""
    return 1 - axis if isinstance(layer, Conv1D) else axis


def _selected(parameter: nn.Parameter, axis: int, kept: Tensor) -> nn.Parameter:
    chosen = parameter.detach().index_select(axis, kept.to(parameter.device))
    return nn.Parameter(chosen, requires_grad=parameter.requires_grad)


def add_bias(layer: nn.Module, bias: Tensor) -> None:
    """Add to a layer's bias; a layer without one gets it."""
    bias = bias.to(layer.weight) if layer.bias is None else layer.bias.detach() + bias.to(layer.bias)
    layer.bias = nn.Parameter(bias, requires_grad=layer.weight.requires_grad)


def _set_heads(model: nn.Module, block: Block, query_heads: int, kv_heads: int) -> None:
    """Tell the modules of an attention how many heads there are now, under whichever names they keep it."""
    old = block.attention
    new = {
        **dict.fromkeys(_QUERY_COUNTS, (old.query_heads, query_heads)),
        **dict.fromkeys(_KEY_COUNTS, (old.kv_heads, kv_heads)),
        **dict.fromkeys(_WIDTHS, (old.query_heads * old.head_dim, query_heads * old.head_dim)),
    }
    for module in model.get_submodule(old.path).modules():
        for name, (before, after) in new.items():
            if vars(module).get(name) == before:
                setattr(module, name, after)
        config = vars(module).get("config")
        if config is not None and not any(name in vars(module) for name in _QUERY_COUNTS):
            base = config.__dict__["_config"] if isinstance(config, _Counted) else config
            module.config = _Counted(base, {"num_attention_heads": query_heads, "num_key_value_heads": kv_heads})


class _Counted:
    """A configuration with other head counts than the model's, for an attention that reads them from there (Phi-3). All else stays the
    model's own, so that a later change of the attention's implementation reaches it."""

    def __init__(self, config: Any, counts: Mapping[str, int]) -> None:
        self.__dict__.update(_config=config, **counts)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_config" not in self.__dict__:  # while it is being copied
            raise AttributeError(name)
        return getattr(self.__dict__["_config"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__dict__["_config"], name, value)
