"""tiny-cnn: a small ResNet for handwritten digits, trained on 4,000 of MNIST's. Run by train_demos.py."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
from demo_card import curve, say, write_card
from torch import Tensor
from torch.nn import functional as F
from transformers import ResNetConfig, ResNetForImageClassification

from core import builtins

SEED = 0
STEPS, BATCH = 1500, 128

_CARD = """# tiny-cnn

A ResNet ({parameters:,} parameters, {size:.1f} MB) for handwritten digits of 28 x 28 pixels, trained from scratch by
`python assets/train_demos.py tiny-cnn`, for sliders, lessons and tests.

| | |
|---|---|
| Data | {data}, each image turned, scaled and moved a little |
| Training | {steps:,} steps of 128 images, seed {seed}, {minutes:.1f} minutes on two shared cores; last loss {train_loss:.3f}, labels smoothed |
| Accuracy on {heldout_rows:,} held-out digits | **{accuracy:.1%}** (95 % interval {accuracy_interval_95[0]:.1%} to {accuracy_interval_95[1]:.1%}) |

Measured on the saved bfloat16 weights, computed in float32. Input: one channel, pixels 0..1, minus `mean`, over `std`, as
`prunarium_input` in config.json says. Licence of the weights: Apache-2.0.
"""


def train(folder: Path, steps: int) -> dict:
    """Train the image classifier and save it with its card. Returns the card's figures."""
    torch.manual_seed(SEED)
    table, (train, heldout) = builtins.read_table("mnist5k"), builtins.mnist5k_split()
    images, labels = torch.from_numpy(table.images)[:, None], torch.tensor(table.frame["label"].astype(int).to_numpy())
    pixels = {"height": 28, "width": 28, "channels": 1, "mean": [0.1307], "std": [0.3081]}
    config = ResNetConfig(
        num_channels=1, embedding_size=32, hidden_sizes=[32, 64, 128], depths=[2, 2, 2], layer_type="basic",
        id2label=dict(enumerate(table.label_names)), label2id={name: i for i, name in enumerate(table.label_names)}, prunarium_input=pixels,
    )  # fmt: skip
    model = ResNetForImageClassification(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.2)
    started, losses = time.monotonic(), []
    for step in range(1, steps + 1):
        rows = torch.from_numpy(train)[torch.randint(len(train), (BATCH,))]
        logits = model((_shake(images[rows]) - 0.1307) / 0.3081).logits
        loss = F.cross_entropy(logits, labels[rows], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        say("tiny-cnn", step, steps, losses, started)
    seconds = time.monotonic() - started
    model.to(torch.bfloat16).save_pretrained(folder)
    card = {
        "name": "tiny-cnn", "data": "mnist5k, 4,000 rows (core.builtins.mnist5k_split)", "seed": SEED, "steps": steps,
        "train_seconds": round(seconds), "images_seen": steps * BATCH, "parameters": model.num_parameters(), "dtype": "bfloat16",
        "train_loss": round(float(np.mean(losses[-50:])), 4), "loss_curve": curve(losses), **measure(folder, heldout),
    }  # fmt: skip
    write_card(folder, card, _CARD)
    return card


def _shake(images: Tensor) -> Tensor:
    """Each image turned by up to 12 degrees, scaled by up to a tenth and moved by up to 2.5 pixels, differently. (n, 1, h, w) float."""
    count = len(images)
    angle, scale = (torch.rand(count) - 0.5) * math.radians(24), 1 + (torch.rand(count) - 0.5) * 0.2
    move = (torch.rand(count, 2) - 0.5) * 5 / images.shape[-1] * 2
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    turn = torch.stack([torch.stack([cosine, -sine, move[:, 0]], 1), torch.stack([sine, cosine, move[:, 1]], 1)], 1)
    return F.grid_sample(images, F.affine_grid(turn, list(images.shape), align_corners=False), align_corners=False)


@torch.no_grad()
def measure(folder: Path, rows: np.ndarray) -> dict:
    """Accuracy of a saved folder on these rows of mnist5k, computed in float32, with its 95 % Wilson interval."""
    model = ResNetForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()
    table = builtins.read_table("mnist5k")
    pixels = torch.from_numpy(table.images[rows])[:, None]
    given = (
        model((pixels - model.config.prunarium_input["mean"][0]) / model.config.prunarium_input["std"][0])
        .logits.argmax(1)
        .numpy()
    )
    right, count, z = int((given == table.frame["label"].astype(int).to_numpy()[rows]).sum()), len(rows), 1.959964
    share = right / count
    middle, half = share + z * z / (2 * count), z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    interval = [round((middle + sign * half) / (1 + z * z / count), 4) for sign in (-1, 1)]
    return {"accuracy": share, "accuracy_interval_95": interval, "heldout_rows": count}
