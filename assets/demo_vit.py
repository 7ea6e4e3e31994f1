"""tiny-vit: a small vision transformer for handwritten digits. Run by train_demos.py."""

from __future__ import annotations

from pathlib import Path

import demo_images
import torch
from transformers import ViTConfig, ViTForImageClassification

STEPS = 2500
_WORDS = """# tiny-vit

A vision transformer ({parameters:,} parameters, {size:.1f} MB; 6 blocks of 4 heads and 256 neurons, patches of 4 x 4) for handwritten digits of
28 x 28 pixels, trained from scratch by `python assets/train_demos.py tiny-vit`, for sliders, lessons and tests.
"""


def train(folder: Path, steps: int) -> dict:
    """Train the attentive classifier and save it with its card. Returns the card's figures."""
    torch.manual_seed(demo_images.SEED)
    config = ViTConfig(
        image_size=28,
        patch_size=4,
        hidden_size=64,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=256,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **demo_images.digits_config(),
    )
    return demo_images.fit(ViTForImageClassification(config), folder, steps, 2e-3, 0.7, _WORDS)
