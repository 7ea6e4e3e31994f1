"""A decoder with a narrower residual stream than its config says, written in a basis that may change from part to part: what its parts are, the
small matrix that turns the residual from one basis into the next, and what the config says of it: `prunarium: {"slices": {"width", "turns"}}`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from core.model.depth.gone import KEY, gone_from

PARTS = ("attention", "mlp")
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")  # RMSNorm before attention and MLP, nothing else on the residual stream
_ATTENTION, _MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Part:
    """The attention or MLP of a block: the norm that reads the stream, the layers that read the norm, the layer that writes to the stream."""

    name: str
    block: nn.Module
    norm: nn.Module
    readers: tuple[nn.Linear, ...]
    writer: nn.Linear


@dataclass(frozen=True)
class Stream:
    """All that reads or writes the residual stream, in the order of the forward."""

    embedding: nn.Embedding
    parts: tuple[Part, ...]
    norm: nn.Module
    head: nn.Linear


class Turn(nn.Module):
    """The residual from the basis it comes in to the one that the part beside it writes in. weight: (out, in)."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, hidden: Tensor) -> Tensor:
        return nn.functional.linear(hidden, self.weight)


def residual_stream(model: nn.Module) -> Stream:
    """The parts of a model for which `why_not` has nothing to say."""
    parts = []
    for block in model.model.layers:
        attention, mlp = block.self_attn, block.mlp
        reads = tuple(getattr(attention, name) for name in _ATTENTION[:3])
        parts.append(Part("attention", block, block.input_layernorm, reads, attention.o_proj))
        reads = tuple(getattr(mlp, name) for name in _MLP[:2])
        parts.append(Part("mlp", block, block.post_attention_layernorm, reads, mlp.down_proj))
    return Stream(model.model.embed_tokens, tuple(parts), model.model.norm, model.lm_head)


def why_not(model: nn.Module, family: str, sliced: bool = False) -> str:
    """The reason why the stream of this model cannot be sliced, a sentence; empty where it can. sliced: whether it was already."""
    what = type(model).__name__
    if family not in FAMILIES or not what.endswith("ForCausalLM"):
        return f"Slicing knows decoders with a head and an RMSNorm before attention and MLP ({', '.join(FAMILIES)}); {what} is none of them."
    if sliced:
        return f"{what} was sliced already, and its residuals turn by matrices of their own."
    if gone_from(model):
        return f"Parts of the blocks of {what} are gone, and slicing has nothing there to turn."
    return ""


def why_none_goes(model: nn.Module) -> str:
    """The reason why no block or sub-layer of a sliced model can go, a sentence; empty for others."""
    turns = said_of(getattr(model, "config", None)).get("turns")
    what = type(model).__name__
    return (
        f"The parts of {what} were sliced, each in a basis of its own, so none can be left out; remove blocks first."
        if turns
        else ""
    )


def said_of(config: Any) -> dict[str, Any]:
    """What the config says of slices; empty where the stream is as the family has it."""
    said = getattr(config, KEY, None)
    slices = said.get("slices") if isinstance(said, dict) else None
    return slices if isinstance(slices, dict) else {}


def stream_width(model: nn.Module) -> int | None:
    """How wide a sliced stream is; None where the config's own width holds."""
    return model.get_input_embeddings().embedding_dim if said_of(getattr(model, "config", None)) else None


def add_turn(part: Part, weight: Tensor) -> None:
    """Turn the residual beside a part from now on."""
    part.block.__class__ = _with_turns(type(part.block))
    part.block.add_module(f"{part.name}_turn", Turn(weight))


@cache
def _with_turns(kind: type[nn.Module]) -> type[nn.Module]:
    """The block's own class, so that whatever looks for it still finds it, with a forward that turns the residual."""

    def forward(self: nn.Module, hidden_states: Tensor, **given: Any) -> Tensor:
        after = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **given)[0]
        hidden_states = _turned(self, "attention", hidden_states) + after
        after = self.mlp(self.post_attention_layernorm(hidden_states))
        return _turned(self, "mlp", hidden_states) + after

    if "forward" in vars(kind) and getattr(kind, "turns", False):
        return kind
    return type(f"Turning{kind.__name__}", (kind,), {"forward": forward, "turns": True})


def _turned(block: nn.Module, part: str, hidden: Tensor) -> Tensor:
    turn = block._modules.get(f"{part}_turn")
    return hidden if turn is None else turn(hidden)


def turns_of(model: nn.Module) -> list[str]:
    """Which residuals of the blocks turn: of "attention" and "mlp"."""
    return [part for part in PARTS if any(name.endswith(f"{part}_turn") for name, _ in model.named_modules())]


def empty_turn(stream: Stream) -> Tensor:
    """Room for a matrix that is read later, where the other weights are."""
    weight = stream.embedding.weight
    return torch.empty(weight.shape[1], weight.shape[1], dtype=weight.dtype, device=weight.device)
