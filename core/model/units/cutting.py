"""Cutting decided units out, and noting what went."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from core.events import Progress, Watcher
from core.method import Method
from core.model.loading import LoadedModel
from core.model.masks import nearest
from core.model.observe import matrix
from core.model.pruning.pruned import Pruned, UnitCut
from core.model.units.groups import Group
from core.model.units.scoring import Statistics, columns
from core.model.width.narrow import add_bias, cut
from core.recipe import Prune
from core.report import LayerRow
from kernels.masks import keep_highest


def decided(scores: Tensor, share: float, ceiling: float | None = None) -> Tensor:
    """Scores of the units of a group and the share to remove -> bool, True = kept. One unit stays whatever is asked, and so does what scores above
    the ceiling."""
    keep = keep_highest(scores[None], asked_of(len(scores), share))[0].cpu()
    return keep if ceiling is None else keep | (scores.cpu() > ceiling)


def asked_of(units: int, share: float) -> int:
    """How many of so many units a share asks for."""
    return min(nearest(share * units), units - 1)


@dataclass
class Found:
    """What has been decided and cut so far."""

    step: Prune
    method: Method
    rows: list[LayerRow] = field(default_factory=list)
    scores: dict[str, Tensor] = field(default_factory=dict)
    cuts: list[UnitCut] = field(default_factory=list)

    def add(
        self, loaded: LoadedModel, group: Group, keep: Tensor, share: float, scores: Tensor | None, error: float | None = None
    ) -> UnitCut:
        """Note which units of a group stay, before the others go. scores: of a score; error: of a solver's output."""
        layers = loaded.anatomy.by_path
        parameters = sum(layers[path].parameters for path in {part.path for part in group.everything})
        reached, mean = int((~keep).sum()) / group.units, None if scores is None else float(scores.mean())
        self.rows.append(LayerRow(group.name, group.block, (group.units,), parameters, share, reached, mean, error))
        if scores is not None:
            self.scores[group.key] = scores.cpu()
        self.cuts.append(UnitCut(group, keep))
        return self.cuts[-1]

    def parameter(self, name: str) -> Any:
        """A parameter of the step, or its default; None where the method's card names none."""
        default = next((param.default for param in self.method.card.params if param.name == name), None)
        return self.step.params.get(name, default) if name else None

    @property
    def adds_bias(self) -> bool:
        """Whether units that go leave their mean behind."""
        return bool(self.parameter(self.method.card.adds_bias))

    @property
    def ceiling(self) -> float | None:
        """The score above which no unit goes."""
        return self.parameter(self.method.card.spares_above)

    def note_spared(self, watcher: Watcher) -> None:
        """Where the method spares units that the share asked for, say how many."""
        asked = sum(asked_of(cut.group.units, row.asked) for cut, row in zip(self.cuts, self.rows, strict=True))
        gone = sum(int((~cut.keep).sum()) for cut in self.cuts)
        if whole := [row.name for row in self.rows if row.shape[0] > 1 and row.asked == 1.0]:
            text = (
                f"One of the {self.step.structure} of {', '.join(whole[:3])} stays: with none of them nothing would come through."
            )
            watcher.say(Progress(f"prune: {self.step.method}", kind="note", text=text))
        if gone < asked:
            text = f"{gone:,} of the {asked:,} {self.step.structure} asked for went: the others are above {self.method.card.spares_above}."
            watcher.say(Progress(f"prune: {self.step.method}", kind="note", text=text))

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
