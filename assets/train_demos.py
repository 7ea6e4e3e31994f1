"""Train the two built-in demo models from scratch, seeded: `python assets/train_demos.py [tiny-llama|tiny-cnn|all] [--steps N] [--out DIR]`.

tiny-llama: a six-block Llama with its own byte-level BPE on WikiText-2. tiny-cnn: a ResNet on 4,000 of MNIST's digits. Both are saved as
bfloat16 safetensors with a card (README.md, card.json) whose figures are measured on what was saved. Under 30 minutes on two quiet cores.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: a busy neighbour otherwise makes every step four times slower

import argparse
import ctypes
import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, ResNetConfig, ResNetForImageClassification

from core import builtins

SEED = 0
VOCABULARY, WINDOW, SHORT_WINDOW, TOKENS_A_STEP = 4096, 512, 128, 4096
SLICE_WINDOWS = 16  # what a test measures again
LLAMA_STEPS, CNN_STEPS, CNN_BATCH = 1600, 1500, 128


def main(arguments: list[str] | None = None) -> int:
    """Train what is asked for. Returns 0."""
    parser = argparse.ArgumentParser(description="Train the built-in demo models.")
    parser.add_argument("what", nargs="?", choices=("tiny-llama", "tiny-cnn", "all"), default="all")
    parser.add_argument("--steps", type=int, help="fewer steps, for a trial")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "assets" / "models", help="the folder that gets tiny-llama/ and tiny-cnn/"
    )
    chosen = parser.parse_args(arguments)
    _keep_freed_memory()
    if chosen.what in ("tiny-llama", "all"):
        train_llama(chosen.out / "tiny-llama", chosen.steps or LLAMA_STEPS)
    if chosen.what in ("tiny-cnn", "all"):
        train_cnn(chosen.out / "tiny-cnn", chosen.steps or CNN_STEPS)
    return 0


def train_llama(folder: Path, steps: int) -> dict:
    """Train the language model and save it with its card. Returns the card's figures."""
    torch.manual_seed(SEED)
    tokenizer = _train_tokenizer()
    # Three parts in four are joined as the perplexity protocol joins test text, one as it joins calibration text.
    streams = [torch.tensor(tokenizer(join.join(builtins.read_text("wikitext2/train")))["input_ids"]) for join in ("\n\n", " ")]
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=192, intermediate_size=512, num_hidden_layers=6, num_attention_heads=6, num_key_value_heads=2,
        max_position_embeddings=WINDOW, tie_word_embeddings=True, attn_implementation="eager", rms_norm_eps=1e-5,
        bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    started, losses = time.monotonic(), []
    for step, loss in _llama_steps(model, streams, steps):
        losses.append(loss)
        _say("tiny-llama", step, steps, losses, started)
    seconds = time.monotonic() - started
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    card = {
        "name": "tiny-llama", "data": "WikiText-2 raw, training part", "seed": SEED, "steps": steps, "train_seconds": round(seconds),
        "tokens_seen": steps * TOKENS_A_STEP, "parameters": model.num_parameters(), "dtype": "bfloat16",
        "train_loss": round(float(np.mean(losses[-50:])), 4), "loss_curve": _curve(losses), **measure_llama(folder, windows=None),
        "slice": {"windows": SLICE_WINDOWS, "perplexity": measure_llama(folder, windows=SLICE_WINDOWS)["perplexity"]},
        "sample": _sample(folder, "The history of the city"),
    }  # fmt: skip
    _write_card(folder, card, _LLAMA_CARD)
    return card


def _train_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE of VOCABULARY ids on the training text; id 0 is the only special token (end of text, also used as padding)."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<|endoftext|>"], initial_alphabet=sorted(alphabet), show_progress=False
    )
    raw.train_from_iterator((row for row in builtins.read_text("wikitext2/train") if row), trainer)
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=end, eos_token=end, pad_token=end, model_max_length=10**9)


