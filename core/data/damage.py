"""The damage map: which groups of rows a model gives up when one layer is pruned, and when all are. The link between a model's budget and its data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from core import folder
from core.data.clusters import distinctive_words, spherical_kmeans
from core.data.dataset import Dataset, need_labels
from core.data.embedding import embed
from core.data.images import prepared, stratified
from core.data.loading import load
from core.data.pooling import batches
from core.data.selection import generator as random_of
from core.errors import DataError, ModelError
from core.events import Progress, Silent, Watcher
from core.method import Method, get
from core.model import blocks
from core.model.anatomy import Layer
from core.model.gradients import gradients_of
from core.model.loading import LoadedModel
from core.model.looking.redundancy import debiased_cka
from core.model.masks import PackedMask, decide, generator
from core.model.observe import Statistics, have, matrix, observe_block, statistics_of, stream
from core.recipe import Damage, Embedding, Recipe

FORMAT = 1
STAGE = "damage"
_IMAGES_A_BATCH = 64
_MOST_BYTES = 1_000_000_000  # that the final representations of all cells may take
FEWEST = 4  # rows that a CKA needs
Cell = tuple[str, float]  # layer, level ("*" for all layers together; level 0 where each has its own share)
TOGETHER = "*"


@dataclass(frozen=True)
class Answers:
    """What a model says of one batch: log_probs float32 (predictions, answers), right (predictions,), `row` of each prediction; state (rows, width)."""

    log_probs: Tensor
    right: Tensor
    row: Tensor
    state: Tensor


@dataclass
class _Sums:
    """Of one cell, by row: the rise of the loss and the divergence, summed over predictions; the final representation."""

    loss: np.ndarray
    jsd: np.ndarray
    state: list[np.ndarray] = field(default_factory=list)


def jensen_shannon(one: Tensor, two: Tensor) -> Tensor:
    """Jensen-Shannon divergence in nats of each two distributions, given as logarithms (n, answers): mean of either one's Kullback-Leibler divergence from
    their middle, 0..ln 2. (n,)."""
    middle = torch.logaddexp(one, two) - log(2)
    halves = [(part.exp() * (part - middle)).nan_to_num(0.0).sum(-1) for part in (one, two)]
    return ((halves[0] + halves[1]) / 2).clamp(0, log(2))


def run_damage(recipe: Recipe, path: Path, watcher: Watcher, loaded: LoadedModel, calibration: Tensor) -> dict[str, Any]:
    """Measure the map that `recipe.damage` asks for, write damage.json, return the report's field. The model's weights are afterwards what they were, bit
    for bit. Raises DataError, ModelError where model and data do not fit."""
    assert recipe.damage is not None and recipe.data is not None
    ask, whole = recipe.damage, load(recipe.data)
    _check(loaded, whole)
    cells = _cells(loaded, ask)
    rows = _taken(whole, ask, len(cells), loaded, recipe.seed)
    names, words, group = _groups(rows, recipe, loaded, watcher)
    masks = _masks(loaded, ask, cells, calibration, recipe.seed, watcher)
    told = _measured(loaded, rows, group, len(names), ask, cells, masks, watcher)
    found = {
        "format": FORMAT, "model": recipe.model.source, "method": ask.method, "structure": ask.structure, "by": ask.by,  # type: ignore[union-attr]
        "data": {"source": recipe.data.source, "name": whole.name, "rows": len(rows), "of": len(whole)},
        "groups": [{"name": name, "words": list(words[at]), "rows": [int(row) for row in rows.row[group == at]]} for at, name in enumerate(names)],
        "layers": [layer.name for layer in loaded.anatomy.layers if any(cell[0] == layer.name for cell in cells)],
        "unit": "token" if rows.images is None else "picture",
        "levels": list(dict.fromkeys(level for _, level in cells)), "shares": ask.shares, **told,
        "protocol": {"tokens": ask.tokens, "calibration": [int(size) for size in calibration.shape],
                     "scores": "of the dense model", "seed": recipe.seed, "divergence": "Jensen-Shannon, nats, mean over predictions"},
    }  # fmt: skip
    folder.write_json(path / folder.DAMAGE, found)
    return {**found, "groups": [{**one, "rows": len(one["rows"])} for one in found["groups"]]}


def _check(loaded: LoadedModel, dataset: Dataset) -> None:
    kind = loaded.anatomy.kind
    if kind == "image_classifier":
        if dataset.images is None:
            raise DataError(f"{loaded.name} reads images, and {dataset.name} has none.", "Open images, or a language model.")
        need_labels(dataset, "the loss of a classifier")
    elif kind != "decoder" or loaded.tokenizer is None:
        raise ModelError(
            f"{loaded.name} predicts no next token, so there is no loss to damage.",
            "Use a language model or an image classifier.",
        )
    elif dataset.texts is None:
        raise DataError(f"{loaded.name} reads texts, and {dataset.name} has none.", "Open texts, or an image classifier.")


def _cells(loaded: LoadedModel, ask: Damage) -> list[Cell]:
    """What is pruned each time, layer by layer and then all together, level by level."""
    layers = [layer for layer in loaded.anatomy.layers if layer.block is not None]
    if not layers:
        raise ModelError(f"{loaded.name} has no layers in blocks to prune.", "Use a language model or an image classifier.")
    if ask.shares:
        cut = [layer.name for layer in layers if _share(layer, ask, 0.0)]
        if not cut:
            raise ModelError(
                "The budget removes nothing from any layer of this model.", "Name its layers or blocks, such as blocks.0."
            )
        return [*((name, 0.0) for name in cut), (TOGETHER, 0.0)]
    return [(name, level) for level in ask.levels for name in (*(layer.name for layer in layers), TOGETHER)]


def _share(layer: Layer, ask: Damage, level: float) -> float:
    return level or ask.shares.get(layer.name, ask.shares.get(f"blocks.{layer.block}", 0.0))


def _taken(whole: Dataset, ask: Damage, cells: int, loaded: LoadedModel, seed: int) -> Dataset:
    """The rows that take part: as many as are asked for, and as fit in memory."""
    width = loaded.anatomy.hidden or 1024
    count = min(len(whole), ask.rows, max(_MOST_BYTES // (4 * width * (cells + 1)), FEWEST))
    if count == len(whole):
        return whole
    if whole.labels is not None:
        return whole.part(stratified(whole.labels, count, seed))
    return whole.part(np.sort(random_of(seed, "damage").permutation(len(whole))[:count]))


def _groups(
    rows: Dataset, recipe: Recipe, loaded: LoadedModel, watcher: Watcher
) -> tuple[list[str], Sequence[Sequence[str]], np.ndarray]:
    """(names, the words that set each group's texts apart, each row's group). No words for classes, which have a name, and for images."""
    assert recipe.damage is not None
    if recipe.damage.by == "labels":
        labels = need_labels(rows, "damage by label")
        present = np.unique(labels)
        return [str(rows.label_names[at]) for at in present], [()] * len(present), np.searchsorted(present, labels)
    source = recipe.embedding
    if source.source == "pixels" and rows.images is None:
        source = Embedding(source="tfidf")  # nobody said how: pixels are the default, and these rows have none
    vectors = embed(rows, source, loaded, watcher, recipe.seed)
    clusters = spherical_kmeans(vectors, recipe.clusters.count, recipe.seed, Silent())
    words = [()] * len(clusters) if rows.texts is None else distinctive_words(list(rows.texts), clusters)
    return [f"cluster {at}" for at in range(len(clusters))], words, clusters.assignment


def _masks(
    loaded: LoadedModel, ask: Damage, cells: list[Cell], calibration: Tensor, seed: int, watcher: Watcher
) -> dict[Cell, PackedMask]:
    """What stays of each layer at each level, by the dense model's scores, packed."""
    method = get("score", ask.method)
    gradients = gradients_of(loaded, [method], calibration, watcher)
    out: dict[Cell, PackedMask] = {}
    for block, module, hidden, extra in stream(loaded, calibration, watcher, "observe for damage"):
        found = observe_block(loaded, block, module, hidden, extra, sorted(statistics_of([method])), watcher, keep_outputs=True)[
            0
        ]
        for layer in block.layers:
            wanted = [level for name, level in cells if name == layer.name]
            known = found[layer.name] | gradients.pop(layer.name, {})
            scores = _scores(loaded, layer, method, known, seed) if wanted else None
            for level in wanted:
                assert scores is not None
                keep = decide(scores, ask.structure, _share(layer, ask, level), method.card.compare, layer.name)
                out[layer.name, level] = PackedMask.of(keep)
    return out


