"""Images as an image classifier takes them: channels, size and normalisation as its folder states them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core import builtins
from core.data.dataset import need_labels
from core.data.loading import load
from core.data.selection import generator
from core.errors import DataError
from core.recipe import Data


@dataclass(frozen=True)
class ImageInput:
    """What a classifier is fed: pixels 0..1 minus `mean`, over `std`, a value a channel; size in pixels, None = as they come."""

    channels: int = 1
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    size: tuple[int, int] | None = None


def labelled_images(
    source: str, samples: int | None = None, seed: int = 0, folder: Path | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Images float32 (n, channels, height, width), ready for the classifier in `folder` (by default the built-in tiny-cnn), and class numbers.

    `samples` left out: every row in order. Else that many, drawn by class in proportion, seeded. Raises DataError where the source holds no
    images or no labels, or fewer rows than asked.
    """
    images, labels = raw_images(source, samples, seed)
    return prepared(images, folder or builtins.location("tiny-cnn")), labels


def raw_images(source: str, samples: int | None = None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The same images as they lie in the source: grey, float32 (n, height, width) in 0..1."""
    dataset = load(Data(source=source))
    if dataset.images is None:
        raise DataError(f"{source} holds no images.", "An image classifier needs images, such as builtin:mnist5k/heldout.")
    labels = need_labels(dataset, "an image classifier")
    rows = np.arange(len(dataset))
    if samples is not None:
        if samples > len(dataset):
            raise DataError(
                f"{samples} samples were asked of {source}, which has {len(dataset)}.", "Lower samples, or leave it out."
            )
        rows = stratified(labels, samples, seed)
    return dataset.images[rows], labels[rows]


def stratified(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Exactly `count` positions, sorted, each class in proportion (largest remainder, the lower class first on ties). Seeded."""
    classes, sizes = np.unique(labels, return_counts=True)
    exact = sizes * count / len(labels)
    take = np.floor(exact).astype(int)
    take[np.argsort(take - exact, kind="stable")[: count - take.sum()]] += 1
    random = generator(seed, "stratified")
    drawn = [random.permutation(np.flatnonzero(labels == name))[:n] for name, n in zip(classes, take, strict=True)]
    return np.sort(np.concatenate(drawn))


def prepared(images: np.ndarray, folder: Path | None) -> np.ndarray:
    """Grey images (n, height, width) in 0..1 -> float32 (n, channels, height, width) as the classifier in `folder` wants them."""
    wants = image_input(folder)
    if wants.size is not None and wants.size != images.shape[1:]:
        import torch

        scaled = torch.nn.functional.interpolate(
            torch.from_numpy(images)[:, None], wants.size, mode="bilinear", align_corners=False
        )
        images = scaled[:, 0].numpy()
    mean, std = (np.asarray(values, dtype=np.float32).reshape(1, -1, 1, 1) for values in (wants.mean, wants.std))
    return np.ascontiguousarray(((np.repeat(images[:, None], wants.channels, axis=1) - mean) / std).astype(np.float32))


def image_input(folder: Path | None) -> ImageInput:
    """Read `prunarium_input` of config.json (our own models), else preprocessor_config.json, else the config's channels without scaling."""
    config = _json(folder, "config.json")
    own = config.get("prunarium_input")
    if own:
        return ImageInput(own["channels"], tuple(own["mean"]), tuple(own["std"]), (own["height"], own["width"]))
    channels = int(config.get("num_channels", 3 if config else 1))
    said = _json(folder, "preprocessor_config.json")
    size = said.get("size")
    if isinstance(size, dict):
        size = (size["height"], size["width"]) if "height" in size else (size.get("shortest_edge"),) * 2
    elif size is not None:
        size = (size, size)
    mean, std = said.get("image_mean") or [0.0] * channels, said.get("image_std") or [1.0] * channels
    return ImageInput(channels, tuple(mean), tuple(std), size if size and all(size) else None)


def _json(folder: Path | None, name: str) -> dict[str, Any]:
    file = folder / name if folder else None
    if file is None or not file.is_file():
        return {}
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DataError(f"{file} cannot be read as JSON.", "Fetch the model again.") from None
    return value if isinstance(value, dict) else {}
