"""What stands where a part of a block was: no weights, next to no work, and the answer that leaves the residual stream as it came."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

KEY = "prunarium"  # of a model's config: what this program needs to know to build the model again
KINDS = ("identity", "zeros", "attention")


class Gone(nn.Module):
    """In the place of `part`. identity: gives what it is given (a norm). zeros: gives zeros as wide as the part did (an MLP, a layer).
    attention: gives zeros and no attention weights, and tells the cache of keys and values how many tokens went by.

    Under the name of the part's first parameter it keeps an empty tensor, so that a saved model does not load anywhere that knows nothing of
    this: transformers fills in missing weights at random and only warns, but refuses a wrong shape.
    """

    def __init__(self, kind: str, part: nn.Module) -> None:
        super().__init__()
        self.kind = kind
        self.width = next((size for name in ("out_features", "nf") if isinstance(size := getattr(part, name, None), int)), None)
        numbers = (getattr(module, "layer_idx", None) for module in part.modules())
        self.layer_idx = next((number for number in numbers if isinstance(number, int)), None)
        first = next(iter(part.named_parameters()), None)
        if first is not None:
            self._mark(*first)

    def _mark(self, name: str, parameter: Tensor) -> None:
        *path, last = name.split(".")
        place: nn.Module = self
        for step in path:
            place.add_module(step, nn.Module())
            place = place.get_submodule(step)
        place.register_buffer(
            last, torch.empty(0, dtype=parameter.dtype, device="cpu" if parameter.is_meta else parameter.device)
        )

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        if self.kind == "identity":
            return given
        zeros = given.new_zeros(*given.shape[:-1], self.width or given.shape[-1])
        if self.kind == "zeros":
            return zeros
        cache = next((value for value in (*args, *kwargs.values()) if isinstance(value, Cache)), None)
        cache = getattr(cache, "self_attention_cache", cache)  # where another model's keys are cached beside the block's own
        if cache is not None and self.layer_idx is not None:
            seen = given.new_zeros(len(given), 1, given.shape[1], 1)  # positions are counted by the first block's keys
            cache.update(seen, seen, self.layer_idx)
        return zeros, None


def take_out(model: nn.Module, without: dict[str, str]) -> None:
    """Replace modules for good: {module path: kind}."""
    for path, kind in without.items():
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, Gone(kind, model.get_submodule(path)))


def gone_from(model: nn.Module) -> dict[str, str]:
    """{module path: kind} of everything that was taken out."""
    return {path: module.kind for path, module in model.named_modules() if isinstance(module, Gone)}


def say_gone(model: nn.Module) -> None:
    """Make the config say what is gone now; only this program loads such a model."""
    said = {**getattr(model.config, KEY, {}), "without": gone_from(model)}
    said = {name: value for name, value in said.items() if value}
    if said:
        setattr(model.config, KEY, said)
    else:
        vars(model.config).pop(KEY, None)