def _scores(loaded: LoadedModel, layer: Layer, method: Method, known: Statistics, seed: int) -> Tensor:
    weight = matrix(layer, loaded.module(layer.path).weight.detach()).float()
    return method(have(weight, tuple(weight.shape), generator(seed, layer.name), known))


@contextmanager
def pruned(loaded: LoadedModel, masks: Mapping[str, PackedMask]) -> Iterator[None]:
    """These layers pruned by their masks, and put back bit for bit at the end."""
    saved: dict[str, Tensor] = {}
    try:
        for name, mask in masks.items():
            layer = loaded.anatomy.layer(name)
            weight = loaded.module(layer.path).weight
            saved[layer.path] = weight.detach().clone()
            matrix(layer, weight.data).masked_fill_(~mask.unpack().to(weight.device), 0.0)
        yield
    finally:
        for path, before in saved.items():
            loaded.module(path).weight.data.copy_(before)


def _measured(loaded: LoadedModel, rows: Dataset, group: np.ndarray, groups: int, ask: Damage, cells: list[Cell],
              masks: Mapping[Cell, PackedMask], watcher: Watcher) -> dict[str, Any]:  # fmt: skip
    """Every batch is read by the dense model once and by each pruned one; only sums by row and final representations outlive a batch."""
    sums = {cell: _Sums(np.zeros(len(rows)), np.zeros(len(rows))) for cell in cells}
    dense = _Sums(np.zeros(len(rows)), np.zeros(len(rows)))
    count, order = np.zeros(len(rows), np.int64), []
    parts = _batches(loaded, rows, ask)
    total = len(parts) * len(cells)
    for number, (positions, batch) in enumerate(parts):
        said = read(loaded, batch)
        place = np.asarray(positions)
        order.append(place)
        own = -said.log_probs.gather(1, said.right[:, None])[:, 0]
        np.add.at(count, place[said.row.numpy()], 1)
        np.add.at(dense.loss, place[said.row.numpy()], own.double().numpy())
        dense.state.append(said.state.numpy())
        for done, cell in enumerate(cells):
            watcher.check()
            watcher.say(Progress(STAGE, number * len(cells) + done, total, text=cell[0]))
            chosen = {
                name: masks[name, cell[1]]
                for name, level in cells
                if level == cell[1] and name != TOGETHER and cell[0] in (name, TOGETHER)
            }
            with pruned(loaded, chosen):
                now = read(loaded, batch)
            rise = -now.log_probs.gather(1, said.right[:, None])[:, 0] - own
            np.add.at(sums[cell].loss, place[said.row.numpy()], rise.double().numpy())
            np.add.at(sums[cell].jsd, place[said.row.numpy()], jensen_shannon(said.log_probs, now.log_probs).double().numpy())
            sums[cell].state.append(now.state.numpy())
    watcher.say(Progress(STAGE, total, total))
    return _told(sums, dense, count, group[np.concatenate(order)], group, groups, cells)


