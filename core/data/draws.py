"""Random numbers for one purpose each, so that asking for one thing more never changes another."""

from __future__ import annotations

import zlib

import numpy as np


def generator(seed: int, purpose: str) -> np.random.Generator:
    """numpy's generator for one purpose of a recipe's seed."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])
