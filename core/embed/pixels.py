"""Images as their own pixels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from core.method import embedding

_CHUNK_ROWS = 8192


@embedding("pixels", label="Pixels", of=("images",), place="raw")
def pixels(images: np.ndarray, start: int) -> Iterator[np.ndarray]:
    """Take each image as the list of its grey values: nothing learned, nothing hidden.

    images (rows, height, width) in 0..1. Gives float32 (rows, height x width).

    When it lies: a shift by one pixel looks like a different image. Good for small centred digits, poor for photographs.
    """
    for at in range(start, len(images), _CHUNK_ROWS):
        yield images[at : at + _CHUNK_ROWS].reshape(-1, images[0].size)
