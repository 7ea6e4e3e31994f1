"""A model that is larger than memory: counted, measured and saved a block at a time, straight from its file and from what pruning wrote beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from core.errors import ModelError
from core.events import Silent, Watcher
from core.folder import write_text
from core.model import blocks
from core.model.depth.bypass import answer_in_tuples, starting_at
from core.model.loading import LoadedModel
from core.model.measuring.counts import Counts, counts, unique
from core.model.measuring.likelihood import token_losses
from core.model.memory import give_back
from core.model.observe import stream

TOLERANCE = 1e-4  # of the largest logit: other kernels may add in another order; equal weights on equal kernels give 0
_CHECK_TOKENS = 16


def counts_of(loaded: LoadedModel) -> Counts:
    """`counts`, also of a model opened block by block: what its file will take is then the sum over its parts."""
    if loaded.lazy is None:
        return counts(loaded.model, loaded.source_dtype)
    parameters = nonzero = size = 0
    for tensors in _parts(loaded, buffers=False):
        for _, tensor in unique(iter(tensors.items())):
            parameters, nonzero = parameters + tensor.numel(), nonzero + int(torch.count_nonzero(tensor))
            size += tensor.numel() * (loaded.source_dtype.itemsize if tensor.is_floating_point() else tensor.itemsize)
    return Counts(parameters, nonzero, size)


def _parts(loaded: LoadedModel, buffers: bool = True) -> Iterator[dict[str, Tensor]]:
    """The parameters (and the buffers that are saved) of what is outside the blocks, then of each block, each in memory for its turn: the mapping is
    emptied after it."""
    inside = tuple(f"{block.path}." for block in loaded.anatomy.blocks)
    with loaded.outside():
        yield from _lent({name: t for name, t in _saved(loaded.model, buffers) if not name.startswith(inside)})
    for block in loaded.anatomy.blocks:
        with loaded.block(block.index) as module:
            yield from _lent({f"{block.path}.{name}": t for name, t in _saved(module, buffers)})


def _saved(module: nn.Module, buffers: bool) -> Iterable[tuple[str, Tensor]]:
    return module.state_dict().items() if buffers else module.named_parameters()


def _lent(tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    yield tensors
    tensors.clear()  # whoever still holds the mapping holds no weights


@contextmanager
def _after_all_blocks(loaded: LoadedModel, inputs: Tensor, watcher: Watcher, stage: str) -> Iterator[None]:
    """Run inputs (sequences, tokens) through every block; the model's n-th forward inside then goes on from sequence n's last hidden states."""
    extras = blocks.arguments(loaded, inputs)
    hidden = blocks.enter(loaded, inputs[:1], 1)
    in_tuples = answer_in_tuples(loaded, hidden, extras)
    states: list[Tensor] = []
    for block, module, hidden, extra in stream(loaded, inputs, watcher, stage):
        blocks.advance(module, hidden, extra, watcher)
        if block.index == len(loaded.anatomy.blocks) - 1:
            states = [row for batch in hidden for row in batch.split(1)]
    with loaded.outside(), starting_at(loaded, len(loaded.anatomy.blocks), states, in_tuples):
        yield


def summed_losses(loaded: LoadedModel, sequences: Tensor, watcher: Watcher, stage: str) -> list[float]:
    """The negative log-likelihood of each sequence's predicted tokens together, in nats."""
    with _after_all_blocks(loaded, sequences, watcher, stage), torch.no_grad():
        return [float(token_losses(loaded.model, row[None].to(loaded.device)).cpu().double().sum()) for row in sequences]


def save_weights(loaded: LoadedModel, scratch: Path) -> None:
    """Write the weights as shards, what is outside the blocks first, then one a block, with the index that names them. Floating ones as `source_dtype`."""
    loaded.lazy.check_plain()
    place, total, count = {}, 0, len(loaded.anatomy.blocks) + 1
    for number, tensors in enumerate(_parts(loaded), 1):
        file = f"model-{number:05d}-of-{count:05d}.safetensors"
        out = {
            name: (tensor.to("cpu", loaded.source_dtype) if tensor.is_floating_point() else tensor.cpu()).contiguous()
            for name, tensor in unique(iter(tensors.items()))
        }
        if not out:
            continue
        save_file(out, scratch / file, metadata={"format": "pt"})
        place |= dict.fromkeys(out, file)
        total += sum(tensor.numel() * tensor.itemsize for tensor in out.values())
        del out
        give_back()
    index = {"metadata": {"total_size": total}, "weight_map": place}
    write_text(scratch / "model.safetensors.index.json", json.dumps(index, indent=1) + "\n")


def check_same(loaded: LoadedModel, again: LoadedModel) -> tuple[int, float]:
    """Compare two models opened block by block: (parameters that are not zero, largest difference of any output on fixed ids).

    Raises ModelError where a tensor is not the one that is rounded to the dtype it is saved in.
    """
    nonzero, parameters = 0, {name for name, _ in loaded.model.named_parameters()}
    for here, there in zip(_parts(loaded), _parts(again), strict=True):
        for name, tensor in unique(iter(here.items())):
            rounded = tensor.to(loaded.source_dtype) if tensor.is_floating_point() else tensor
            if name not in there or not torch.equal(rounded.to(there[name].dtype), there[name]):
                raise ModelError(
                    f"The saved model, read again, is not the one that was pruned: {name} differs.",
                    "Please report this with the recipe.",
                )
            nonzero += int(torch.count_nonzero(there[name])) if name in parameters else 0
    ids = torch.arange(1, _CHECK_TOKENS + 1)[None] % loaded.model.get_input_embeddings().num_embeddings
    answers = []
    for model in (loaded, again):
        with _after_all_blocks(model, ids, Silent(), "check"), torch.no_grad():
            answers.append(model.model(input_ids=ids.to(model.device), use_cache=False).logits.float().cpu())
    difference, largest = float((answers[0] - answers[1]).abs().max()), float(answers[0].abs().max())
    if not difference <= TOLERANCE * max(largest, 1.0):
        raise ModelError(
            f"The saved model, read again, answers otherwise than the one that was pruned (by up to {difference:.3g}).",
            "Please report this with the recipe; the mask is in the run folder.",
        )
    return nonzero, difference