def _llama_steps(model: LlamaForCausalLM, streams: list[Tensor], steps: int) -> Iterator[tuple[int, float]]:
    """Train in bfloat16 with float32 master weights; yields (step, loss in nats a token).

    Matrices inside blocks learn by Muon (orthogonalised momentum: about half the tokens for the same loss), the rest by AdamW. Windows
    are short at first, because attention is what costs most here, and full length in the last eighth.
    """
    masters = [parameter.detach().clone() for parameter in model.parameters()]
    inside = [".layers." in name and parameter.ndim == 2 for name, parameter in model.named_parameters()]
    matrices = [master for master, is_inside in zip(masters, inside, strict=True) if is_inside]
    others = [master for master, is_inside in zip(masters, inside, strict=True) if not is_inside]
    optimizers = (
        torch.optim.Muon(matrices, lr=6e-3, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=6e-3, betas=(0.9, 0.95), weight_decay=0.0),
    )
    warm = max(1, min(60, steps // 5))
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda step: _learning_rate(step, warm, steps)) for o in optimizers]
    model.to(torch.bfloat16).train()
    parameters = list(model.parameters())
    random = np.random.default_rng(SEED)
    for step in range(1, steps + 1):
        window = WINDOW if step > steps * 7 // 8 else SHORT_WINDOW
        loss = _next_token_loss(model, _windows(streams, window, random))
        loss.backward()
        for master, parameter in zip(masters, parameters, strict=True):
            master.grad, parameter.grad = parameter.grad.float(), None
        nn.utils.clip_grad_norm_(others, 1.0)
        for stepper in (*optimizers, *schedules):
            stepper.step()
        with torch.no_grad():
            torch._foreach_copy_(parameters, masters)
        yield step, loss.item()


