"""What a prune step leaves: plain data that the run writes down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from core.model.loading import LoadedModel
from core.model.masks import PackedMask
from core.model.mixture.experts import ExpertLayer
from core.model.units.groups import Group
from core.report import LayerRow


@dataclass(frozen=True)
class UnitCut:
    """Neurons, heads or experts of one block that were cut out. keep: bool, one a unit that there was."""

    group: Group | ExpertLayer
    keep: Tensor

    @property
    def key(self) -> str:
        """What the mask file calls it: blocks.I.mlp.neurons."""
        return self.group.key


@dataclass(frozen=True)
class Pruned:
    """What a prune step did. masks: {module path, or that of a parameter that holds all experts: kept}; removed: indices of blocks taken out; scores:
    small summaries for the run folder; said: more for the report's entry about the step; parts: (block, "attention" | "mlp") of sub-layers taken out;
    cuts: neurons, heads and experts; rewritten: indices (before `removed` went) of blocks whose weights are all new, so that masks made earlier hold no
    longer.
    """

    loaded: LoadedModel
    masks: Mapping[str, PackedMask] = field(default_factory=dict)
    removed: tuple[int, ...] = ()
    rows: tuple[LayerRow, ...] = ()
    scores: Mapping[str, Tensor] = field(default_factory=dict)
    said: Mapping[str, Any] = field(default_factory=dict)
    parts: tuple[tuple[int, str], ...] = ()
    cuts: tuple[UnitCut, ...] = ()
    rewritten: tuple[int, ...] = ()
