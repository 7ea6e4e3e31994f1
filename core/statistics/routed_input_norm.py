from __future__ import annotations

from torch import Tensor

from core.method import statistic
from core.statistics.input_norm import root_mean


@statistic("routed_input_norm", label="Gated input norm", of="expert weights", finish=root_mean)
def routed_input_norm(total: Tensor | None, inputs: Tensor, gates: Tensor) -> Tensor:
    """How strongly each input feature of an expert's matrix is driven, by tokens that count with the gate that the router gives them.

    inputs (tokens, features): those of the tokens that visit the expert; gates (tokens,) -> (features,): root of the mean over sequences of the summed
    squares of gate times input. 0 for an expert that no token visits.
    """
    squares = (inputs * gates[:, None]).square().sum(0)
    return squares if total is None else total + squares
