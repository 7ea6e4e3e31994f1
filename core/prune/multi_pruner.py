from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated

from torch import Tensor

from core.errors import RecipeError
from core.events import Progress, Watcher
from core.method import Paper, Param, transform
from core.model.depth.trials import Trials, open_trials
from core.model.loading import LoadedModel
from core.model.pruning.mixed import Space, search_space, take_out
from core.model.pruning.pruned import Pruned


@transform(
    "multi_pruner",
    label="MultiPruner",
    structures=("mixed",),
    paper=Paper("Muñoz, Yuan, Jain", 2025, "MultiPruner: Balanced Structure Removal in Foundation Models", "2501.09949"),
    place="criterion/depth and width",
)
def multi_pruner(
    loaded: LoadedModel,
    share: float,
    inputs: Callable[[], Tensor],
    watcher: Watcher,
    *,
    of_sublayers: Annotated[float, Param("Part for whole attentions and MLPs", 0.0, 1.0)] = 0.44,
    of_neurons: Annotated[float, Param("Part for neurons", 0.0, 1.0)] = 0.52,
    bite: Annotated[float, Param("Neurons at a time, of a block's", 0.005, 0.5)] = 0.1,
) -> Pruned:
    """Keep a balance of depth and width: whole attentions and MLPs go first, then neurons, then heads, each time what is missed least.

    share: of all the model's parameters. Round after round every candidate is tried in the model without all that has gone, and the one with the
    lowest loss on the calibration text (mean negative log-likelihood in nats a token) goes; ties: attentions first, then by block. Whole sub-layers go while
    less than of_sublayers * share has gone; then neurons, `bite` of a block's at a time, while less than (of_sublayers + of_neurons) * share has; then heads
    by key-value group, until share has. So each part takes on what the one before overshot or left. Of a block the units go first
    whose weights in the layers that produce them are smallest (sum of sizes).

    Intuition: after a few blocks the next one costs much more than a slice of many: so stop in time, and spend the rest on width.
    When it lies: it is greedy, and believes the calibration text; which of a block's neurons go is decided by size of weight alone; and parts in fixed
    proportion are right for the 7B models that they were tuned on. In small models embeddings are much of all parameters, and share means a larger part of
    the blocks. The last step of each part is taken whole, so a little more than share may go.
    Deviations from the paper: 44 : 52 : 4 as its code has it. A bite is a share of the width, where the code has 1,024 neurons (0.093 of Llama's); heads go a
    key-value group at a time, ranked by their own mean weights; where nothing is left to try in a part, the next one goes on, with a note at the end.
    """
    if of_sublayers + of_neurons > 1:
        raise RecipeError(
            f"multi_pruner: of_sublayers and of_neurons make {of_sublayers + of_neurons:g}, more than the whole share.",
            "Let them make at most 1; heads take the rest.",
        )
    space = search_space(loaded, bite)
    trials = open_trials(loaded, space.units, inputs(), watcher)
    total, gone = loaded.anatomy.parameters, []
    for kind, limit in (("sublayers", of_sublayers), ("neurons", of_sublayers + of_neurons), ("heads", 1.0)):
        _take(space, trials, kind, limit * share * total, gone, watcher)
    removed = sum(space.units[name].parameters for name in gone)
    if removed < share * total:
        text = f"{removed / total:.1%} of the parameters went, not {share:.1%}: there is nothing left to try."
        watcher.say(Progress("prune: multi_pruner", kind="note", text=text))
    done = take_out(loaded, space, gone)
    losses = [trials.losses[frozenset(gone[: place + 1])] for place in range(len(gone))]
    said = {"removed_in_order": gone, "dense_loss": trials.losses[frozenset()], "loss_after_each": losses,
            "evaluations": len(trials.losses), "sparsity": 1 - done.loaded.anatomy.parameters / total}  # fmt: skip
    return replace(done, said=said)


def _take(space: Space, trials: Trials, kind: str, limit: float, gone: list[str], watcher: Watcher) -> None:
    """Add to `gone` what is missed least of one kind, until so many parameters have gone in all."""
    while (removed := sum(space.units[name].parameters for name in gone)) < limit:
        candidates = _candidates(space, kind, gone)
        losses = dict(trials.evaluate_each(frozenset(gone), candidates))
        if not losses:
            return
        gone.append(min(candidates, key=losses.__getitem__))
        values = {"loss": losses[gone[-1]], "removed": removed / max(limit, 1)}
        watcher.say(Progress("prune: multi_pruner", len(gone), values=values))


def _candidates(space: Space, kind: str, gone: list[str]) -> list[str]:
    """What may go next: any sub-layer but the last one, or the next bite of each group whose sub-layer is still there."""
    if kind == "sublayers":
        left = [name for name in space.sublayers if name not in gone]
        return left if len(left) > 1 else []
    here = [name for name, group in space.groups.items() if group.structure == kind and name not in gone]
    rest = [[step for step in space.steps[name] if step not in gone] for name in here]
    return [steps[0] for steps in rest if steps]
