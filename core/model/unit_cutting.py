"""Cutting decided units out, and noting what went."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from core.method import Method
from core.model.groups import Group
from core.model.loading import LoadedModel
from core.model.masks import nearest
from core.model.narrow import add_bias, cut
from core.model.observe import matrix
from core.model.pruned import Pruned, UnitCut
from core.model.unit_scoring import Statistics, columns
from core.recipe import Prune
from core.report import LayerRow
from kernels.masks import keep_highest


def decided(scores: Tensor, share: float) -> Tensor:
    """Scores of the units of a group and the share to remove -> bool, True = kept. One unit stays whatever is asked."""
    return keep_highest(scores[None], min(nearest(share * len(scores)), len(scores) - 1))[0].cpu()


@dataclass
class Found:
    """What has been decided and cut so far."""

    step: Prune
    method: Method
    rows: list[LayerRow] = field(default_factory=list)
    scores: dict[str, Tensor] = field(default_factory=dict)
    cuts: list[UnitCut] = field(default_factory=list)

    def add(self, loaded: LoadedModel, group: Group, scores: Tensor, share: float) -> UnitCut:
        """Decide which units of a group go, and note it, before they do."""
        keep = decided(scores, share)
        layers = loaded.anatomy.by_path
        parameters = sum(layers[path].parameters for path in {part.path for part in group.everything})
        reached = int((~keep).sum()) / group.units
        self.rows.append(LayerRow(group.name, group.block, (group.units,), parameters, share, reached, float(scores.mean())))
        self.scores[group.key] = scores.cpu()
        self.cuts.append(UnitCut(group, keep))
        return self.cuts[-1]

    @property
    def adds_bias(self) -> bool:
        """Whether units that go leave their mean behind."""
        name = self.method.card.adds_bias
        default = next((param.default for param in self.method.card.params if param.name == name), False)
        return bool(name) and bool(self.step.params.get(name, default))

    def pruned(self, loaded: LoadedModel) -> Pruned:
        return Pruned(loaded, rows=tuple(self.rows), scores=self.scores, cuts=tuple(self.cuts))


def make_up(loaded: LoadedModel, group: Group, keep: Tensor, statistics: Statistics) -> None:
    """Put what the units that go gave on average into the bias of the layers that read them."""
    for part in group.readers:
        layer, module = loaded.anatomy.by_path[part.path], loaded.module(part.path)
        gone = columns(layer, part)[~keep].flatten().to(module.weight.device)
        weight = matrix(layer, module.weight.detach()).float()
        add_bias(module, weight[:, gone] @ statistics[layer.name]["input_mean"].to(weight)[gone])


def cut_out(loaded: LoadedModel, done: UnitCut) -> None:
    """Cut the units of a group that do not stay."""
    group = done.group
    if not done.keep.all():
        cut(loaded.model, None if group.block is None else loaded.anatomy.blocks[group.block], group, done.keep)
