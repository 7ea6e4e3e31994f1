"""Random models of real classes, a few thousand weights each, for tests of what is measured, trained and saved."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    ResNetConfig,
    ResNetForImageClassification,
)

VOCABULARY = 300


def llama(layers: int = 2, **changed) -> LlamaForCausalLM:
    """Tied head, 4 query heads on 2 key-value heads."""
    torch.manual_seed(0)
    config = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2,
              "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 0}  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(**config | {"num_hidden_layers": layers} | changed)).eval()


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=256, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(config).eval()


def bert() -> BertForMaskedLM:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    return BertForMaskedLM(config).eval()


def resnet() -> ResNetForImageClassification:
    torch.manual_seed(0)
    pixels = {"height": 8, "width": 8, "channels": 1, "mean": [0.0], "std": [1.0]}
    config = ResNetConfig(
        num_channels=1,
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        layer_type="basic",
        num_labels=3,
        prunarium_input=pixels,
    )
    return ResNetForImageClassification(config).eval()


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte is a token: ids 1..256 are the bytes in sorted order of their printed forms, 0 is the end of text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={"<|end|>": 0, **{mark: place for place, mark in enumerate(alphabet, 1)}}, merges=[]))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|end|>", pad_token="<|end|>")


def halved(model: torch.nn.Module, paths: list[str]) -> dict[str, torch.Tensor]:
    """Set a random half of the weights at these module paths to zero; returns {path: kept}."""
    masks, generator = {}, torch.Generator().manual_seed(1)
    for path in paths:
        weight = model.get_submodule(path).weight
        masks[path] = torch.rand(weight.shape, generator=generator) > 0.5
        weight.data.mul_(masks[path])
    return masks
