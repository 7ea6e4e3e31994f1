"""A model as a chain of blocks: hidden states wait at the entrance of one block, and move through it batch by batch.

Memory is the hidden states of the calibration set once, plus the activations of one batch inside one block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from core.errors import ModelError
from core.events import Watcher
from core.model.loading import LoadedModel

BATCH_TOKENS = 512  # enough to keep the matrix products busy; more only makes a block's activations larger
BATCH_IMAGES = 32
_SPARE_POSITIONS = 8  # more rows than positions: OPT and RoBERTa have two
Hidden = list[Tensor]
Arguments = tuple[tuple[Any, ...], dict[str, Any]]
Return = TypeVar("Return")


class _Reached(Exception):
    """Ends a forward at a block: what comes after it is not needed."""


def enter(loaded: LoadedModel, inputs: Tensor, batch: int | None = None) -> Hidden:
    """Hidden states at the entrance of the first block, batch by batch. inputs: ids (sequences, tokens), or pixels (n, c, h, w)."""
    hidden: Hidden = []
    batch = batch or (max(BATCH_TOKENS // inputs.shape[1], 1) if inputs.dim() == 2 else BATCH_IMAGES)

    def catch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden.append(_first(args, kwargs).detach())
        raise _Reached

    first = _first_block(loaded)
    handle = first.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        with torch.inference_mode(False), torch.no_grad(), loaded.outside():
            for part in inputs.split(batch):
                try:
                    call(loaded, part)
                except _Reached:
                    continue
                raise ModelError(
                    "The model's forward never reaches its first block.", "Use an unstructured criterion without activations."
                )
    finally:
        handle.remove()
    return hidden


def arguments(loaded: LoadedModel, inputs: Tensor) -> list[Arguments]:
    """What the model hands each block besides the hidden state (positions, masks), taken from one forward of one sequence.

    What has a leading dimension of 1 there broadcasts over a batch; `batch_for` says where something has not.
    """
    found = _noted(loaded, inputs[:1])
    if len(inputs) > 1 and inputs.dim() == 2:
        other = _noted(loaded, inputs[1:2])
        if any(_differ(a, b) for a, b in zip(found, other, strict=True)):
            raise ModelError(
                "The blocks of this model are handed something that depends on the text, so text cannot wait between them.",
                "Use magnitude or random, which need no activations.",
            )
    return found


def _differ(one: Any, other: Any) -> bool:
    """Do two blocks' arguments hold different numbers?"""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape != other.shape or not torch.equal(one, other)
    if isinstance(one, dict):
        return any(_differ(one[key], other.get(key)) for key in one)
    if isinstance(one, (tuple, list)) and isinstance(other, (tuple, list)):
        return any(_differ(a, b) for a, b in zip(one, other, strict=False))
    return False


def _noted(loaded: LoadedModel, inputs: Tensor) -> list[Arguments]:
    """The arguments of every block in one forward that ends at the last block. Raises ModelError where a block is not given what the one before gave."""
    _first_block(loaded)
    found: list[Arguments] = []
    given: list[Tensor] = []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        before = _first(args, kwargs)
        if given and not _same(given.pop(), before):
            names = [loaded.anatomy.blocks[place].name for place in (len(found) - 1, len(found))]
            raise ModelError(
                f"Between {names[0]} and {names[1]} {type(loaded.model).__name__} does something of its own, so nothing can wait between them.",
                "Use magnitude or random, which need no activations.",
            )
        found.append((args[1:], {key: value for key, value in kwargs.items() if key != "hidden_states"}))

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        given.append(output[0] if isinstance(output, tuple) else output)

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        raise _Reached  # the head's logits would cost more memory than all the blocks

    held: list[Any] = []

    def bring(index: int) -> Callable[..., None]:
        def before(module: nn.Module, args: Any) -> None:
            held.append(loaded.block(index))
            held[-1].__enter__()

        return before

    def let_go(module: nn.Module, args: Any, output: Any) -> None:
        held.pop().__exit__(None, None, None)

    modules = [loaded.module(block.path) for block in loaded.anatomy.blocks]
    handles = [module.register_forward_pre_hook(bring(index)) for index, module in enumerate(modules)]
    handles += [module.register_forward_pre_hook(note, with_kwargs=True) for module in modules]
    handles += [module.register_forward_hook(keep) for module in modules[:-1]]
    handles += [module.register_forward_hook(let_go) for module in modules]
    handles.append(modules[-1].register_forward_hook(leave))
    try:
        with torch.no_grad(), loaded.outside(), suppress(_Reached):
            call(loaded, inputs)
    finally:
        while held:
            held.pop().__exit__(None, None, None)
        for handle in handles:
            handle.remove()
    if len(found) != len(loaded.anatomy.blocks):
        raise ModelError(
            "The model does not call each of its blocks once.", "Use magnitude or random, which need no activations."
        )
    return found


