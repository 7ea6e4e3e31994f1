"""What size of image a classifier takes."""

from __future__ import annotations

from typing import Any


def pixel_shape(config: Any) -> tuple[int, int, int]:
    """(channels, height, width) that a model's config names; 224 by 224 where it names no size."""
    own = getattr(config, "prunarium_input", None)
    size = (own["height"], own["width"]) if own else getattr(config, "image_size", None) or 224
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return getattr(config, "num_channels", 3), height, width
