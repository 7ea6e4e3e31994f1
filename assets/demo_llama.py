"""tiny-llama: a six-block Llama with its own byte-level BPE, trained on WikiText-2. Run by train_demos.py."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from demo_card import sample, write_card
from demo_training import TOKENS_A_STEP, VOCABULARY, WINDOW, in_two_stages
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from core import builtins

SEED = 0
STEPS = 1600  # of the first stage; the second has a quarter of that
SLICE_WINDOWS = 16  # what a test measures again

_CARD = """# tiny-llama

A Llama of six blocks ({parameters:,} parameters, {size:.1f} MB) trained from scratch by `python assets/train_demos.py tiny-llama`, for
sliders, lessons and tests. It writes text that looks like an encyclopaedia and knows nothing.

| | |
|---|---|
| Data | {data} (CC BY-SA 3.0), {tokens_seen:,} tokens seen |
| Tokenizer | its own byte-level BPE, 4,096 ids |
| Training | {steps:,} steps of 4,096 tokens, seed {seed}, {minutes:.0f} minutes on two shared cores; last loss {train_loss:.3f} nats a token |
| Perplexity on WikiText-2 test | **{perplexity:.2f}** a token, {perplexity_word:.1f} a word, {bits_per_byte:.3f} bits a byte |

Measured on the saved bfloat16 weights, computed in float32: test rows joined with two line ends, windows of 512 tokens without overlap.
Its tokens are short, so its perplexity a token is not to be compared with that of other models; bits a byte is.

Sample: {sample}

Licence of the weights: Apache-2.0.
"""


def train(folder: Path, steps: int, test_windows: int | None = None, rows: int | None = None) -> dict:
    """Train the language model and save it with its card. Returns the card's figures, measured on all test text or so many windows of it.
    `rows`: only the first so many rows of the training text are read."""
    torch.manual_seed(SEED)
    text = builtins.read_text("wikitext2/train")[:rows]
    tokenizer = _train_tokenizer(text)
    # Three parts in four are joined as the perplexity protocol joins test text, one as it joins calibration text.
    streams = [torch.tensor(tokenizer(join.join(text))["input_ids"]) for join in ("\n\n", " ")]
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=192, intermediate_size=512, num_hidden_layers=6, num_attention_heads=6, num_key_value_heads=2,
        max_position_embeddings=WINDOW, tie_word_embeddings=True, attn_implementation="eager", rms_norm_eps=1e-5,
        bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    losses, points, seconds = in_two_stages(
        "tiny-llama", model, steps, SEED, lambda window, random: _next_token_loss(model, _windows(streams, window, random))
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    card = {
        "name": "tiny-llama", "data": "WikiText-2 raw, training part", "seed": SEED, "steps": len(losses), "train_seconds": round(seconds),
        "tokens_seen": len(losses) * TOKENS_A_STEP, "parameters": model.num_parameters(), "dtype": "bfloat16",
        "train_loss": round(float(np.mean(losses[-50:])), 4), "loss_curve": points, **measure(folder, test_windows),
        "slice": {"windows": SLICE_WINDOWS, "perplexity": measure(folder, SLICE_WINDOWS)["perplexity"]},
        "sample": " ".join(sample(folder, "The history of the city", SEED).split()),
    }  # fmt: skip
    write_card(folder, card, _CARD)
    return card


def _train_tokenizer(text: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE of VOCABULARY ids on these rows; id 0 is the only special token (end of text, also used as padding)."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<|endoftext|>"], initial_alphabet=sorted(alphabet), show_progress=False
    )
    raw.train_from_iterator((row for row in text if row), trainer)
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=end, eos_token=end, pad_token=end, model_max_length=10**9)


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
def measure(folder: Path, windows: int | None) -> dict[str, float]:
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
