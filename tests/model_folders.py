"""Tiny model folders for tests: real transformers classes with random weights, written by save_pretrained; and files that lie."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

WIDTHS = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 96}
TEXT = {**WIDTHS, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 96, "n_positions": 64, "bos_token_id": 1, "eos_token_id": 2}
OPT = {"ffn_dim": 64, "word_embed_proj_dim": 32, **{key: value for key, value in TEXT.items() if key != "intermediate_size"}}
VIT = {**WIDTHS, "image_size": 16, "patch_size": 4}
RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 2], "layer_type": "basic", "num_channels": 1}

# name: (model class, configuration class, its arguments)
CLASSES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", {"num_key_value_heads": 2, **TEXT}),
    "mistral": ("MistralForCausalLM", "MistralConfig", {"num_key_value_heads": 2, **TEXT}),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", {"num_key_value_heads": 2, "tie_word_embeddings": True, **TEXT}),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", {"num_key_value_heads": 2, "head_dim": 16, **TEXT}),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", {"num_key_value_heads": 2, **TEXT}),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", GPT2),
    "opt": ("OPTForCausalLM", "OPTConfig", OPT),
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", TEXT),
    "falcon": ("FalconForCausalLM", "FalconConfig", {**{k: v for k, v in TEXT.items() if k != "intermediate_size"}}),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", {"num_key_value_heads": 2, "num_local_experts": 4, **TEXT}),
    "bert": ("BertForMaskedLM", "BertConfig", TEXT),
    "roberta": ("RobertaForMaskedLM", "RobertaConfig", TEXT),
    "vit": ("ViTForImageClassification", "ViTConfig", VIT),
    "resnet": ("ResNetForImageClassification", "ResNetConfig", RESNET),
    "bart": ("BartForConditionalGeneration", "BartConfig", {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1,
             "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "vocab_size": 96}),
}  # fmt: skip


def tiny(name: str, **changes: Any) -> transformers.PreTrainedModel:
    """A model of one of CLASSES with seeded random weights, in evaluation mode."""
    model_class, config_class, arguments = CLASSES[name]
    torch.manual_seed(0)
    return getattr(transformers, model_class)(getattr(transformers, config_class)(**{**arguments, **changes})).eval()


def inputs(name: str) -> torch.Tensor:
    """Something the model takes as its first argument."""
    if name in ("vit", "resnet"):
        channels, side = (3, 16) if name == "vit" else (1, 32)
        return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(1))
    return torch.arange(3, 23).reshape(2, 10)


def saved(folder: Path, name: str = "llama", tokenizer: bool = False, **changes: Any) -> Path:
    """A folder of that model, written by save_pretrained."""
    tiny(name, **changes).save_pretrained(folder)
    if tokenizer:
        letters().save_pretrained(folder)
    return folder


def letters() -> transformers.PreTrainedTokenizerFast:
    """A tokenizer that makes one token of each byte, with no special tokens around a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=8)


def edit_config(folder: Path, **changes: Any) -> Path:
    """Change config.json; a value of None takes the key out."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return folder


def write_safetensors(path: Path, header: dict[str, Any] | bytes, data: int = 0, length: int | None = None) -> Path:
    """A safetensors file with any header over `data` bytes of zeros (a sparse file: they take no disk); `length` may lie about the header."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(raw) if length is None else length) + raw)
        stream.truncate(8 + len(raw) + data)
    return path


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    """One tensor of a safetensors header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def write_gguf(path: Path) -> Path:
    """A one-block Llama in float32 with a vocabulary of single letters, as llama.cpp's own tools write it."""
    import gguf
    import numpy as np

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet[:-1], "qx"]
    writer, random = gguf.GGUFWriter(str(path), "llama"), np.random.default_rng(0)
    for write, value in (
        (writer.add_block_count, 1), (writer.add_context_length, 64), (writer.add_embedding_length, 32), (writer.add_feed_forward_length, 64),
        (writer.add_head_count, 4), (writer.add_head_count_kv, 2), (writer.add_layer_norm_rms_eps, 1e-5), (writer.add_vocab_size, 256),
        (writer.add_rope_dimension_count, 8), (writer.add_tokenizer_model, "gpt2"), (writer.add_tokenizer_pre, "gpt-2"),
        (writer.add_token_list, tokens), (writer.add_token_types, [1] * 256), (writer.add_token_merges, ["q x"]),
        (writer.add_bos_token_id, 1), (writer.add_eos_token_id, 2),
    ):  # fmt: skip
        write(value)
    shapes = {"attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32), "attn_output": (32, 32), "ffn_gate": (64, 32), "ffn_up": (64, 32),
              "ffn_down": (32, 64), "attn_norm": (32,), "ffn_norm": (32,)}  # fmt: skip
    named = {
        "token_embd": (256, 32),
        "output_norm": (32,),
        "output": (256, 32),
        **{f"blk.0.{name}": shape for name, shape in shapes.items()},
    }
    for name, shape in named.items():
        writer.add_tensor(f"{name}.weight", random.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
