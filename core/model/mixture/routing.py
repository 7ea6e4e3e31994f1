"""What a mixture of experts does with tokens: which experts each one visits, with which gates, and what those experts say."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from core.model.mixture.experts import ExpertLayer, cut_router


@dataclass(frozen=True)
class Routed:
    """One batch at the entrance of a mixture's experts. inputs (tokens, hidden); chosen int64 and gates (tokens, top_k): the experts that each token
    visits, and what their outputs are multiplied by, as the model itself has them (renormalised where it does so)."""

    experts: nn.Module
    count: int
    inputs: Tensor
    chosen: Tensor
    gates: Tensor

    @cached_property
    def outputs(self) -> Tensor:
        """(tokens, top_k, hidden): what each chosen expert says, before its gate."""
        said = self.inputs.new_zeros(*self.chosen.shape, self.inputs.shape[-1])
        for expert in range(self.count):
            token, place = torch.where(self.chosen == expert)
            if len(token):
                said[token, place] = output_of(self.experts, expert, self.inputs[token])
        return said

    def per_expert(self, values: Tensor) -> Tensor:
        """The sum of values (tokens, top_k) over the tokens that visit each expert: (experts,), float64."""
        total = torch.zeros(self.count, dtype=torch.float64, device=values.device)
        return total.index_add_(0, self.chosen.flatten(), values.flatten().double())


def output_of(experts: nn.Module, expert: int, inputs: Tensor) -> Tensor:
    """What one expert says to inputs (tokens, hidden): the family's own code, with a gate of one."""
    chosen = torch.full((len(inputs), 1), expert, dtype=torch.int64, device=inputs.device)
    # forward, not a call: whoever listens to the experts must not hear this
    return experts.forward(inputs, chosen, inputs.new_ones(len(inputs), 1))


def mixed(experts: nn.Module, routed: Routed) -> Tensor:
    """(tokens, hidden): what the experts say together."""
    return experts.forward(routed.inputs, routed.chosen, routed.gates)


@contextmanager
def listening(root: nn.Module, layer: ExpertLayer, fold: Callable[[Routed], None]) -> Iterator[None]:
    """Hand each batch that reaches the experts of `layer` in `root` to `fold`, for as long as this lasts."""
    experts = root.get_submodule(layer.path)

    def hear(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs, chosen, gates = (*args, *kwargs.values())
        fold(Routed(experts, layer.count, inputs.reshape(-1, inputs.shape[-1]).detach(), chosen, gates.detach()))

    handle = experts.register_forward_pre_hook(hear, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


class _Asked(Exception):
    """Ends a mixture's forward once its experts are asked."""


class _Asker(nn.Module):
    """Stands where the experts are, and keeps what they are asked."""

    def forward(self, inputs: Tensor, chosen: Tensor, gates: Tensor) -> Tensor:
        self.asked = (chosen, gates)
        raise _Asked


def router_without(root: nn.Module, layer: ExpertLayer, keep: Tensor) -> Callable[..., tuple[Tensor, Tensor]]:
    """How a mixture would route were only the experts of `keep` left: a function of what the mixture is given -> (chosen, gates), the experts
    numbered as they are now. The model stays as it is; the weights of the experts are not copied."""
    kept, asker, parent = keep.cpu().nonzero().flatten(), _Asker(), root.get_submodule(layer.parent)
    # modules are copied, so that their numbers can change; their weights are the model's own until the cut replaces the router's
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*parent.parameters(), *parent.buffers())}
    mixture = copy.deepcopy(parent, {**shared, id(root.get_submodule(layer.path)): asker})
    shell = nn.Module()  # gives the copy the path that it has in the model, so that the same cut works
    place: nn.Module = shell
    *above, last = layer.parent.split(".")
    for step in above:
        place.add_module(step, nn.Module())
        place = place.get_submodule(step)
    place.add_module(last, mixture)
    cut_router(shell, layer, kept)

    def route(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        try:
            mixture.forward(*args, **kwargs)
        except _Asked:
            chosen, gates = asker.asked
            return kept.to(chosen.device)[chosen], gates
        raise AssertionError(f"{layer.parent} did not ask its experts")

    return route
