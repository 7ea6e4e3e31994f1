"""One pass of a model over rows that collects what every block puts out, pooled, kept in the cache by content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from core.builtins import cache_dir
from core.data.dataset import Dataset
from core.data.images import prepared, stratified
from core.data.pooling import batches
from core.data.selection import generator
from core.errors import DataError, ModelError
from core.events import Progress, Watcher
from core.model.blocks import check_context
from core.model.files.source import fingerprint
from core.model.loading import LoadedModel
from core.recipe import ByLayer

STAGE = "read"
HEAD = "head"  # what an image classifier's last layer reads
_IMAGES_A_BATCH = 64
_MOST_BYTES = 1_000_000_000  # that the vectors of all blocks may take together
_CACHE_BYTES = 4_000_000_000
_FORMAT = 1


@dataclass(frozen=True)
class Spaces:
    """The rows in each block. `labels`: "input" before the first block, then the blocks' names, then HEAD for an image classifier. `vectors`: float32 (rows,
    width) each. `weights` (classes, width) of the last layer and the model's `answers` (rows,): of image classifiers, else None."""

    name: str
    labels: tuple[str, ...]
    vectors: tuple[np.ndarray, ...]
    weights: np.ndarray | None = None
    answers: np.ndarray | None = None


def rows_taken(dataset: Dataset, most: int, widths: int, seed: int) -> np.ndarray:
    """Positions of the rows that take part, sorted: all, or as many as are asked for and fit in memory, class by class in proportion (without labels: by
    chance). widths: features of all blocks together."""
    count = min(len(dataset), most, max(_MOST_BYTES // (4 * max(widths, 1)), 20))
    if count == len(dataset):
        return np.arange(count)
    if dataset.labels is not None:
        return stratified(dataset.labels, count, seed)
    return np.sort(generator(seed, "geometry").permutation(len(dataset))[:count])


def collect(loaded: LoadedModel, dataset: Dataset, ask: ByLayer, watcher: Watcher, said: str = "") -> Spaces:
    """`said`: what else decides the vectors besides the model's file (steps that pruned it, a mask), or they are not the cache's. Raises DataError where the
    model cannot read these rows or a vector is not finite, ModelError for a model without blocks."""
    _check(loaded, dataset)
    file = _kept_at(loaded, dataset, ask, said)
    if file.exists():
        watcher.say(
            Progress(STAGE, kind="note", text="These rows were read by this model before; what its blocks said is used again.")
        )
        return _read(file, loaded.name)
    taken = (
        _texts(loaded, dataset, ask, watcher) if loaded.anatomy.kind != "image_classifier" else _images(loaded, dataset, watcher)
    )
    _check_finite(taken, dataset, loaded.name)
    _keep(file, taken, watcher)
    return taken


def _check(loaded: LoadedModel, dataset: Dataset) -> None:
    if not loaded.anatomy.blocks:
        raise ModelError(
            f"{loaded.name} has no blocks, so its data has no geometry by block.",
            "Open a language model, an encoder or an image classifier.",
        )
    images = loaded.anatomy.kind == "image_classifier"
    if images and dataset.images is None:
        raise DataError(
            f"{loaded.name} reads images, and {dataset.name} has none.",
            "Open images, such as builtin:mnist5k, or a language model.",
        )
    if not images and (dataset.texts is None or loaded.tokenizer is None):
        why = (
            f"{loaded.name} has no tokenizer"
            if loaded.tokenizer is None
            else f"{loaded.name} reads texts, and {dataset.name} has none"
        )
        raise DataError(f"{why}.", "Open texts with a language model, or images with an image classifier.")


def _texts(loaded: LoadedModel, dataset: Dataset, ask: ByLayer, watcher: Watcher) -> Spaces:
    assert dataset.texts is not None
    out: list[np.ndarray] = []
    done, total = 0, len(dataset)
    watcher.say(Progress(STAGE, 0, total))
    with torch.inference_mode(), _listening(loaded) as heard:
        for positions, ids, mask in batches(dataset.texts, loaded.tokenizer, loaded.model, ask.tokens):
            watcher.check()
            heard.clear()
            check_context(loaded, ids.shape[1])
            loaded.model(input_ids=ids, attention_mask=mask)
            found = [_pooled(hidden, mask, ask.pool) for hidden in heard]
            out = out or [np.empty((total, part.shape[1]), np.float32) for part in found]
            for whole, part in zip(out, found, strict=True):
                whole[positions] = part
            done += len(positions)
            watcher.say(Progress(STAGE, done, total))
    return Spaces(loaded.name, ("input", *(block.name for block in loaded.anatomy.blocks)), tuple(out))


def _pooled(hidden: Tensor, mask: Tensor, pool: str) -> np.ndarray:
    """(rows, tokens, width) -> float32 (rows, width): the mean over real tokens, or the last real one."""
    hidden = hidden.float()
    if pool == "last":
        return hidden[torch.arange(len(hidden)), mask.sum(1) - 1].cpu().numpy()
    return ((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).cpu().numpy()


def _images(loaded: LoadedModel, dataset: Dataset, watcher: Watcher) -> Spaces:
    assert dataset.images is not None
    head = _last_linear(loaded)
    first = next(loaded.model.parameters())
    parts: list[list[np.ndarray]] = []
    answers: list[np.ndarray] = []
    total = len(dataset)
    watcher.say(Progress(STAGE, 0, total))
    with torch.inference_mode(), _listening(loaded, head) as heard:
        for start in range(0, total, _IMAGES_A_BATCH):
            watcher.check()
            heard.clear()
            batch = prepared(dataset.images[start : start + _IMAGES_A_BATCH], loaded.location.path if loaded.location else None)
            output = loaded.model(pixel_values=torch.from_numpy(batch).to(first))
            parts.append([_of_places(hidden) for hidden in heard])
            answers.append(output.logits.argmax(-1).cpu().numpy())
            watcher.say(Progress(STAGE, min(start + _IMAGES_A_BATCH, total), total))
    vectors = tuple(np.concatenate(part) for part in zip(*parts, strict=True))
    labels = ("input", *(block.name for block in loaded.anatomy.blocks), *((HEAD,) if head is not None else ()))
    weights = None if head is None else head.weight.detach().float().cpu().numpy()
    return Spaces(loaded.name, labels, vectors, weights, np.concatenate(answers))


def _of_places(hidden: Tensor) -> np.ndarray:
    """Mean over places: (rows, channels, height, width) or (rows, places, width) -> float32 (rows, features)."""
    hidden = hidden.float()
    dims = {4: (2, 3), 3: (1,)}.get(hidden.ndim)
    return (hidden.mean(dim=dims) if dims else hidden.flatten(1)).cpu().numpy()


def _last_linear(loaded: LoadedModel) -> nn.Linear | None:
    classes = getattr(loaded.model.config, "num_labels", None)
    found = [part for part in loaded.model.modules() if isinstance(part, nn.Linear) and part.out_features == classes]
    return found[-1] if found else None


@contextmanager
def _listening(loaded: LoadedModel, head: nn.Module | None = None) -> Iterator[list[Tensor]]:
    """A list that each forward fills: what goes into the first block, what each block puts out, what the head reads."""
    heard: list[Tensor] = []

    def enters(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        heard.append(args[0] if args else kwargs["hidden_states"])

    def leaves(_: nn.Module, __: Any, output: Any) -> None:
        heard.append(output if isinstance(output, Tensor) else output[0])

    modules = [loaded.module(block.path) for block in loaded.anatomy.blocks]
    hooks = [
        modules[0].register_forward_pre_hook(enters, with_kwargs=True),
        *(module.register_forward_hook(leaves) for module in modules),
    ]
    if head is not None:
        hooks.append(head.register_forward_pre_hook(enters, with_kwargs=True))
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


def _check_finite(spaces: Spaces, dataset: Dataset, name: str) -> None:
    for label, vectors in zip(spaces.labels, spaces.vectors, strict=True):
        broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(broken):
            rows = ", ".join(str(row) for row in dataset.row[broken[:5]])
            raise DataError(
                f"{name} gives no finite vector in {label} for {len(broken)} rows (the first: {rows}).",
                "Check the model's weights, compute in float32, or leave those rows out.",
            )


def _kept_at(loaded: LoadedModel, dataset: Dataset, ask: ByLayer, said: str) -> Path:
    """The file that holds these vectors: named by the rows, the weights and all else that decides them."""
    weights = fingerprint(loaded.location) if loaded.location else ""
    told = [
        _FORMAT,
        dataset.fingerprint,
        weights,
        said,
        str(next(loaded.model.parameters()).dtype),
        ask.pool,
        ask.tokens,
        torch.get_num_threads(),
    ]
    return cache_dir() / "geometry" / f"{hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]}.npz"


def _read(file: Path, name: str) -> Spaces:
    with np.load(file, allow_pickle=False) as found:
        labels = tuple(str(label) for label in found["labels"])
        weights, answers = (found.get(part) for part in ("weights", "answers"))
        return Spaces(name, labels, tuple(found[f"v{at}"] for at in range(len(labels))), weights, answers)


def _keep(file: Path, spaces: Spaces, watcher: Watcher) -> None:
    """Write the vectors, and let the oldest go where the cache has grown too large. A full disk costs the cache, not the run."""
    arrays = {f"v{at}": vectors for at, vectors in enumerate(spaces.vectors)} | {"labels": np.array(spaces.labels)}
    arrays |= {part: value for part, value in (("weights", spaces.weights), ("answers", spaces.answers)) if value is not None}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch = file.with_suffix(".new.npz")
        np.savez(scratch, **arrays)  # type: ignore[arg-type]
        scratch.replace(file)
    except OSError as error:
        watcher.say(Progress(STAGE, kind="note", text=f"The vectors could not be kept for another time: {error}"))
        return
    total = 0
    for path in sorted(file.parent.glob("*.npz"), key=lambda one: one.stat().st_mtime, reverse=True):
        total += path.stat().st_size
        if total > _CACHE_BYTES and path != file:
            path.unlink(missing_ok=True)


def widths(loaded: LoadedModel) -> int:
    """Features of all blocks together, as far as they are known before reading (0 where widths change from block to block)."""
    return loaded.anatomy.hidden * (len(loaded.anatomy.blocks) + 1)
