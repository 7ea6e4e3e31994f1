"""What each layer of a block does, told from shapes; from the names of attributes only where shapes leave a choice."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

ROLES = ("query", "key", "value", "output", "qkv", "gate", "up", "down", "mlp", "conv", "other")
_HEAD_MARKS = (
    "head_dim",
    "head_size",
    "num_heads",
    "num_attention_heads",
    "attention_head_size",
)  # attributes of attention modules
_INPUTS = ("query", "key", "value")
_HINTS = {
    "query": re.compile(r"(^|[._])(q|wq|query)($|[._])"),
    "key": re.compile(r"(^|[._])(k|wk|key)($|[._])"),
    "value": re.compile(r"(^|[._])(v|wv|value)($|[._])"),
    "output": re.compile(r"(^|[._])(o|wo|out|output|dense)($|[._])"),
    "gate": re.compile(r"(^|[._])(gate|w1|wi_0)($|[._])"),
}


@dataclass(frozen=True)
class Layer:
    """A linear or convolution module. `name` is what recipes use, `path` the module's own. `kind`: linear | conv | conv1d (GPT-2's, whose
    weight is stored (in, out)). `shape`: (out, in) or (out, in, kernel...), whatever the storage. `parameters`: weights and biases.
    """

    name: str
    path: str
    role: str
    kind: str
    shape: tuple[int, ...]
    block: int | None
    parameters: int


@dataclass(frozen=True)
class Attention:
    """`path`: the module that holds the four projections (or the fused one and the output). `kv_heads` < `query_heads`: grouped queries."""

    path: str
    query_heads: int
    kv_heads: int
    head_dim: int


def make_layer(name: str, path: str, module: nn.Module, block: int | None) -> Layer:
    """The Layer of a module; its role is still "conv" or "other"."""
    transposed = isinstance(module, Conv1D)
    kind = "conv1d" if transposed else "linear" if isinstance(module, nn.Linear) else "conv"
    shape = tuple(module.weight.shape[::-1] if transposed else module.weight.shape)
    parameters = sum(parameter.numel() for parameter in module.parameters(recurse=False))
    return Layer(name, path, "conv" if kind == "conv" else "other", kind, shape, block, parameters)


def with_role(layer: Layer, role: str) -> Layer:
    """The same layer with its role."""
    return replace(layer, role=role)


def find_attention(
    block: nn.Module, path: str, layers: list[Layer], config: Any, hidden: int
) -> tuple[Attention | None, dict[str, str]]:
    """The attention of a block and the roles of its layers, {layer path: role}.

    It is the smallest module of the block that holds an output layer (heads * head_dim -> hidden) and either three layers out of `hidden`
    that fit as query, key and value, or one that fits all three. Modules that know of heads themselves come first; of equals the first, for the
    attention to the text itself stands before that to another model's output. What else in the block knows of heads is no MLP: its layers are "other".
    """
    heads = _count(config, "num_attention_heads") or _own_heads(block)
    head_dim = _count(config, "head_dim") or (hidden // heads if heads else 0)
    linear = [layer for layer in layers if len(layer.shape) == 2]
    if not (heads and head_dim and hidden):
        return None, {}
    candidates: dict[tuple[Layer, ...], tuple[bool, int, str, list[Layer]]] = {}
    for inner, module in block.named_modules():
        inside = [layer for layer in linear if layer.path.startswith(f"{path}.{inner}." if inner else f"{path}.")]
        if len(inside) >= 2:
            knows = bool(inner) and any(hasattr(part, mark) for part in module.modules() for mark in _HEAD_MARKS)
            candidates[tuple(inside)] = (
                not knows,
                len(inside),
                f"{path}.{inner}".rstrip("."),
                inside,
            )  # the innermost that holds these
    ordered = sorted(candidates.values(), key=lambda found: found[:2])
    for unaware, exact in (
        (False, True),
        (False, False),
        (True, True),
    ):  # fewer heads, where they know of heads, before any guess
        for place, inside in [(item[2], item[3]) for item in ordered if item[0] is unaware]:
            found = _fit(inside, place, hidden, head_dim, heads if exact else 0)
            if found is not None:
                width, kv_width, roles = found
                roles = {**_of_other_attention(block, path, linear, place), **roles}
                return Attention(place, width // head_dim, kv_width // head_dim, head_dim), roles
    return None, {}


def _of_other_attention(block: nn.Module, path: str, linear: list[Layer], chosen: str) -> dict[str, str]:
    """{path: "other"} of the layers in modules of the block that know of heads and are neither the attention chosen nor around it nor inside it."""
    found = {}
    for inner, module in block.named_modules():
        place = f"{path}.{inner}."
        apart = inner and not place.startswith(f"{chosen}.") and not f"{chosen}.".startswith(place)
        if apart and any(hasattr(part, mark) for part in module.modules() for mark in _HEAD_MARKS):
            found |= {layer.path: "other" for layer in linear if layer.path.startswith(place)}
    return found


def _own_heads(block: nn.Module) -> int:
    """How many heads the modules of a block say there are, where the config has a number a stage (Swin)."""
    return next((count for part in block.modules() if (count := _count(part, "num_attention_heads"))), 0)


def _count(config: Any, name: str) -> int:
    try:
        value = getattr(config, name, None)
    except AttributeError:  # some configurations map one name to another that they lack
        return 0
    return value if isinstance(value, int) and value > 0 else 0


def _fit(inside: list[Layer], place: str, hidden: int, head_dim: int, heads: int) -> tuple[int, int, dict[str, str]] | None:
    """(query width, key width, {path: role}) if these layers can be one attention; `heads` 0 allows any number of whole heads."""
    for out in _by_hint([layer for layer in inside if layer.shape[0] == hidden], "output", place):
        width = out.shape[1]
        if width % head_dim or (heads and width != heads * head_dim):
            continue
        entering = [layer for layer in inside if layer is not out and layer.shape[1] == hidden]
        for layer in entering:
            kv = layer.shape[0] - width
            if kv > 0 and kv % (2 * head_dim) == 0 and kv // 2 <= width and (width // head_dim) % (kv // 2 // head_dim) == 0:
                return width, kv // 2, {layer.path: "qkv", out.path: "output"}
        for query in _by_hint([layer for layer in entering if layer.shape[0] == width], "query", place):
            rest = [
                layer for layer in entering if layer is not query and layer.shape[0] % head_dim == 0 and layer.shape[0] <= width
            ]
            keys = _by_hint(rest, "key", place)
            values = _by_hint([layer for layer in rest if keys and layer is not keys[0]], "value", place)
            if keys and values and keys[0].shape == values[0].shape:
                roles = {query.path: "query", keys[0].path: "key", values[0].path: "value", out.path: "output"}
                return width, keys[0].shape[0], roles
    return None


def _by_hint(layers: list[Layer], role: str, place: str) -> list[Layer]:
    """Layers whose name suggests the role first, then those that suggest no other role, then the rest; else the order of the modules."""

    def rank(layer: Layer) -> int:
        name = layer.path.removeprefix(place)
        meant = next((hint for hint in (*_INPUTS, "output") if _HINTS[hint].search(name)), None)
        return 0 if meant == role else 1 if meant is None else 2

    in_order = layers[::-1] if role == "output" else layers  # unnamed, the output is taken to be defined last
    return sorted(in_order, key=rank)


def mlp_roles(layers: list[Layer], taken: dict[str, str], hidden: int) -> dict[str, str]:
    """{path: role} of the layers that lead into an MLP and out of it.

    down: (hidden, inner) where another layer is (inner, hidden), which is up; of two such side by side one is the gate (told by name, else the
    first). A layer (2 * inner, hidden) is gate and up in one: mlp.
    """
    rest = [layer for layer in layers if layer.path not in taken and len(layer.shape) == 2 and hidden]
    into = [layer for layer in rest if layer.shape[1] == hidden]
    roles: dict[str, str] = {}
    leaving = [layer for layer in rest if layer.shape[0] == hidden]
    # where an MLP is as wide as the model all its layers are square: the last one leads out
    square = [layer for layer in leaving if layer.shape[1] == hidden]
    for down in [layer for layer in leaving if layer.shape[1] != hidden] + square[::-1]:
        inner = down.shape[1]
        ups = [layer for layer in into if layer.shape[0] == inner and layer is not down and roles.get(layer.path) != "down"]
        beside = [layer for layer in ups if _parent(layer) == _parent(down)]
        ups = beside or ups
        fused = [layer for layer in into if layer.shape[0] == 2 * inner and layer is not down]
        if (not ups and not fused) or roles.get(down.path) in ("gate", "up"):
            continue
        roles[down.path] = "down"
        if not ups:
            roles[fused[0].path] = "mlp"
        roles.update({layer.path: "up" for layer in ups})
        if len(ups) == 2:
            gate = next((layer for layer in ups if _HINTS["gate"].search(layer.path.rpartition(".")[2])), ups[0])
            roles[gate.path] = "gate"
    return roles


def _parent(layer: Layer) -> str:
    return layer.path.rpartition(".")[0]
