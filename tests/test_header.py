"""A header is read and bounded before any weight; its preview says what the model is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from core.errors import ModelError
from core.model.files.header import memory_estimate, preview
from core.model.files.safetensors_file import read_safetensors
from tests.model_folders import entry, saved, tiny, write_safetensors


@pytest.mark.quick
def test_a_preview_says_what_the_model_is_without_torch(tmp_path: Path, checkout: Path):
    saved(tmp_path)
    code = (
        "import sys; from pathlib import Path; from core.model.files.header import preview; from core.model.files.source import locate; "
        f"h = preview(locate({str(tmp_path)!r}).path); "
        "print(h.architecture, h.parameters, h.size_bytes, sorted({'torch', 'transformers', 'numba'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, check=True).stdout
    parameters = sum(parameter.numel() for parameter in tiny("llama").parameters())
    assert said.split() == ["LlamaForCausalLM", str(parameters), str(4 * parameters), "[]"]


@pytest.mark.quick
def test_the_memory_estimate_is_four_bytes_a_weight_in_float32_and_two_in_bfloat16(tmp_path: Path):
    header = preview(saved(tmp_path))
    assert memory_estimate(header) == 4 * header.parameters
    assert memory_estimate(header, "bfloat16") == 2 * header.parameters


@pytest.mark.quick
def test_shards_are_read_together(tmp_path: Path):
    tiny("llama").save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    header = preview(tmp_path)
    assert header.parameters == sum(parameter.numel() for parameter in tiny("llama").parameters())
    assert len({tensor.file for tensor in header.tensors}) > 1


@pytest.mark.quick
def test_scalars_and_empty_tensors_are_fine(tmp_path: Path):
    path = write_safetensors(
        tmp_path / "a.safetensors", {"s": entry([], 0, 4), "e": entry([0, 3], 4, 4), "__metadata__": {"format": "pt"}}, 4
    )
    assert {tensor.name: tensor.size_bytes for tensor in read_safetensors(path)} == {"s": 4, "e": 0}


LIES = {
    "sizes that do not fit the shape": ({"a": entry([4], 0, 8)}, 8, "is wrong about the tensor 'a'"),
    "a terabyte in a small file": ({"a": entry([2**38], 0, 2**40)}, 16, "is cut off: its header speaks of 1,099,511,627,776 bytes"),
    "a size that overflows 64 bits": ({"a": entry([2**33, 2**33], 0, 16)}, 16, "is wrong about the tensor 'a'"),
    "two tensors in one place": ({"a": entry([4], 0, 16), "b": entry([4], 8, 24)}, 24, "the tensor 'b' overlaps another"),
    "a hole": ({"a": entry([4], 0, 16), "b": entry([4], 20, 36)}, 36, "the tensor 'b' leaves a hole"),
    "bytes of no tensor": ({"a": entry([4], 0, 16)}, 20, "has bytes that belong to no tensor"),
    "a negative size": ({"a": entry([-4], 0, -16)}, 16, "is wrong about the tensor 'a'"),
    "offsets backwards": ({"a": entry([4], 16, 0)}, 16, "is wrong about the tensor 'a'"),
    "a size that is no whole number": ({"a": entry([4.0], 0, 16)}, 16, "is wrong about the tensor 'a'"),
    "a size that is true": ({"a": entry([True], 0, 4)}, 4, "is wrong about the tensor 'a'"),
    "a thousand dimensions": ({"a": entry([1] * 1000, 0, 4)}, 4, "is wrong about the tensor 'a'"),
    "an unknown dtype": ({"a": entry([4], 0, 16, "F33")}, 16, "stored as 'F33'"),
    "something else than an entry": ({"a": [1, 2]}, 16, "is wrong about the tensor 'a'"),
    "no tensors": ({}, 0, "holds no tensors"),
    "a list for a header": (b"[1, 2]", 0, "not a JSON object"),
    "no JSON": (b"{" * 40, 0, "not valid JSON"),
    "JSON too deep to read": (b'{"a":' + b"[" * 100_000, 0, "not valid JSON"),
    "bytes that are no text": (b"\xff\xfe{}", 0, "not valid JSON"),
    "one name twice": (b'{"a": {"dtype":"F32","shape":[1],"data_offsets":[0,4]}, "a": {"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', 8,
                       "names something twice"),
}  # fmt: skip


@pytest.mark.quick
@pytest.mark.parametrize("lie", LIES)
def test_a_header_is_refused_that_has(lie: str, tmp_path: Path):
    header, data, said = LIES[lie]
    with pytest.raises(ModelError, match=said) as caught:
        read_safetensors(write_safetensors(tmp_path / "model.safetensors", header, data))
    assert caught.value.remedy


@pytest.mark.quick
@pytest.mark.parametrize(
    ("length", "said"), [(2**63, "which no model needs"), (2**20, "is cut off"), (33 * 2**20, "which no model needs")]
)
def test_a_header_length_that_cannot_be_is_refused_unread(length: int, said: str, tmp_path: Path):
    with pytest.raises(ModelError, match=said):
        read_safetensors(write_safetensors(tmp_path / "model.safetensors", {"a": entry([4], 0, 16)}, 16, length))


@pytest.mark.quick
@pytest.mark.parametrize("kept", [0, 5, 8, 200, -1])
def test_a_truncated_file_is_refused_wherever_it_is_cut(kept: int, tmp_path: Path):
    path = saved(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelError, match="cut off") as caught:
        preview(tmp_path)
    assert "again" in caught.value.remedy


@pytest.mark.quick
@pytest.mark.parametrize(
    "changed", [{"num_hidden_layers": 10**9}, {"hidden_size": 10**9}, {"text_config": {"num_layers": 10**7}}]
)
def test_a_config_that_claims_what_the_weights_do_not_bear_out_is_refused(changed: dict, tmp_path: Path):
    path = saved(tmp_path) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    with pytest.raises(ModelError, match=r"config\.json claims 1"):
        preview(tmp_path)
