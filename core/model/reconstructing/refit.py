"""What a reconstruction hands back for one layer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Refit:
    """A layer's new weight (out, in). bias (out,): added to the layer's own; a layer without one gets it. keep (out, in) bool: the
    mask, where it is another."""

    weight: Tensor
    bias: Tensor | None = None
    keep: Tensor | None = None
