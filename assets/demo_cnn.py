"""tiny-cnn: a small ResNet for handwritten digits. Run by train_demos.py."""

from __future__ import annotations

from pathlib import Path

import demo_images
import torch
from transformers import ResNetConfig, ResNetForImageClassification

STEPS = 1500
_WORDS = """# tiny-cnn

A ResNet ({parameters:,} parameters, {size:.1f} MB) for handwritten digits of 28 x 28 pixels, trained from scratch by
`python assets/train_demos.py tiny-cnn`, for sliders, lessons and tests.
"""


def train(folder: Path, steps: int) -> dict:
    """Train the convolutional classifier and save it with its card. Returns the card's figures."""
    torch.manual_seed(demo_images.SEED)
    config = ResNetConfig(
        embedding_size=32,
        hidden_sizes=[32, 64, 128],
        depths=[2, 2, 2],
        layer_type="basic",
        **demo_images.digits_config(),
    )
    return demo_images.fit(ResNetForImageClassification(config), folder, steps, 3e-3, 0.0, _WORDS)