def _learning_rate(step: int, warm: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to a fiftieth."""
    if step < warm:
        return (step + 1) / warm
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _windows(streams: list[Tensor], window: int, random: np.random.Generator) -> Tensor:
    """TOKENS_A_STEP tokens as (sequences, window), three of four from the first stream."""
    rows = []
    for row in range(TOKENS_A_STEP // window):
        stream = streams[row % 4 == 3]
        start = int(random.integers(0, len(stream) - window))
        rows.append(stream[start : start + window])
    return torch.stack(rows)


def _next_token_loss(model: LlamaForCausalLM, ids: Tensor, reduction: str = "mean") -> Tensor:
    hidden = model.model(ids, use_cache=False).last_hidden_state[:, :-1].reshape(-1, model.config.hidden_size)
    return F.cross_entropy(model.lm_head(hidden).float(), ids[:, 1:].reshape(-1), reduction=reduction)


@torch.no_grad()
def measure_llama(folder: Path, windows: int | None) -> dict[str, float]:
    """Perplexity of a saved folder, computed in float32, on WikiText-2 test: rows joined with two line ends, cut into windows of WINDOW
    tokens without overlap (the rest left out), each token but a window's first predicted from those before it. `windows`: only so many.
    `perplexity_word` and `bits_per_byte` spread the same loss over words (split at blanks) and bytes, so that tokenizers can be compared.
    """
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    text = "\n\n".join(builtins.read_text("wikitext2/test"))
    ids = torch.tensor(PreTrainedTokenizerFast.from_pretrained(folder)(text)["input_ids"])
    cut = ids[: len(ids) // WINDOW * WINDOW].view(-1, WINDOW)[:windows]
    total = sum(_next_token_loss(model, part, "sum").item() for part in cut.split(4))
    loss = total / (cut.shape[0] * (WINDOW - 1))
    return {
        "perplexity": round(math.exp(loss), 4),
        "perplexity_word": round(math.exp(loss * len(ids) / len(text.split())), 2),
        "bits_per_byte": round(loss * len(ids) / len(text.encode()) / math.log(2), 4),
        "test_tokens": cut.numel(),
    }


def _sample(folder: Path, prompt: str) -> str:
    torch.manual_seed(SEED)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = model.generate(**tokenizer(prompt, return_tensors="pt"), max_new_tokens=60, do_sample=True, temperature=0.7, top_k=40)
    return tokenizer.decode(ids[0])


def train_cnn(folder: Path, steps: int) -> dict:
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
        rows = torch.from_numpy(train)[torch.randint(len(train), (CNN_BATCH,))]
        logits = model((_shake(images[rows]) - 0.1307) / 0.3081).logits
        loss = F.cross_entropy(logits, labels[rows], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        _say("tiny-cnn", step, steps, losses, started)
    seconds = time.monotonic() - started
    model.to(torch.bfloat16).save_pretrained(folder)
    card = {
        "name": "tiny-cnn", "data": "mnist5k, 4,000 rows (core.builtins.mnist5k_split)", "seed": SEED, "steps": steps,
        "train_seconds": round(seconds), "images_seen": steps * CNN_BATCH, "parameters": model.num_parameters(), "dtype": "bfloat16",
        "train_loss": round(float(np.mean(losses[-50:])), 4), "loss_curve": _curve(losses), **measure_cnn(folder, heldout),
    }  # fmt: skip
    _write_card(folder, card, _CNN_CARD)
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
def measure_cnn(folder: Path, rows: np.ndarray) -> dict:
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


def _curve(losses: list[float]) -> list[tuple[int, float]]:
    """At most 40 points: (step, mean loss of the steps since the point before)."""
    parts = np.array_split(np.arange(len(losses)), min(40, len(losses)))
    return [(int(part[-1]) + 1, round(float(np.mean([losses[i] for i in part])), 4)) for part in parts]


def _say(name: str, step: int, steps: int, losses: list[float], started: float) -> None:
    if step % 25 and step != steps:
        return
    left = (time.monotonic() - started) / step * (steps - step)
    print(
        f"{name} step {step} of {steps} · loss {np.mean(losses[-25:]):.3f} · {left / 60:.1f} min left",
        file=sys.stderr,
        flush=True,
    )


def _write_card(folder: Path, card: dict, words: str) -> None:
    (folder / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    (folder / "README.md").write_text(
        words.format(**card, minutes=card["train_seconds"] / 60, size=(folder / "model.safetensors").stat().st_size / 1e6)
    )
    print(json.dumps({key: value for key, value in card.items() if key != "loss_curve"}))


def _keep_freed_memory() -> None:
    """Tell glibc to keep freed memory. By default every large tensor is mapped anew, and its page faults cost half the time of a step."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            for option, value in ((-4, 0), (-1, 2**31 - 1), (-2, 2**28)):  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD
                libc.mallopt(option, value)


_LLAMA_CARD = """# tiny-llama

A Llama of six blocks ({parameters:,} parameters, {size:.1f} MB) trained from scratch by `python assets/train_demos.py tiny-llama`, for
sliders, lessons and tests. It writes text that looks like an encyclopaedia and knows nothing.

| | |
|---|---|
| Data | {data} (CC BY-SA 3.0), {tokens_seen:,} tokens seen |
| Tokenizer | its own byte-level BPE, 4,096 ids |
| Training | {steps:,} steps of 4,096 tokens, seed {seed}, {minutes:.0f} minutes on two cores; last loss {train_loss:.3f} nats a token |
| Perplexity on WikiText-2 test | **{perplexity:.2f}** a token, {perplexity_word:.1f} a word, {bits_per_byte:.3f} bits a byte |

Measured on the saved bfloat16 weights, computed in float32: test rows joined with two line ends, windows of 512 tokens without overlap.
Its tokens are short, so its perplexity a token is not to be compared with that of other models; bits a byte is.

Sample: {sample}

Licence of the weights: Apache-2.0.
"""
_CNN_CARD = """# tiny-cnn

A ResNet ({parameters:,} parameters, {size:.1f} MB) for handwritten digits of 28 x 28 pixels, trained from scratch by
`python assets/train_demos.py tiny-cnn`, for sliders, lessons and tests.

| | |
|---|---|
| Data | {data}; each image turned, scaled and moved a little |
| Training | {steps:,} steps of 128 images, seed {seed}, {minutes:.1f} minutes on two cores; last loss {train_loss:.3f} (smoothed labels) |
| Accuracy on {heldout_rows:,} held-out digits | **{accuracy:.1%}** (95 % interval {accuracy_interval_95[0]:.1%} to {accuracy_interval_95[1]:.1%}) |

Measured on the saved bfloat16 weights, computed in float32. Input: one channel, pixels 0..1, minus `mean`, over `std`, as
`prunarium_input` in config.json says. Licence of the weights: Apache-2.0.
"""

if __name__ == "__main__":
    sys.exit(main())
