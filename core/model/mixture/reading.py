"""What each matrix of each expert is multiplied by, heard in the family's own code: an expert's middle is inside one function, where no hook reaches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from core.errors import ModelError

# product of rows with a matrix -> is the matrix stored (in, out)?
_PRODUCTS: dict[Callable[..., Any], bool] = {
    nn.functional.linear: False, torch.matmul: True, torch.mm: True, Tensor.matmul: True, Tensor.mm: True, Tensor.__matmul__: True,
}  # fmt: skip


@dataclass(frozen=True)
class Read:
    """inputs (tokens, in): the rows that a matrix was multiplied with; turned: it is stored (in, out)."""

    inputs: Tensor
    turned: bool


class _Hearing(TorchFunctionMode):
    """Notes the products with these parameters, by their names."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._names = {parameter.untyped_storage().data_ptr(): name for name, parameter in parameters.items()}
        self.heard: dict[str, list[Read]] = {name: [] for name in parameters}

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        if func in _PRODUCTS and len(args) > 1 and isinstance(args[1], Tensor) and args[1].dim() == 2:
            name = self._names.get(args[1].untyped_storage().data_ptr())
            if name is not None:
                self.heard[name].append(Read(args[0].detach().reshape(-1, args[0].shape[-1]), _PRODUCTS[func]))
        return func(*args, **(kwargs or {}))


def matrices(experts: nn.Module) -> dict[str, Tensor]:
    """{name: weight (experts, out, in) or (experts, in, out)} of a module that holds experts."""
    return {name: parameter.detach() for name, parameter in experts.named_parameters(recurse=False) if parameter.dim() == 3}


def reads(experts: nn.Module, expert: int, inputs: Tensor) -> dict[str, Read]:
    """{name of a weight: what this expert's matrix in it reads} when the expert is given inputs (tokens, hidden), at least one token.

    Raises ModelError where the family's code does not multiply rows with each expert's matrices once.
    """
    chosen = torch.full((len(inputs), 1), expert, dtype=torch.int64, device=inputs.device)
    # the family's own loop over experts: the default may multiply all of them in one product
    loop = getattr(type(experts).forward, "__wrapped__", type(experts).forward)
    with torch.no_grad(), _Hearing(matrices(experts)) as hearing:
        loop(experts, inputs, chosen, inputs.new_ones(len(inputs), 1))
    if any(len(heard) != 1 or len(heard[0].inputs) != len(inputs) for heard in hearing.heard.values()):
        raise ModelError(
            f"How {type(experts).__name__} multiplies with the weights of its experts is not known here.",
            "Choose structure: experts, which takes them whole.",
        )
    return {name: heard[0] for name, heard in hearing.heard.items()}
