from __future__ import annotations

import torch
from torch import Tensor

from core.method import statistic
from core.model.mixture.routing import Routed


@statistic("routed_tokens", label="Tokens routed", of="experts", finish=lambda state, sequences: state)
def routed_tokens(total: Tensor | None, routed: Routed) -> Tensor:
    """How many calibration tokens visit each expert of a mixture: (experts,), float64."""
    counted = routed.per_expert(torch.ones_like(routed.gates))
    return counted if total is None else total + counted
