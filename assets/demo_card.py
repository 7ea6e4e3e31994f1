"""What both demo trainings share: a line of progress, and the card beside the weights (README.md for people, card.json for programs)."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast


def curve(losses: list[float]) -> list[tuple[int, float]]:
    """At most 40 points: (step, mean loss of the steps since the point before)."""
    parts = np.array_split(np.arange(len(losses)), min(40, len(losses)))
    return [(int(part[-1]) + 1, round(float(np.mean([losses[i] for i in part])), 4)) for part in parts]


def say(name: str, step: int, steps: int, losses: list[float], started: float) -> None:
    """Print where a training stands, every 25th step. `started` is of time.monotonic()."""
    if step % 25 and step != steps:
        return
    left = (time.monotonic() - started) / step * (steps - step)
    print(
        f"{name} step {step} of {steps} · loss {np.mean(losses[-25:]):.3f} · {left / 60:.1f} min left",
        file=sys.stderr,
        flush=True,
    )


def write_card(folder: Path, card: dict, words: str) -> None:
    """Write card.json, README.md (`words` filled in from the card), and the figures as one line on standard output."""
    (folder / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    (folder / "README.md").write_text(
        words.format(**card, minutes=card["train_seconds"] / 60, size=(folder / "model.safetensors").stat().st_size / 1e6)
    )
    print(json.dumps({key: value for key, value in card.items() if key != "loss_curve"}))


def sample(folder: Path, prompt: str, seed: int) -> str:
    """What the saved language model goes on with after the prompt, 60 tokens by lot."""
    torch.manual_seed(seed)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = model.generate(**tokenizer(prompt, return_tensors="pt"), max_new_tokens=60, do_sample=True, temperature=0.7, top_k=40)
    return tokenizer.decode(ids[0])
