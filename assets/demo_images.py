"""What both demo image classifiers share: their training on 4,000 of MNIST's digits, each shaken, and their accuracy on the other 1,000."""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
from demo_card import curve, say, write_card
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForImageClassification, PreTrainedModel

from core import builtins

SEED, BATCH = 0, 128
MEAN, STD = 0.1307, 0.3081

CARD = """
| | |
|---|---|
| Data | {data}; {shaken} |
| Training | {steps:,} steps of 128 images, seed {seed}, {minutes:.1f} minutes on two shared cores; last loss {train_loss:.3f} (smoothed labels) |
| Accuracy on {heldout_rows:,} held-out digits | **{accuracy:.1%}** (95 % interval {accuracy_interval_95[0]:.1%} to {accuracy_interval_95[1]:.1%}) |

Measured on the saved bfloat16 weights, computed in float32. Input: one channel, pixels 0..1, minus `mean`, over `std`, as
`prunarium_input` in config.json says. Licence of the weights: Apache-2.0.
"""


def digits_config() -> dict:
    """What the config of each says: the classes by name, and how an image becomes its input."""
    names = builtins.read_table("mnist5k").label_names
    pixels = {"height": 28, "width": 28, "channels": 1, "mean": [MEAN], "std": [STD]}
    return {
        "num_channels": 1,
        "id2label": dict(enumerate(names)),
        "label2id": {name: i for i, name in enumerate(names)},
        "prunarium_input": pixels,
    }


def fit(model: PreTrainedModel, folder: Path, steps: int, rate: float, elastic: float, words: str) -> dict:
    """Train an image classifier in float32, save it as bfloat16 into `folder` with its card, whose first lines are `words`.

    `rate`: the highest learning rate. `elastic`: pixels that places of an image are moved apart. Returns the card's figures.
    """
    table, (train, heldout) = builtins.read_table("mnist5k"), builtins.mnist5k_split()
    images, labels = torch.from_numpy(table.images)[:, None], torch.tensor(table.frame["label"].astype(int).to_numpy())
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.2)
    started, losses = time.monotonic(), []
    for step in range(1, steps + 1):
        rows = torch.from_numpy(train)[torch.randint(len(train), (BATCH,))]
        logits = model((shaken(images[rows], elastic) - MEAN) / STD).logits
        loss = F.cross_entropy(logits, labels[rows], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        say(folder.name, step, steps, losses, started)
    seconds = time.monotonic() - started
    model.to(torch.bfloat16).save_pretrained(folder)
    bent = ", and bent a little" if elastic else ""
    card = {
        "name": folder.name, "data": "mnist5k, 4,000 rows (core.builtins.mnist5k_split)", "seed": SEED, "steps": steps,
        "shaken": f"each image turned, scaled and moved a little{bent}",
        "train_seconds": round(seconds), "images_seen": steps * BATCH, "parameters": model.num_parameters(), "dtype": "bfloat16",
        "train_loss": round(float(np.mean(losses[-50:])), 4), "loss_curve": curve(losses), **measure(folder, heldout),
    }  # fmt: skip
    write_card(folder, card, words + CARD)
    return card


def shaken(images: Tensor, elastic: float = 0.0) -> Tensor:
    """Each image turned by up to 12 degrees, scaled by up to a tenth and moved by up to 2.5 pixels, differently. (n, 1, h, w) float.

    `elastic`: besides, each place is moved by so many pixels (standard deviation), smoothly over the image.
    """
    count = len(images)
    angle, scale = (torch.rand(count) - 0.5) * math.radians(24), 1 + (torch.rand(count) - 0.5) * 0.2
    move = (torch.rand(count, 2) - 0.5) * 5 / images.shape[-1] * 2
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    turn = torch.stack([torch.stack([cosine, -sine, move[:, 0]], 1), torch.stack([sine, cosine, move[:, 1]], 1)], 1)
    grid = F.affine_grid(turn, list(images.shape), align_corners=False)
    if elastic:
        bends = torch.randn(count, 2, 5, 5) * elastic * 2 / images.shape[-1]
        grid = grid + F.interpolate(bends, images.shape[-2:], mode="bicubic", align_corners=False).permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, align_corners=False)


@torch.no_grad()
def measure(folder: Path, rows: np.ndarray) -> dict:
    """Accuracy of a saved folder on these rows of mnist5k, computed in float32, with its 95 % Wilson interval."""
    model = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()
    table, wants = builtins.read_table("mnist5k"), model.config.prunarium_input
    pixels = torch.from_numpy(table.images[rows])[:, None]
    given = model((pixels - wants["mean"][0]) / wants["std"][0]).logits.argmax(1).numpy()
    right, count, z = int((given == table.frame["label"].astype(int).to_numpy()[rows]).sum()), len(rows), 1.959964
    share = right / count
    middle, half = share + z * z / (2 * count), z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    interval = [round((middle + sign * half) / (1 + z * z / count), 4) for sign in (-1, 1)]
    return {"accuracy": share, "accuracy_interval_95": interval, "heldout_rows": count}
