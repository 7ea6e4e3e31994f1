"""Images made worse on purpose, at five severities, as in ImageNet-C and MNIST-C: the same images, kind and severity give the same pixels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from core.data.selection import generator

KINDS = ("noise", "impulses", "blur", "contrast", "brightness", "occlusion")


def corrupted(images: np.ndarray, kind: str, severity: int) -> np.ndarray:
    """Grey images (n, height, width) in 0..1 -> the same shape, in 0..1. severity 1..5; each kind grows evenly with it:

    noise: Gaussian, deviation 0.08 to 0.4; impulses: 2 to 10 % of pixels black or white; blur: Gaussian, deviation 0.5 to 2.5 pixels; contrast: 0.85 to
    0.25 of what it was, about each image's mean; brightness: 0.1 to 0.5 is added; occlusion: a grey square, 15 to 75 % as wide as the image, at random.
    """
    if kind not in KINDS or not 1 <= severity <= 5:
        raise ValueError(f"no corruption {kind!r} at severity {severity}")
    made = _MADE[kind](images.astype(np.float32), severity, generator(severity, f"corruption/{kind}"))
    return np.clip(made, 0.0, 1.0).astype(np.float32)


def _noise(images: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    return images + random.normal(0.0, 0.08 * severity, images.shape)


def _impulses(images: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    hit, white = random.random(images.shape) < 0.02 * severity, random.random(images.shape) < 0.5
    return np.where(hit, white.astype(np.float32), images)


def _blur(images: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    """A separable Gaussian; beyond the edge the image is black, as digits are drawn."""
    deviation = 0.5 * severity
    reach = int(np.ceil(3 * deviation))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    weights /= weights.sum()
    for axis in (1, 2):
        padded = np.pad(images, [(reach, reach) if at == axis else (0, 0) for at in range(3)])
        size = images.shape[axis]
        images = sum(w * np.take(padded, range(at, at + size), axis) for at, w in enumerate(weights))
    return images


def _contrast(images: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    mean = images.mean((1, 2), keepdims=True)
    return mean + (images - mean) * (1.0 - 0.15 * severity)


def _brightness(images: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    return images + 0.1 * severity


def _occlusion(images: np.ndarray, severity: int, random: np.random.Generator) -> np.ndarray:
    out = images.copy()
    sides = [max(round(0.15 * severity * size), 1) for size in images.shape[1:]]
    tops, lefts = (random.integers(0, size - side + 1, len(images)) for size, side in zip(images.shape[1:], sides, strict=True))
    for image, top, left in zip(out, tops, lefts, strict=True):
        image[top : top + sides[0], left : left + sides[1]] = 0.5
    return out


_MADE: dict[str, Callable[[np.ndarray, int, np.random.Generator], np.ndarray]] = {
    "noise": _noise,
    "impulses": _impulses,
    "blur": _blur,
    "contrast": _contrast,
    "brightness": _brightness,
    "occlusion": _occlusion,
}