def _told(sums: Mapping[Cell, _Sums], dense: _Sums, count: np.ndarray, group_of_state: np.ndarray, group: np.ndarray, groups: int,
          cells: list[Cell]) -> dict[str, Any]:  # fmt: skip
    """By group (the last line: all rows) and cell. Means over predictions, so that long rows count for what they say."""
    members = [*(group == at for at in range(groups)), np.ones(len(group), dtype=bool)]
    of_state = [*(group_of_state == at for at in range(groups)), np.ones(len(group), dtype=bool)]
    before = np.concatenate(dense.state)

    def mean(values: np.ndarray, mine: np.ndarray) -> float | None:
        predictions = int(count[mine].sum())
        return float(values[mine].sum() / predictions) if predictions else None

    def alike(after: np.ndarray, mine: np.ndarray) -> float | None:
        return (
            debiased_cka([torch.from_numpy(part[mine]) for part in (before, after)], 512)[0][1] if mine.sum() >= FEWEST else None
        )

    values = []
    for cell in cells:
        after = np.concatenate(sums[cell].state)
        values.append(
            {
                "layer": cell[0],
                "level": cell[1],
                "loss": [mean(sums[cell].loss, mine) for mine in members],
                "jsd": [mean(sums[cell].jsd, mine) for mine in members],
                "cka": [alike(after, mine) for mine in of_state],
            }
        )
    return {
        "dense": [mean(dense.loss, mine) for mine in members],
        "predictions": [int(count[mine].sum()) for mine in members],
        "cells": values,
    }


