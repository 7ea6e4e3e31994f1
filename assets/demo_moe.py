"""tiny-moe: a Mixtral of four blocks with eight small experts each, trained on three kinds of text. Run by train_demos.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from demo_card import sample, write_card
from demo_training import TOKENS_A_STEP, VOCABULARY, WINDOW, in_two_stages
from torch import Tensor
from torch.nn import functional as F
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedTokenizerFast
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from core import builtins
from core.model.anatomy import read_anatomy
from core.model.mixture.experts import ExpertLayer, expert_layers
from core.model.mixture.routing import Routed, listening

SEED = 0
STEPS = 1600  # of the first stage; the second has a quarter of that
EXPERTS, TOP_K = 8, 2
BALANCE = 0.01  # weight of the loss that keeps experts equally busy, over all kinds of text together, so each kind may still have its own
DOMAINS = ("encyclopaedia", "questions and tweets", "film reviews")
SELDOM = 0.005  # of a block's visits
HELD_OUT = 10  # one row of so many is kept from training, where the source has no test part

_CARD = """# tiny-moe

A mixture of experts of four blocks ({parameters:,} parameters, {size:.1f} MB; {experts} experts a block, of which a token visits {top_k}) trained from
scratch by `python assets/train_demos.py tiny-moe`, for sliders, lessons and tests. It writes text that looks like one of three kinds, and knows nothing.

| | |
|---|---|
| Data | {data}; {tokens_seen:,} tokens seen |
| Tokenizer | that of tiny-llama, 4,096 ids |
| Training | {steps:,} steps of 4,096 tokens, seed {seed}, {minutes:.0f} minutes; last loss {train_loss:.3f} nats a token |
| Perplexity a token, encyclopaedia (WikiText-2 test) | **{perplexity:.2f}** |
| Perplexity a token, held-out questions and tweets | {perplexity_questions:.2f} |
| Perplexity a token, held-out film reviews | {perplexity_reviews:.2f} |
| How far apart the kinds route | {apart:.2f} (0: all alike; 1: no expert in common), mean over blocks and pairs of kinds |
| Experts that hardly any token visits | {unvisited} of all blocks' (under {seldom:.1%} of the visits, whatever the kind of text) |

Measured on the saved bfloat16 weights, computed in float32: windows of 512 tokens without overlap. `expert_use` in card.json gives each expert's share
of the visits, for each kind of text and each block.

Sample: {sample}

