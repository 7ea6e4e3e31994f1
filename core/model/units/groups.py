"""Which rows and columns of which layers go together: a neuron of an MLP, a key-value group of attention heads.

A neuron is a row of every layer into the MLP and a column of the layer out of it. Heads go by key-value group: the query heads that share one key
and value head, so that what is left is still grouped attention; where nothing is shared, a group is one head. Query heads go one by one inside
their key-value groups, as many from each group of a block, so that what is left is still grouped attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from core.errors import ModelError
from core.model.depth.gone import gone_from
from core.model.roles import Layer

if TYPE_CHECKING:
    from core.model.anatomy import Block

STRUCTURES = ("neurons", "heads")  # found here, from what the layers of a block do
QUERY_HEADS = "query_heads"  # those that share a key and value head with others, which stays
TOGETHER = "heads_and_neurons"  # both structures in one step, their units in one ranking
CHANNELS = "channels"  # found from how an image goes through the model: core.model.units.channels
IN_BLOCKS = (*STRUCTURES, QUERY_HEADS, TOGETHER)
UNITS = (*IN_BLOCKS, CHANNELS)
_ANOTHER = "Choose another structure for this model."
# How one layer that makes query, key and value is laid out: whole parts one after another, or a group's heads side by side.
_STACKED, _BY_GROUP = ("gpt2", "phi3", "modernbert"), ("gpt_neox", "falcon")


@dataclass(frozen=True)
class Part:
    """A layer's share in a group. `axis` of its weight as (out, in) or (out, in, kernel...); `index` int64 (units, entries): which rows or
    columns are each unit's. Together the units own the whole axis, but for `stays` (int64), which no unit takes with it."""

    path: str
    axis: int
    index: Tensor
    stays: Tensor | None = None


@dataclass(frozen=True)
class Group:
    """Units that can go one by one. `name`: blocks.I.mlp or blocks.I.attention; of channels the name of the layer that makes them, or stream.I.

    `block`: the one that makes them, None where several do. `parts`: the layers whose rows make the units. `reader`: the layer whose columns read
    them, the first of `readers`. `beside`: norms that have numbers for each unit, and no part in its score. `alike`: the units are so many sets of
    equal size, one set after another, and each set loses as many.
    """

    name: str
    block: int | None
    structure: str
    units: int
    parts: tuple[Part, ...]
    reader: Part
    more_readers: tuple[Part, ...] = ()
    beside: tuple[Part, ...] = ()
    alike: int = 1

    @property
    def steps(self) -> int:
        """How many times units can be taken: one of each set at a time."""
        return self.units // self.alike

    def first(self, steps: int) -> Tensor:
        """bool (units,): the first so many of each set."""
        return (torch.arange(self.steps) < steps).repeat(self.alike)

    @property
    def key(self) -> str:
        """What the mask file calls it: blocks.I.mlp.neurons."""
        return f"{self.name}.{self.structure}"

    @property
    def readers(self) -> tuple[Part, ...]:
        return (self.reader, *self.more_readers)

    @property
    def everything(self) -> tuple[Part, ...]:
        """The layers whose weights have rows or columns for the units."""
        return (*self.parts, *self.readers)


def unit_groups(model: nn.Module, blocks: Sequence[Block], family: str, structure: str) -> tuple[Group, ...]:
    """The groups of every block that has such units, in order. Raises ModelError, in a sentence, where they cannot be told apart safely."""
    if structure == TOGETHER:
        both = (group for part in ("heads", "neurons") for group in unit_groups(model, blocks, family, part))
        return tuple(sorted(both, key=lambda group: group.block))
    find = {"neurons": _neurons, "heads": _heads, QUERY_HEADS: _query_heads}[structure]
    found = [find(model, block, family) for block in blocks]
    groups = tuple(group for group in found if group is not None)
    if not groups:
        raise ModelError(f"No pair of layers into and out of an MLP was found in the blocks of {type(model).__name__}.", _ANOTHER)
    if all(group.steps == 1 for group in groups):
        raise ModelError(*_one_each(type(model).__name__, structure))
    return groups


def _one_each(what: str, structure: str) -> tuple[str, str]:
    """What is wrong where no group can give a unit, and what else to do."""
    if structure == QUERY_HEADS:
        return f"Each query head of {what} has a key and value head of its own, and goes with it.", "Use structure heads."
    if structure == "heads":
        said = f"Each block of {what} has one key-value group, which all its query heads need; structure query_heads takes them singly."
        return said, "Use structure query_heads."
    return f"Each block of {what} has one neuron.", _ANOTHER


def why_not(model: nn.Module, blocks: Sequence[Block], family: str, structure: str) -> str:
    """The reason why these blocks have no such units to remove, a sentence; empty where they have."""
    try:
        unit_groups(model, blocks, family, structure)
    except ModelError as error:
        return error.problem
    return ""