def _batches(loaded: LoadedModel, rows: Dataset, ask: Damage) -> list[tuple[list[int], Any]]:
    """(positions of the rows, what the model reads of them). Texts of one token predict nothing; they count for the representation alone."""
    if rows.images is None:
        assert rows.texts is not None
        found = list(batches(rows.texts, loaded.tokenizer, loaded.model, ask.tokens))
        for _, ids, _ in found:
            blocks.check_context(loaded, ids.shape[1])
        return [(positions, (ids, mask)) for positions, ids, mask in found]
    labels = torch.from_numpy(need_labels(rows, "the loss of a classifier"))
    out = []
    for start in range(0, len(rows), _IMAGES_A_BATCH):
        part = prepared(rows.images[start : start + _IMAGES_A_BATCH], loaded.location.path if loaded.location else None)
        out.append((list(range(start, start + len(part))), (torch.from_numpy(part), labels[start : start + len(part)])))
    return out


def read(loaded: LoadedModel, batch: tuple[Tensor, Tensor]) -> Answers:
    """(ids, mask) of texts or (pixels, labels) of images, read once."""
    seen: list[Tensor] = []
    last = loaded.module(loaded.anatomy.blocks[-1].path)
    hook = last.register_forward_hook(
        lambda _module, _args, out: seen.append((out if isinstance(out, Tensor) else out[0]).float().cpu())
    )
    try:
        with torch.inference_mode():
            return (
                _of_images(loaded, *batch, seen) if loaded.anatomy.kind == "image_classifier" else _of_texts(loaded, *batch, seen)
            )
    finally:
        hook.remove()


def _of_texts(loaded: LoadedModel, ids: Tensor, mask: Tensor, seen: list[Tensor]) -> Answers:
    logits = loaded.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
    there = mask[:, 1:].bool()  # the token that is predicted is a real one
    row = torch.arange(len(ids), device=ids.device)[:, None].expand(there.shape)[there]
    hidden, held = seen[0], mask.cpu()
    state = (hidden * held[..., None]).sum(1) / held.sum(1, keepdim=True)
    return Answers(log_softmax(logits[there].float(), -1).cpu(), ids[:, 1:][there].cpu(), row.cpu(), state)


def _of_images(loaded: LoadedModel, pixels: Tensor, labels: Tensor, seen: list[Tensor]) -> Answers:
    first: nn.Parameter = next(loaded.model.parameters())
    logits = loaded.model(pixel_values=pixels.to(first)).logits.float().cpu()
    if int(labels.max()) >= logits.shape[1]:
        raise DataError(
            f"These rows have more classes than the {logits.shape[1]} that {loaded.name} tells apart.",
            "Use the data it was taught on.",
        )
    hidden = seen[0]
    state = hidden.mean(dim=(2, 3)) if hidden.ndim == 4 else hidden.mean(dim=1)
    return Answers(log_softmax(logits, -1), labels, torch.arange(len(labels)), state)
