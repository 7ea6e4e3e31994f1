"""Images as their own pixels."""

from __future__ import annotations

import numpy as np

from core.method import embedding


@embedding("pixels", label="Pixels", of=("images",), place="raw")
def pixels(images: np.ndarray) -> np.ndarray:
    """Take each image as the list of its grey values: nothing learned, nothing hidden.

    images (rows, height, width) in 0..1. Returns float32 (rows, height x width).

    When it lies: a shift by one pixel looks like a different image. Good for small centred digits, poor for photographs.
    """
    return np.ascontiguousarray(images.reshape(len(images), -1), dtype=np.float32)
