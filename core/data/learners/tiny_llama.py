"""A language model from scratch: two Llama blocks that learn the next token of the texts."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from core.data.learners import Fitted, Task
from core.data.learners.descent import descend, device_of, seeded, taught

TOKENS = 128  # a text is cut after so many
_RATE = 4e-3
_ROWS_AT_ONCE = 64
_LEFT_OUT = -100  # cross_entropy's own sign for a place that is not predicted


def tokens(texts: list[str]) -> list[np.ndarray]:
    """Each text as the ids of the built-in tiny-llama's tokenizer, its end marked, at most TOKENS of them."""
    from transformers import PreTrainedTokenizerFast

    from core import builtins

    tokenizer = PreTrainedTokenizerFast.from_pretrained(builtins.location("tiny-llama"))
    end = tokenizer.eos_token_id
    return [np.array([end, *ids[: TOKENS - 2], end], dtype=np.int64) for ids in tokenizer(list(texts))["input_ids"]]


def train(task: Task) -> Fitted:
    """A Llama of two blocks (64 wide, 4,096 ids, tied embeddings, 0.4 M weights); the figure is the held-out perplexity a token.

    task.inputs: the ids of each text (`tokens`). Padding is never predicted. With a teacher, the KL is over the next token at every place.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=4096, hidden_size=64, intermediate_size=176, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
        max_position_embeddings=TOKENS, tie_word_embeddings=True, attn_implementation="sdpa", bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    device = device_of(task.device)
    with seeded(task.seed):
        model = LlamaForCausalLM(config).to(device).train()

    def batch_of(positions: np.ndarray) -> Tensor:
        """(rows, longest), filled up with _LEFT_OUT."""
        rows = [torch.from_numpy(task.inputs[at]) for at in positions]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=_LEFT_OUT).to(device)

    def logits(batch: Tensor) -> Tensor:
        """(predicted places of the batch, ids)."""
        hidden = model.model(batch.clamp(min=0)[:, :-1], use_cache=False).last_hidden_state
        return model.lm_head(hidden[batch[:, 1:] != _LEFT_OUT])

    def target(batch: Tensor) -> Tensor:
        return batch[:, 1:][batch[:, 1:] != _LEFT_OUT]

    def loss_of(positions: np.ndarray) -> Tensor:
        batch = batch_of(positions)
        return taught(logits(batch), target(batch), task.teacher, batch)

    @torch.no_grad()
    def row_losses(positions: np.ndarray) -> np.ndarray:
        """Mean loss of each row, in nats a token."""
        out = []
        for start in range(0, len(positions), _ROWS_AT_ONCE):
            task.watcher.check()
            batch = batch_of(positions[start : start + _ROWS_AT_ONCE])
            places = (batch[:, 1:] != _LEFT_OUT).cpu()
            each = torch.zeros(places.shape).masked_scatter_(
                places, F.cross_entropy(logits(batch), target(batch), reduction="none").cpu()
            )
            out.append((each.sum(dim=1) / places.sum(dim=1)).numpy())
        return np.concatenate(out)

    weights = np.array([len(task.inputs[at]) - 1 for at in task.test], dtype=np.float64)

    def figure_of() -> float:
        return math.exp(min(float(np.average(row_losses(task.test), weights=weights)), 700.0))

    history = descend("tiny-llama", task, model, loss_of, figure_of, _RATE)
    model.eval()
    return Fitted(history, row_losses, logits)
