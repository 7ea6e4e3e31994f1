from __future__ import annotations

from collections.abc import Callable, Mapping
from math import log
from typing import Annotated

import torch
from torch import Tensor, nn

from core.method import Paper, Param, learned

_LOW, _HIGH, _HEAT = -0.1, 1.1, 2 / 3  # the stretch of the mask and the temperature, as all who use it have them
_RAMP = 0.5  # the share of the steps over which the target climbs to what was asked
_OPEN = 3.0  # log alpha at the start: 98 % of the masks are above 0, most of them 1


@learned(
    "hard_concrete",
    label="Hard concrete (CoFi)",
    structures=("neurons", "heads"),
    bytes_each=24,
    paper=Paper("Xia, Zhong, Chen", 2022, "Structured Pruning Learns Compact and Accurate Models", "2204.00408"),
    place="criterion/learned masks",
)
def hard_concrete(
    shapes: Mapping[str, tuple[int, ...]],
    targets: tuple[tuple[tuple[str, ...], int], ...],
    backward: Callable[[dict[str, Tensor], Tensor], float],
    draw: Callable[[int], Tensor],
    weights: Callable[[], list[nn.Parameter]],
    note: Callable[[int, int, float], None],
    generator: torch.Generator,
    *,
    steps: Annotated[int, Param("Training steps", 1, 5000)] = 120,
    batch: Annotated[int, Param("Sequences a step", 1, 128)] = 4,
    learning_rate: Annotated[float, Param("Rate of the masks", 0.0001, 1.0)] = 0.1,
    multiplier_rate: Annotated[float, Param("Rate of the multipliers", 0.001, 100.0)] = 1.0,
    weight_rate: Annotated[float, Param("Rate of the weights (0: still)", 0.0, 0.01)] = 0.0,
) -> dict[str, Tensor]:
    """Keep units whose gate the loss holds open while a penalty that grows until the share is met tries to close them all.

    log_alpha (units,), 3 at the start. Each step draws u in (0, 1) a unit: s = sigmoid((log u - log(1 - u) + log_alpha) / T), z = clamp(s * (h - l) +
    l, 0, 1) with l = -0.1, h = 1.1, T = 2/3, and multiplies what is read of the unit by z. P(z > 0) = sigmoid(log_alpha - T log(-l / h)); the
    expected share removed is e = mean of 1 - P. Minimised by Adam: mean loss in nats a token of `batch` sequences, drawn from the whole calibration
    source, + m1 (e - t) + m2 (e - t)^2; m1 and m2, 0 at the start, climb by multiplier_rate * (e - t) and * (e - t)^2. t rises in a straight line to
    the share over the first half of the steps. One such pair for each block and kind of unit, or one for all blocks where `allocation` ranks them
    together (global): then the share of each block is learned as well, as in the paper. The lowest log_alpha go, exactly as many as asked; those that
    stay count in full.

    Intuition: a random gate that is mostly 0 or 1, yet has a slope, lets descent try removals and feel them; the multipliers play the buyer who
    raises the price until enough units are sold.
    When it lies: few steps leave gates half open, and what the model then loses when they are shut was never seen in training; many steps learn the
    calibration text. Gates that close first seldom open again.
    Deviations from the paper: neurons or heads, one structure a step, no masks on layers or on the stream; the weights stand still unless weight_rate
    says otherwise; no distillation; gates start at 3, not at 10, for a short training; units that stay are not scaled by their last gate.
    """
    gates = {name: torch.full(shape, _OPEN, requires_grad=True) for name, shape in shapes.items()}
    multipliers = torch.zeros(len(targets), 2)
    groups = [{"params": list(gates.values()), "lr": learning_rate}]
    if weight_rate:
        groups.append({"params": weights(), "lr": weight_rate})
    optimizer = torch.optim.Adam(groups)
    for step in range(1, steps + 1):
        loss = backward({name: _drawn(gate, generator) for name, gate in gates.items()}, draw(batch))
        over = _over(gates, targets, min(step / max(_RAMP * steps, 1.0), 1.0))
        (multipliers[:, 0] * over + multipliers[:, 1] * over.square()).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        multipliers += multiplier_rate * torch.stack((over.detach(), over.detach().square()), 1)
        note(step, steps, loss)
    return gates


def _drawn(gate: Tensor, generator: torch.Generator) -> Tensor:
    """One draw of every mask of a group."""
    noise = torch.rand(gate.shape, generator=generator).clamp(1e-6, 1 - 1e-6)
    soft = torch.sigmoid((noise.log() - (1 - noise).log() + gate) / _HEAT)
    return (soft * (_HIGH - _LOW) + _LOW).clamp(0.0, 1.0)


def _over(gates: Mapping[str, Tensor], targets: tuple[tuple[tuple[str, ...], int], ...], part: float) -> Tensor:
    """(targets,): expected share removed, less the share to remove by now."""
    found = []
    for names, count in targets:
        there = torch.cat([torch.sigmoid(gates[name] - _HEAT * log(-_LOW / _HIGH)) for name in names])
        found.append((1 - there).mean() - part * count / len(there))
    return torch.stack(found)