Licence of the weights: Apache-2.0. WikiText-2 is CC BY-SA 3.0; the sources of the other texts do not state a licence.
"""


def train(folder: Path, steps: int, test_windows: int | None = None, rows: int | None = None) -> dict:
    """Train the mixture and save it with its card. Returns the card's figures, measured on all held-out text or so many windows of each kind.
    `rows`: only the first so many rows of the encyclopaedia are read."""
    torch.manual_seed(SEED)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(builtins.model_path("tiny-llama"))
    streams = [torch.tensor(tokenizer(text)["input_ids"]) for text in _texts("train", rows)]
    model = MixtralForCausalLM(_config())
    losses, points, seconds = in_two_stages(
        "tiny-moe", model, steps, SEED, lambda window, random: _loss(model, _windows(streams, window, random))
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    card = {
        "name": "tiny-moe", "data": "WikiText-2 raw, TREC questions, disaster tweets, Rotten Tomatoes reviews, their training parts", "seed": SEED,
        "steps": len(losses), "train_seconds": round(seconds), "tokens_seen": len(losses) * TOKENS_A_STEP, "parameters": model.num_parameters(),
        "dtype": "bfloat16", "experts": EXPERTS, "top_k": TOP_K, "train_loss": round(float(np.mean(losses[-50:])), 4), "loss_curve": points,
        **measure(folder, test_windows), "sample": " ".join(sample(folder, "What is", SEED).split()),
    }  # fmt: skip
    write_card(folder, card, _CARD)
    return card


def _config() -> MixtralConfig:
    return MixtralConfig(
        vocab_size=VOCABULARY, hidden_size=128, intermediate_size=224, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        head_dim=32, num_local_experts=EXPERTS, num_experts_per_tok=TOP_K, router_aux_loss_coef=BALANCE, max_position_embeddings=WINDOW,
        tie_word_embeddings=True, attn_implementation="eager", experts_implementation="eager", rms_norm_eps=1e-5, sliding_window=None,
        bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip


def _texts(part: str, rows: int | None = None) -> tuple[str, ...]:
    """One text for each kind, to train on ("train") or held out ("test")."""
    held = part == "test"
    wiki = "\n\n".join(builtins.read_text(f"wikitext2/{part}")[:rows])
    short = [f"trec/{part}", "disaster-tweets"], ["rotten-tomatoes"]
    return wiki, *("\n".join(row for name in names for row in _rows(name, held)) for names in short)


def _rows(name: str, held: bool) -> list[str]:
    rows = [row for row in builtins.read_table(name).frame["text"] if row.strip()]
    if "/" in name:  # it has a test part of its own
        return rows
    return [row for place, row in enumerate(rows) if (place % HELD_OUT == 0) == held]


def _windows(streams: list[Tensor], window: int, random: np.random.Generator) -> Tensor:
    """TOKENS_A_STEP tokens as (sequences, window): of each four sequences two are encyclopaedia, one of each other kind."""
    rows = []
    for row in range(TOKENS_A_STEP // window):
        stream = streams[(0, 1, 0, 2)[row % 4]]
        start = int(random.integers(0, len(stream) - window))
        rows.append(stream[start : start + window])
    return torch.stack(rows)


def _loss(model: MixtralForCausalLM, ids: Tensor) -> Tensor:
    """Nats a token, and the loss that keeps experts busy: experts * sum over experts of share of visits * mean probability."""
    out = model.model(ids, use_cache=False, output_router_logits=True)
    busy = load_balancing_loss_func(out.router_logits, EXPERTS, TOP_K)
    return _next_token_loss(model, out.last_hidden_state, ids) + BALANCE * busy


def _next_token_loss(model: MixtralForCausalLM, hidden: Tensor, ids: Tensor) -> Tensor:
    logits = model.lm_head(hidden[:, :-1].reshape(-1, model.config.hidden_size))
    return F.cross_entropy(logits.float(), ids[:, 1:].reshape(-1))


@torch.no_grad()
def measure(folder: Path, windows: int | None) -> dict:
    """Of a saved folder, computed in float32, on the held-out text of each kind cut into windows of WINDOW tokens without overlap (the rest left
    out; `windows` of them, spread evenly over the text, or all): perplexity a token, and which experts the tokens visit. `apart`: half the summed
    difference of two kinds' shares of visits, mean over blocks and pairs. `unvisited`: experts with less than SELDOM of the visits in every kind."""
    model = MixtralForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer, found = PreTrainedTokenizerFast.from_pretrained(folder), {}
    layers, use = expert_layers(model, read_anatomy(model).blocks), {}
    for domain, text in zip(DOMAINS, _texts("test"), strict=True):
        ids = torch.tensor(tokenizer(text)["input_ids"])
        cut = ids[: len(ids) // WINDOW * WINDOW].view(-1, WINDOW)
        cut = cut if windows is None else cut[:: max(len(cut) // windows, 1)][:windows]
        visits, losses = torch.zeros(len(layers), EXPERTS, dtype=torch.float64), []
        for window in cut:
            with _counting(model, layers, visits):
                losses.append(
                    _next_token_loss(model, model.model(window[None], use_cache=False).last_hidden_state, window[None]).item()
                )
        found[domain] = round(math.exp(np.mean(losses)), 4)
        use[domain] = visits / visits.sum(1, keepdim=True)
    pairs = [(one, two) for place, one in enumerate(DOMAINS) for two in DOMAINS[place + 1 :]]
    apart = float(torch.stack([(use[one] - use[two]).abs().sum(1) / 2 for one, two in pairs]).mean())
    return {
        **dict(zip(("perplexity", "perplexity_questions", "perplexity_reviews"), found.values(), strict=True)),
        "apart": round(apart, 4),
        "unvisited": int((torch.stack(list(use.values())).amax(0) < SELDOM).sum()),
        "seldom": SELDOM,
        "expert_use": {domain: [[round(share, 4) for share in row] for row in shares.tolist()] for domain, shares in use.items()},
    }


def _counting(model: MixtralForCausalLM, layers: Sequence[ExpertLayer], visits: Tensor) -> ExitStack:
    """Count the visits to each expert of each layer into visits (layers, experts)."""
    stack = ExitStack()
    for layer, row in zip(layers, visits, strict=True):

        def count(routed: Routed, row: Tensor = row) -> None:
            row.add_(routed.per_expert(torch.ones_like(routed.gates)))

        stack.enter_context(listening(model, layer, count))
    return stack
