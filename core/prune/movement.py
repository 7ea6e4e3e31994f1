from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated

import torch
from torch import Tensor, nn

from core.method import Paper, Param, learned

_SETTLED = 0.2  # the last share of the steps, at the full share asked for


@learned(
    "movement",
    label="Movement (learned mask)",
    structures=("unstructured", "N:M", "tiles", "neurons", "heads"),
    bytes_each=32,
    paper=Paper("Lagunas, Charlaix, Sanh, Rush", 2021, "Block Pruning For Faster Transformers", "2109.04838"),
    place="criterion/learned masks",
)
def movement(
    shapes: Mapping[str, tuple[int, ...]],
    decide: Callable[[dict[str, Tensor], float], dict[str, Tensor]],
    backward: Callable[[dict[str, Tensor], Tensor], float],
    draw: Callable[[int], Tensor],
    weights: Callable[[], list[nn.Parameter]],
    note: Callable[[int, int, float], None],
    *,
    steps: Annotated[int, Param("Training steps", 1, 5000)] = 120,
    batch: Annotated[int, Param("Sequences a step", 1, 128)] = 4,
    learning_rate: Annotated[float, Param("Rate of the scores", 0.00001, 1.0)] = 0.01,
    weight_rate: Annotated[float, Param("Rate of the weights (0: still)", 0.0, 0.01)] = 0.00003,
) -> dict[str, Tensor]:
    """Keep weights that training moves away from zero: their scores rise while it wants them there, and sink while it wants them gone.

    Scores S, one a weight ((out, in)) or a unit ((units,)), start at 0. Each step: the mask M is 1 but for the lowest S, as many as part of the share
    says (part = 1 - (1 - t)^3, t from 0 to 1 over the first four fifths of the steps); L is the mean loss in nats a token, with W * M, of `batch`
    sequences drawn from the whole calibration source; S takes the gradient as if the mask were S itself (straight through): dL/dS = dL/d(W M) * W,
    summed over all weights of a unit, and moves against it by Adam. Weights, where `weight_rate` is not 0, move too, by Adam against dL/dW. The
    lowest S go.

    Intuition: with plain descent S is minus the sum of dL/dW * W over the steps, and that is positive where the weight moves away from zero. What
    matters is which way training pulls a weight, not how large it was before.
    When it lies: a short training says little about single weights (a score is a sum of noisy signs), so with few steps Wanda or Fisher choose better
    at half; it is made for long training and high shares. Millions of scores learn a small source by heart (32 windows of 128 tokens: perplexity 1.7
    on those, 740 on other text), so give it a long one.
    Deviations from the paper: the lowest S go, exactly as many as asked (of the paper's two ways, the threshold on sigmoid(S) with a penalty meets no
    exact share); blocks are tiles, or whole neurons and key-value groups of heads; no distillation; no dropout. N:M is at its full share from the
    first step.
    """
    learnt = {name: torch.zeros(shape, requires_grad=True) for name, shape in shapes.items()}
    groups = [{"params": list(learnt.values()), "lr": learning_rate}]
    if weight_rate:
        groups.append({"params": weights(), "lr": weight_rate})
    optimizer = torch.optim.Adam(groups)
    for step in range(1, steps + 1):
        done = min(step / max((1 - _SETTLED) * steps, 1.0), 1.0)
        hard = decide({name: score.detach() for name, score in learnt.items()}, 1 - (1 - done) ** 3)
        masks = {name: hard[name].float() + (score - score.detach()) for name, score in learnt.items()}
        loss = backward(masks, draw(batch))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        note(step, steps, loss)
    return learnt