def _neurons(model: nn.Module, block: Block, family: str) -> Group | None:
    readers = [layer for layer in block.layers if layer.role == "down"]
    into = [layer for layer in block.layers if layer.role in ("gate", "up", "mlp")]
    if not readers:
        return None
    width = readers[0].shape[1]
    fused = [layer for layer in into if layer.role == "mlp"]
    if len(readers) > 1 or len(into) > 2 or len(fused) > 1 or (fused and len(into) > 1):
        raise ModelError(
            f"{block.name} has more than one MLP, as a mixture of experts has; its neurons are no single row.", _ANOTHER
        )
    if why := _foreign(model, [readers[0], *into], width):
        raise ModelError(
            f"{why} has a number for each neuron of {block.name} too, and what it does with it is not known.", _ANOTHER
        )
    one = torch.arange(width)[:, None]
    both = torch.cat((one, one + width), 1)  # gate and up in one layer: [gate | up]
    parts = tuple(Part(layer.path, 0, both if layer.role == "mlp" else one) for layer in into)
    return Group(f"{block.name}.mlp", block.index, "neurons", width, parts, Part(readers[0].path, 1, one))


def _foreign(model: nn.Module, layers: Sequence[Layer], width: int) -> str:
    """A parameter beside the layers of an MLP that is as wide as its neurons (a norm over them, a state); empty where there is none."""
    parent = layers[0].path.rpartition(".")[0]
    hidden, own = layers[0].shape[0], {layer.path for layer in layers}
    if width == hidden or any(layer.path.rpartition(".")[0] != parent for layer in layers):
        return ""  # a width of the model's own says nothing; layers in several modules have nothing else beside both
    for name, parameter in model.get_submodule(parent).named_parameters():
        path = f"{parent}.{name}"
        if path.rpartition(".")[0] not in own and width in parameter.shape and parameter.dim() < 3:
            return path
    return ""


def _heads(model: nn.Module, block: Block, family: str) -> Group | None:
    attention = block.attention
    if attention is None and gone_from(model.get_submodule(block.path)):
        return None  # taken out as a sub-layer
    if attention is None:
        raise ModelError(
            f"Not every block of {type(model).__name__} has query, key, value and output layers that could be told apart.",
            _ANOTHER,
        )
    inside = [layer for layer in block.layers if layer.path.startswith(attention.path + ".")]
    by_role = {layer.role: layer for layer in inside}
    _check_attention(model, block, inside, family)
    units, dim = attention.kv_heads, attention.head_dim
    query = torch.arange(attention.query_heads * dim).reshape(units, -1)
    key = torch.arange(units * dim).reshape(units, -1)
    if "qkv" in by_role:
        queries, keys = query.numel(), key.numel()
        stacked = torch.cat((query, queries + key, queries + keys + key), 1)
        index = stacked if family in _STACKED else torch.arange(queries + 2 * keys).reshape(units, -1)
        parts = (Part(by_role["qkv"].path, 0, index),)
    else:
        parts = tuple(Part(by_role[role].path, 0, query if role == "query" else key) for role in ("query", "key", "value"))
    return Group(f"{block.name}.attention", block.index, "heads", units, parts, Part(by_role["output"].path, 1, query))


def _query_heads(model: nn.Module, block: Block, family: str) -> Group | None:
    whole = _heads(model, block, family)
    if whole is None:
        return None
    attention = block.attention
    heads, sets, dim = attention.query_heads, attention.kv_heads, attention.head_dim
    columns = torch.arange(heads * dim).reshape(heads, dim)
    first, rows, stays = whole.parts[0], columns, None
    if (
        len(whole.parts) == 1
    ):  # queries, keys and values in one layer: a key-value group's own come with, or before, its key and value
        queries = heads // sets * dim
        rows = first.index[:, :queries].reshape(heads, dim)
        stays = first.index[:, queries:].flatten()
    parts = (Part(first.path, 0, rows, stays),)
    return Group(whole.name, block.index, QUERY_HEADS, heads, parts, Part(whole.reader.path, 1, columns), alike=sets)


def _check_attention(model: nn.Module, block: Block, inside: Sequence[Layer], family: str) -> None:
    """Raise ModelError where the attention holds something that a head would have to take with it, and that is not known here."""
    attention, what = block.attention, type(model).__name__
    known = ("query", "key", "value", "output", "qkv", *(("gate", "up", "down", "mlp") if attention.path == block.path else ()))
    if others := [layer.name for layer in inside if layer.role not in known]:
        raise ModelError(
            f"The attention of {what} has a further layer, {others[0]}, whose part in a head is not known.", _ANOTHER
        )
    if any(layer.role == "qkv" for layer in inside) and family not in (*_STACKED, *_BY_GROUP):
        raise ModelError(f"How {what} lays query, key and value out in one layer is not known.", _ANOTHER)
    if getattr(getattr(model, "config", None), "alibi", False):
        raise ModelError(f"{what} gives each head a slope by its number, so the others would change if one went.", _ANOTHER)
    source = next(layer.path for layer in inside if layer.role in ("query", "qkv"))
    widths = {attention.query_heads * attention.head_dim, attention.kv_heads * attention.head_dim} - {attention.head_dim}
    layers = {layer.path for layer in inside}
    for name, parameter in model.get_submodule(attention.path).named_parameters():
        path, beside = f"{attention.path}.{name}".rpartition(".")[0], source.rpartition(".")[0]
        if path in layers or not (path == beside or path.rpartition(".")[0] == beside):
            continue
        own = path == beside and attention.query_heads in parameter.shape  # a number a head, such as a sink
        if own or parameter.dim() > 1 or widths & set(parameter.shape):
            raise ModelError(
                f"{path if path != beside else name} of {what} spans several heads, so they cannot go one by one.", _ANOTHER
            )
