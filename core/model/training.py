"""The few steps of training that follow pruning: AdamW on chosen parameters, everything else still."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from core.errors import ModelError
from core.events import Progress, Watcher
from core.model.anatomy import PRUNABLE, block_paths
from core.model.measuring.likelihood import token_losses
from core.model.memory import available_bytes

STAGE = "recover"
_HIGHEST_NORM = 1.0  # gradients are scaled down to this norm, so that one odd batch cannot undo the rest
_WARM_SHARE = 0.1
_HALVES = (torch.float16, torch.bfloat16)
KEPT_SHARE = 0.25  # of the memory that is free: more activations than that are computed anew instead of kept


@dataclass(frozen=True)
class Taught:
    """A batch of ids (batch, tokens) with a teacher: (1 - alpha) CE + alpha T^2 KL(teacher / T || own / T), over every next token."""

    ids: Tensor
    teacher: nn.Module
    alpha: float = 0.5
    temperature: float = 1.0


def train(
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    batches: Iterable[Any],
    steps: int,
    learning_rate: float,
    watcher: Watcher,
) -> list[float]:
    """Train `parameters` in place, one batch a step, at most `steps`; returns the loss of each step, in nats a token (or a label).

    A batch is int64 ids (batch, tokens), the same with a teacher (`Taught`), or (images, labels). AdamW without weight decay; the rate climbs
    over the first tenth of the steps, then falls in a straight line to nothing at the end. The model stays in evaluation mode: no dropout,
    running means still, so that the same batches give the same weights bit for bit. Raises Stopped between two steps with the
    steps done so far kept; ModelError at the first loss or gradient that is not a number, before it has touched a weight.
    """
    masters = [
        p.detach().float() if p.dtype in _HALVES else p for p in parameters
    ]  # a step may be smaller than half precision can say
    halves = [(p, master) for p, master in zip(parameters, masters, strict=True) if p is not master]
    optimizer = torch.optim.AdamW(masters, lr=learning_rate, weight_decay=0.0)
    losses: list[float] = []
    watcher.say(Progress(STAGE, 0, steps))
    with only_trains(model, parameters), torch.enable_grad(), ExitStack() as stack:
        for step, batch in zip(range(1, steps + 1), batches, strict=False):
            watcher.check()
            ids = batch.ids if isinstance(batch, Taught) else batch
            if step == 1 and isinstance(ids, Tensor) and activation_bytes(model, ids) > KEPT_SHARE * available_bytes():
                stack.enter_context(recomputed(model))
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * rate_share(step, steps)
            loss = batch_loss(model, batch)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(parameters, _HIGHEST_NORM)
            if not (torch.isfinite(loss) and torch.isfinite(norm)):
                raise ModelError(
                    f"Training failed at step {step} of {steps}: the loss or its gradient is not a number. The model is as it was before.",
                    "Lower learning_rate, or check the text and the pruned model's perplexity.",
                )
            for parameter, master in halves:
                master.grad = None if parameter.grad is None else parameter.grad.float()
            optimizer.step()
            with torch.no_grad():
                for parameter, master in halves:
                    parameter.copy_(master)
            optimizer.zero_grad(set_to_none=True)
            model.zero_grad(set_to_none=True)
            losses.append(loss.item())
            watcher.say(Progress(STAGE, step, steps, values={"loss": losses[-1]}))
    return losses


def rate_share(step: int, steps: int) -> float:
    """What share of the learning rate step 1..steps gets: a straight climb over the first tenth, a straight fall over the rest, never 0."""
    warm = max(round(_WARM_SHARE * steps), 1)
    return min(step / warm, (steps - step + 1) / (steps - warm + 1))


def batch_loss(model: nn.Module, batch: Any) -> Tensor:
    """Mean negative log-likelihood of a batch: of the next tokens of ids (batch, tokens), or of the labels of (images, labels); with a teacher, its mixture."""
    if isinstance(batch, Tensor):
        return token_losses(model, batch).mean()
    if isinstance(batch, Taught):
        return _taught_loss(model, batch)
    images, labels = batch
    output = model(images)
    return cross_entropy(getattr(output, "logits", output).float(), labels)


def _taught_loss(model: nn.Module, batch: Taught) -> Tensor:
    """Sequence by sequence, so that only one sequence's two sets of logits are made at a time."""
    parts = []
    for ids in batch.ids.split(1):
        own = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        with torch.no_grad():
            said = batch.teacher(input_ids=ids, use_cache=False).logits[0, :-1].float()
        soft, mine = (log_softmax(one / batch.temperature, dim=-1) for one in (said, own))
        far = kl_div(mine, soft, reduction="batchmean", log_target=True)
        parts.append((1 - batch.alpha) * cross_entropy(own, ids[0, 1:]) + batch.alpha * batch.temperature**2 * far)
    return torch.stack(parts).mean()


def activation_bytes(model: nn.Module, ids: Tensor) -> float:
    """About what the way back needs of the forward pass: what goes into and comes out of each linear layer, and as much again and a half between
    them (measured on Llama: 2.3 x the linear layers' own)."""
    widths = sum(module.weight.shape[0] + module.weight.shape[1] for module in model.modules() if isinstance(module, PRUNABLE))
    return 2.5 * ids.numel() * widths * next(model.parameters()).itemsize


@contextmanager
def recomputed(model: nn.Module) -> Iterator[None]:
    """Keep only what goes into each block and compute the rest anew on the way back: a third more time, a fraction of the memory, the same bits."""
    blocks = [model.get_submodule(path) for path in block_paths(model)] if isinstance(model, PreTrainedModel) else []
    blocks = [block for block in blocks if "forward" not in vars(block)]
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


@contextmanager
def only_trains(model: nn.Module, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Gradients for these parameters and no others, for as long as this lasts."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, wanted in before:
            parameter.requires_grad_(wanted)
            parameter.grad = None
