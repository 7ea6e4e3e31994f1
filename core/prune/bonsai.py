from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil, exp
from typing import Annotated

import torch
from torch import Tensor

from core.method import Paper, Param, learned

_WORST = 1e8  # a perplexity above this counts as this


@learned(
    "bonsai",
    label="Bonsai (forward only)",
    structures=("neurons", "heads"),
    bytes_each=16,
    gradients=False,
    paper=Paper(
        "Kolawole, Dery, Kagy, Smith, Neubig, Talwalkar",
        2024,
        "Everybody Prune Now: Structured Pruning of LLMs with only Forward Passes",
        "2402.05406",
    ),
    place="criterion/trying",
)
def bonsai(
    shapes: Mapping[str, tuple[int, ...]],
    targets: tuple[tuple[tuple[str, ...], int], ...],
    ids: Tensor,
    loss: Callable[[dict[str, Tensor], list[int] | None], float],
    activity: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    note: Callable[[int, int, float], None],
    generator: torch.Generator,
    *,
    a_round: Annotated[float, Param("Share removed a round", 0.01, 1.0)] = 0.05,
    sub_models: Annotated[int, Param("Sub-models a round", 2, 2000)] = 60,
    samples: Annotated[int, Param("Sequences a sub-model", 1, 512)] = 8,
    ridge: Annotated[float, Param("Ridge", 0.000001, 10.0)] = 0.01,
) -> dict[str, Tensor]:
    """Keep units whose presence helped, over many random sub-models: their perplexities are regressed on which units were there.

    Rounds of at most `a_round` of the share of all units, until each group has lost what it must. A round that takes p of what is left: the prior of
    a unit is the mean size of what is read of it, in the model as it is by now; the 1 - 2p of each group with the highest prior are safe this round.
    Of the other 2p half is drawn, without replacement, with probability ~ (highest prior of the group - prior), and left out in all groups at once;
    the next sub-model leaves out the other half instead (the complement). y = -perplexity on `samples` sequences drawn anew each round; x (1 there, 0
    not) over all that may go; minimise mean (y - c - x b)^2 + ridge * |b|^2. The lowest b go, of equal ones (to five digits of the largest) those of
    lower prior; the rest are kept for the next round.

    Intuition: a unit's worth is what models with it have over models without it, whatever else is missing; a regression reads that for all of
    them from the same few dozen forwards, and needs no gradient, so no more memory than running the model.
    When it lies: with fewer sub-models than units that may go, b is mostly the prior's draw and noise shared out by the ridge; and a few sequences
    stand for the language. Many small rounds correct themselves, few large ones do not.
    Deviations from the paper: ridge regression in closed form where the published code descends on an l1 or l2 penalty chosen by cross-validation;
    each block loses the same share unless `allocation` ranks all together (global), which is the paper's way; neurons and heads in steps of their
    own.
    """
    masks = {name: torch.ones(shape) for name, shape in shapes.items()}
    order = {name: torch.zeros(shape) for name, shape in shapes.items()}
    size = {names: sum(masks[name].numel() for name in names) for names, _ in targets}
    rounds = max([ceil(count / size[names] / a_round - 1e-9) for names, count in targets], default=0)
    for turn in range(1, rounds + 1):
        due = {names: round(count * turn / rounds) - sum(int((masks[n] == 0).sum()) for n in names) for names, count in targets}
        if not any(taken > 0 for taken in due.values()):
            continue
        prior = activity(masks)
        rows = torch.randperm(len(ids), generator=generator)[:samples].tolist()
        may_go = {
            n: _at_risk(masks[n], prior[n], due[names], sum(float(masks[m].sum()) for m in names))
            for names, _ in targets
            for n in names
        }
        tried, said, drawn = [], [], {}
        for number in range(sub_models):
            drawn = _complement(drawn, may_go) if number % 2 else _drawn(may_go, prior, generator)
            found = min(exp(min(loss({n: masks[n] * drawn[n] for n in masks}, rows), 50.0)), _WORST)
            tried.append(torch.cat([drawn[n][may_go[n]] for n in masks]))
            said.append(-found)
            note((turn - 1) * sub_models + number + 1, rounds * sub_models, found)
        worth = _regressed(torch.stack(tried).double(), torch.tensor(said, dtype=torch.float64), ridge)
        worths = dict(zip(masks, worth.split([int(may_go[n].sum()) for n in masks]), strict=True))
        for names, _ in targets:
            for name, unit in _lowest(names, may_go, worths, prior, due[names]):
                masks[name][unit], order[name][unit] = 0.0, turn - rounds - 1
    last = activity(masks)  # what stays stands above all that went, by its own prior
    return {name: torch.where(masks[name] > 0, last[name], order[name]) for name in masks}


def _at_risk(mask: Tensor, prior: Tensor, due: int, left: float) -> Tensor:
    """bool (units,): the lowest of what is left of a group by its prior, twice as many as the round takes, two at least; none where none is due."""
    here = int(mask.sum())
    count = min(max(ceil(2 * due * here / left - 1e-9), 2), here) if due > 0 and here > 1 else 0
    lowest = prior.masked_fill(mask == 0, torch.inf).argsort(stable=True)[:count]
    return torch.zeros(len(mask), dtype=torch.bool).index_fill(0, lowest, True)


def _drawn(may_go: Mapping[str, Tensor], prior: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """A random sub-model, float (units,) a group: half of what may go is gone."""
    out = {}
    for name, risk in may_go.items():
        out[name] = torch.ones(len(risk))
        places = risk.nonzero().flatten()
        if half := len(places) // 2:
            chance = prior[name].max() - prior[name][places]
            chance = chance + 1e-6 * chance.max() + 1e-12  # where a prior is the highest there is, it may still be drawn
            out[name][places[torch.multinomial(chance, half, replacement=False, generator=generator)]] = 0.0
    return out


def _complement(drawn: Mapping[str, Tensor], may_go: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What was gone is there, what was there of those that may go is gone."""
    return {name: torch.where(risk, 1 - drawn[name], drawn[name]) for name, risk in may_go.items()}


def _regressed(there: Tensor, found: Tensor, ridge: float) -> Tensor:
    """(units,) b of the ridge regression of found (models,) on there (models, units), float64, by the smaller system (models, models)."""
    x, y = there - there.mean(0), found - found.mean()
    return x.T @ torch.linalg.solve(x @ x.T + ridge * len(y) * torch.eye(len(y), dtype=x.dtype), y)


def _lowest(names: tuple[str, ...], may_go: Mapping[str, Tensor], worths: Mapping[str, Tensor], prior: Mapping[str, Tensor],
            due: int) -> list[tuple[str, int]]:  # fmt: skip
    """The units of these groups that go this round."""
    scale = max((float(worths[name].abs().max()) for name in names if len(worths[name])), default=0.0) or 1.0
    listed = [
        (round(worth / scale, 5), float(prior[name][unit]), name, unit)
        for name in names
        for unit, worth in zip(may_go[name].nonzero().flatten().tolist(), worths[name].tolist(), strict=True)
    ]
    return [(name, unit) for _, _, name, unit in sorted(listed)[: max(due, 0)]]