def _same(given: Tensor, before: Tensor) -> bool:
    """Whether a block is given what the one before it gave (their numbers, where weights are there to make any)."""
    return given is before or (given.shape == before.shape and (given.is_meta or torch.equal(given, before)))


def batch_for(extras: list[Arguments]) -> int | None:
    """Sequences at a time: 1 where a block is handed something that does not broadcast (Bloom's biases, a row a head), else None: as usual."""

    def alone(value: Any) -> bool:
        if isinstance(value, Tensor):
            return value.dim() > 2 and len(value) != 1
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ()
        return any(alone(part) for part in parts)

    return 1 if any(alone(extra) for extra in extras) else None


def through(block: nn.Module, hidden: Hidden, extra: Arguments, watcher: Watcher) -> Iterator[tuple[int, Tensor]]:
    """Run every batch through a block: yields (batch number, hidden states after it). Obeys a stop between two batches."""
    args, kwargs = extra
    for number, before in enumerate(hidden):
        watcher.check()
        with torch.no_grad():
            after = block(before, *args, **kwargs)
        yield number, after[0] if isinstance(after, tuple) else after


def advance(block: nn.Module, hidden: Hidden, extra: Arguments, watcher: Watcher) -> None:
    """Move all hidden states through a block, in place: one copy is in memory at a time."""
    for number, after in through(block, hidden, extra, watcher):
        replace(hidden, number, after)


def replace(hidden: Hidden, number: int, after: Tensor) -> None:
    """Put a batch's new hidden states in the place of its old ones: into the same memory where they fit, so that the heap does not tear."""
    if hidden[number].shape == after.shape and hidden[number].dtype == after.dtype:
        hidden[number].copy_(after)
    else:
        hidden[number] = after


def call(loaded: LoadedModel, inputs: Tensor) -> Any:
    """One forward of the whole model on ids or pixels, without a cache of keys and values."""
    inputs = inputs.to(loaded.device)
    if loaded.anatomy.kind == "decoder":
        return loaded.model(input_ids=inputs, use_cache=False)
    if loaded.anatomy.kind == "encoder":
        return loaded.model(input_ids=inputs)
    return loaded.model(inputs)


def known_ids(loaded: LoadedModel, ids: Tensor) -> Tensor:
    """The same ids. Raises ModelError where they are longer than the model reads, or name a token that it has no embedding for."""
    check_context(loaded, ids.shape[-1])
    table = loaded.model.get_input_embeddings() if hasattr(loaded.model, "get_input_embeddings") else None
    rows = getattr(table, "num_embeddings", None)
    if rows is not None and ids.numel() and int(ids.max()) >= rows:
        raise ModelError(
            f"The tokenizer gives token {int(ids.max()):,}, and the model has embeddings for {rows:,} tokens only.",
            "The tokenizer belongs to another model: put the model's own tokenizer files into its folder.",
        )
    return ids


def check_context(loaded: LoadedModel, tokens: int) -> None:
    """Raise ModelError where the model has a table of positions and reads fewer tokens at a time: it would fail in the middle. Positions that are computed
    (rotary ones) have no end."""
    most = loaded.anatomy.context
    if most and tokens > most and _position_table(loaded.model, most):
        raise ModelError(
            f"{loaded.name} reads at most {most:,} tokens at a time, and {tokens:,} are asked for.",
            f"Say tokens: {most}, or fewer.",
        )


def _position_table(model: nn.Module, most: int) -> bool:
    """Is there a table with a row for each position? Some families keep a few rows more."""
    words = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    tables = (part for part in model.modules() if isinstance(part, nn.Embedding) and part is not words)
    return any(most <= table.num_embeddings <= most + _SPARE_POSITIONS for table in tables)


def _first_block(loaded: LoadedModel) -> nn.Module:
    if not loaded.anatomy.blocks:
        raise ModelError(
            "This model has no chain of blocks to go through.", "Use magnitude or random, which need no activations."
        )
    return loaded.module(loaded.anatomy.blocks[0].path)


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return args[0] if args else kwargs["hidden_states"]
