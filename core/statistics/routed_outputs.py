from __future__ import annotations

from torch import Tensor

from core.method import statistic
from core.model.mixture.routing import Routed


@statistic("routed_outputs", label="Gated outputs of experts", of="experts", finish=lambda state, sequences: state)
def routed_outputs(total: Tensor | None, routed: Routed) -> Tensor:
    """The sum, over the calibration tokens that visit an expert, of gate times the L2 norm of what the expert says: (experts,), float64."""
    summed = routed.per_expert(routed.gates.float() * routed.outputs.float().norm(dim=-1))
    return summed if total is None else total + summed
