"""How likely a causal language model finds a text: the negative log-likelihood of each next token.

A whole batch of logits never exists: the body runs once, then head and loss run over at most `HEAD_TOKENS` positions at a time (a sequence of
2,048 tokens and a vocabulary of 128,000 would take 1 GB of float32 logits, and training three times that).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from core.errors import ModelError
from core.events import Watcher

HEAD_TOKENS = 128


def token_losses(model: nn.Module, ids: Tensor) -> Tensor:
    """Negative log-likelihood in nats of each token after the first. ids int64 (batch, tokens). Returns float32 (batch, tokens - 1).

    Log-softmax in float32 whatever the model computes in. Where gradients are on, the chunks' logits are computed anew on the way back
    instead of being kept. Raises ModelError where the model predicts no next token.
    """
    body = check_causal(model)
    output = body(input_ids=ids, use_cache=False)
    kind, hidden = type(output), output.last_hidden_state
    width = max(HEAD_TOKENS // len(ids), 1)
    losses = []
    for start in range(0, ids.shape[1] - 1, width):
        stop = min(start + width, ids.shape[1] - 1)
        chunk = (model, body, kind, hidden[:, start:stop], ids[:, start + 1 : stop + 1])
        losses.append(
            checkpoint(_chunk_losses, *chunk, use_reentrant=False) if torch.is_grad_enabled() else _chunk_losses(*chunk)
        )
    return torch.cat(losses, dim=1)


def mean_loss(model: nn.Module, batches: Iterable[Tensor], watcher: Watcher) -> float:
    """Mean negative log-likelihood in nats a token over batches of ids (sequences, tokens); infinite where it is no number. Obeys a stop between two."""
    device, total, count = next(model.parameters()).device, 0.0, 0
    for batch in batches:
        watcher.check()
        with torch.no_grad():
            losses = token_losses(model, batch.to(device))
        total, count = total + float(losses.double().sum()), count + losses.numel()
    mean = total / count
    return mean if isfinite(mean) else inf


def check_causal(model: nn.Module, so: str = "has no perplexity") -> nn.Module:
    """The body under a causal language model's head. Raises ModelError for any other model: what it is, and what follows (`so`)."""
    name = type(model).__name__
    head = getattr(model, "get_output_embeddings", lambda: None)()
    body = model.get_decoder() if hasattr(model, "get_decoder") else model
    if head is None or body is model:
        raise ModelError(
            f"{name} has no head that predicts tokens, so it {so}.", "Use a causal language model, or leave that out."
        )
    if not model.can_generate() or getattr(model.config, "is_encoder_decoder", False):
        raise ModelError(
            f"{name} does not predict each token from those before it alone, so it {so}.",
            "Leave that out for this model; counts, latency and (for classifiers) accuracy can be measured.",
        )
    return body


def _chunk_losses(model: nn.Module, body: nn.Module, kind: type, hidden: Tensor, targets: Tensor) -> Tensor:
    """Losses of one chunk of positions: hidden (batch, width, features), targets (batch, width) -> float32 (batch, width)."""
    with _body_answers(body, kind(last_hidden_state=hidden)):
        logits = model(input_ids=targets, use_cache=False).logits
    return cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)


@contextmanager
def _body_answers(body: nn.Module, output: Any) -> Iterator[None]:
    """Let the body give `output` unseen, so that the model's own forward puts on it all that it does after the body.

    Calling lm_head directly would miss what some families do around it (soft caps, scales, a dense layer before it).
    Raises ModelError where the model's forward does not ask its body (its losses would be those of another input).
    """
    asked = []

    def answer(*args: Any, **kwargs: Any) -> Any:
        asked.append(True)
        return output

    before = vars(body).get("forward")
    body.forward = answer
    try:
        yield
    finally:
        if before is None:
            del body.forward
        else:
            body.forward = before
    if not asked:
        raise ModelError(
            f"The head of this model cannot be run apart from {type(body).__name__}, so its perplexity cannot be taken.",
            "Leave perplexity out for this model, and please report its architecture.",
        )
