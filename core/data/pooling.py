"""Run texts through a transformer and pool what one of its modules puts out over each text's tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from core.errors import DataError
from core.events import Progress, Watcher

STAGE = "embed"
_BATCH_TOKENS = 8192
CHUNK_ROWS = 512  # what a stop loses at the most; texts of like length are looked for among so many


class _Reached(Exception):
    """The module has answered: what comes after it need not be computed."""


def fast_dtype() -> torch.dtype:
    """bfloat16 where this processor multiplies it natively, else float32."""
    native = any(getattr(torch.cpu, name, bool)() for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return torch.bfloat16 if native else torch.float32


def pooled(
    texts: Sequence[str],
    tokenizer: Any,
    model: nn.Module,
    module: nn.Module,
    tokens: int,
    watcher: Watcher,
    *,
    pool: str = "mean",
    start: int = 0,
) -> Iterator[np.ndarray]:
    """What `module` puts out for each text's first `tokens` tokens: their mean, or that of the last token; float32 (CHUNK_ROWS, hidden) at a time, from
    row `start` on.

    Texts of like length in a chunk share a batch, so that little is padded. Progress a batch; obeys a stop between two.
    """
    for first in range(start, len(texts), CHUNK_ROWS):
        ids = _tokenized(list(texts[first : first + CHUNK_ROWS]), tokenizer, tokens)
        order = sorted(range(len(ids)), key=lambda at: (len(ids[at]), at))
        out: np.ndarray | None = None
        done = 0
        for batch in _batches(order, ids):
            watcher.check()
            found = _of_batch([ids[at] for at in batch], model, module, pool)
            out = np.empty((len(ids), found.shape[1]), np.float32) if out is None else out
            out[batch] = found
            done += len(batch)
            watcher.say(Progress(STAGE, first + done, len(texts)))
        if out is not None:
            yield out


def _of_batch(rows: list[list[int]], model: nn.Module, module: nn.Module, pool: str) -> np.ndarray:
    with torch.inference_mode():
        padded, mask = _padded(rows, model)
        hidden = output_of(module, lambda: model(input_ids=padded, attention_mask=mask)).float()
        if pool == "last":
            last = mask.sum(1) - 1
            return hidden[torch.arange(len(rows), device=hidden.device), last].cpu().numpy()
        return ((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).cpu().numpy()


def batches(texts: Sequence[str], tokenizer: Any, model: nn.Module, tokens: int) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """(positions of the texts, ids, mask) a batch, both (rows, longest), padded on the right. Texts of like length share a batch."""
    ids = _tokenized(list(texts), tokenizer, tokens)
    order = sorted(range(len(ids)), key=lambda at: (len(ids[at]), at))
    for batch in _batches(order, ids):
        yield batch, *_padded([ids[at] for at in batch], model)


def output_of(module: nn.Module, forward: Callable[[], Any]) -> Tensor:
    """What `module` puts out during `forward()`; the rest of the forward pass is left away."""
    with _hooked(module) as seen:
        with suppress(_Reached):
            forward()
        if not seen:
            raise DataError("The model never reached the block that was asked for.", "Choose another block.")
        return seen[0]


@contextmanager
def _hooked(module: nn.Module) -> Iterator[list[Tensor]]:
    seen: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        first = output if isinstance(output, Tensor) else output[0]
        seen.append(first)
        raise _Reached

    hook = module.register_forward_hook(keep)
    try:
        yield seen
    finally:
        hook.remove()


def _tokenized(texts: list[str], tokenizer: Any, tokens: int) -> list[list[int]]:
    ids = tokenizer(texts, truncation=True, max_length=tokens, padding=False, return_attention_mask=False)["input_ids"]
    spare = next((one for one in (tokenizer.eos_token_id, tokenizer.bos_token_id, 0) if one is not None), 0)
    return [row or [spare] for row in ids]  # a text of which the tokenizer makes nothing still needs one token


def _batches(order: list[int], ids: list[list[int]]) -> Iterator[list[int]]:
    batch: list[int] = []
    for at in order:
        if (batch and (len(batch) + 1) * len(ids[at]) > _BATCH_TOKENS) or len(batch) == 64:
            yield batch
            batch = []
        batch.append(at)
    if batch:
        yield batch


def _padded(rows: list[list[int]], model: nn.Module) -> tuple[Tensor, Tensor]:
    """ids and mask (rows, longest), padded on the right with id 0, which the mask hides."""
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    device = next(model.parameters()).device
    return ids.to(device), mask.to(device)
