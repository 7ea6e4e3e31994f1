from __future__ import annotations

from torch import Tensor

from core.method import statistic
from core.model.mixture.routing import Routed


@statistic("routed_gates", label="Gates of the tokens routed", of="experts", finish=lambda state, sequences: state)
def routed_gates(total: Tensor | None, routed: Routed) -> Tensor:
    """The sum, over the calibration tokens that visit an expert, of the gate that its output is multiplied by: (experts,), float64."""
    summed = routed.per_expert(routed.gates)
    return summed if total is None else total + summed
