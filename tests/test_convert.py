"""Turning a GGUF file into safetensors, on a Llama of one block written here with the gguf library."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType

from core.errors import ModelError, ResourceError

HIDDEN, MLP, WORDS = 32, 64, 272


def write_gguf(path: Path) -> np.ndarray:
    """A Llama of one block whose MLP is stored as Q4_1. Returns what its `up` matrix means once dequantised."""
    random = np.random.default_rng(0)
    draw = lambda *shape: random.standard_normal(shape).astype(np.float32) * 0.1  # noqa: E731
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(WORDS)
    writer.add_tokenizer_model("gpt2")
    tokens = [f"<{number}>" for number in range(WORDS - 27)] + ["ab"] + [chr(97 + letter) for letter in range(26)]
    writer.add_token_list(tokens)
    writer.add_token_types([1] * WORDS)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_tensor("token_embd.weight", draw(WORDS, HIDDEN))
    writer.add_tensor("output_norm.weight", np.ones(HIDDEN, np.float32))
    for name in ("attn_norm", "ffn_norm"):
        writer.add_tensor(f"blk.0.{name}.weight", np.ones(HIDDEN, np.float32))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        writer.add_tensor(f"blk.0.{name}.weight", draw(HIDDEN, HIDDEN))
    means = {}
    for name, shape in (("ffn_gate", (MLP, HIDDEN)), ("ffn_up", (MLP, HIDDEN)), ("ffn_down", (HIDDEN, MLP))):
        packed = gguf.quantize(draw(*shape), GGMLQuantizationType.Q4_1)
        means[name] = gguf.dequantize(packed, GGMLQuantizationType.Q4_1)
        writer.add_tensor(f"blk.0.{name}.weight", packed, raw_dtype=GGMLQuantizationType.Q4_1)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    return means["ffn_up"]


def test_a_converted_model_has_the_dequantised_weights_and_loads_as_plain_float32(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from core.model.files.convert import convert_gguf

    up = write_gguf(tmp_path / "Small.Q4_1.gguf")
    folder = convert_gguf(tmp_path / "Small.Q4_1.gguf", tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert str(model.dtype) == "torch.float32"
    assert (model.model.layers[0].mlp.up_proj.weight.detach().numpy() == up).all()
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    assert "Q4_1" in (folder / "README.md").read_text() and "dequantised" in (folder / "README.md").read_text()
    assert AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids("ab") is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Small.Q4_1.gguf", "model"]


def test_a_cut_off_file_is_one_sentence_and_leaves_no_folder(tmp_path, capsys):
    from core.model.files.convert import convert_gguf, main

    write_gguf(tmp_path / "whole.gguf")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes((tmp_path / "whole.gguf").read_bytes()[:3000])
    with pytest.raises(ModelError, match=r"^cut\.gguf cannot be read as a language model"):
        convert_gguf(cut, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    assert main([str(cut), str(tmp_path / "model")]) == 1
    assert capsys.readouterr().err.count("error: ") == 1
    assert main([]) == 2


def test_a_full_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    from core.model.files import convert

    write_gguf(tmp_path / "a.gguf")
    monkeypatch.setattr(convert.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000})())
    with pytest.raises(ResourceError, match=r"needs .* MB of disk"):
        convert.convert_gguf(tmp_path / "a.gguf", tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]
