"""Model files are hostile until shown otherwise: each of these ends in one sentence with a remedy, and none of them runs or reads a thing."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path

import pytest
import safetensors.torch
import torch

from core.errors import ModelError, PrunariumError, ResourceError
from core.model.files.header import preview
from core.model.files.source import locate
from core.model.loading import load
from tests.model_folders import edit_config, entry, letters, saved, tiny, write_safetensors


def refused(source: Path, kind: type[PrunariumError] = ModelError, **options: object) -> str:
    """The sentence that loading ends in; it has a remedy and no line break."""
    with pytest.raises(kind) as caught:
        load(str(source), **options)
    assert caught.value.problem.endswith(".") and caught.value.remedy.endswith(".")
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Trap:
    """Unpickling this writes a file: the proof that a pickle was opened."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.write_text, (self.path, "opened"))


@pytest.mark.quick
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
@pytest.mark.parametrize("config", [True, False])
def test_a_pickle_checkpoint_is_refused_and_never_opened(name: str, config: bool, tmp_path: Path):
    folder = saved(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    if not config:
        (folder / "config.json").unlink()
    (folder / name).write_bytes(pickle.dumps(Trap(tmp_path / "trap")))
    assert "pickle checkpoint" in refused(folder)
    assert "pickle checkpoint" in refused(folder / name)
    assert not (tmp_path / "trap").exists()


@pytest.mark.quick
def test_a_pickle_beside_safetensors_is_left_alone(tmp_path: Path):
    folder = saved(tmp_path / "model")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(tmp_path / "trap")))
    (folder / "training_args.bin").write_bytes(pickle.dumps(Trap(tmp_path / "trap")))
    load(str(folder))
    assert not (tmp_path / "trap").exists()


@pytest.mark.quick
def test_truncated_weights_are_refused(tmp_path: Path):
    path = saved(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    assert "cut off" in refused(tmp_path)


@pytest.mark.quick
def test_a_header_that_claims_a_terabyte_is_refused_before_anything_is_allocated(tmp_path: Path):
    saved(tmp_path)
    write_safetensors(tmp_path / "model.safetensors", {"a": entry([2**38], 0, 2**40)}, 16)
    assert "1,099,511,627,776 bytes" in refused(tmp_path)


@pytest.mark.quick
def test_an_honest_model_larger_than_memory_is_refused_with_both_figures(tmp_path: Path):
    """A sparse file: it truly has 400 GB of zeros, and takes no disk."""
    saved(tmp_path, num_hidden_layers=1)
    write_safetensors(tmp_path / "model.safetensors", {"a": entry([10**11], 0, 4 * 10**11)}, 4 * 10**11)
    said = refused(tmp_path, ResourceError)
    assert "needs 400.0 GB of memory" in said and "GB left" in said


@pytest.mark.quick
def test_memory_can_be_limited_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    saved(tmp_path)
    monkeypatch.setenv("PRUNARIUM_MEMORY_GB", "0.00005")
    assert "0.1 MB" in refused(tmp_path, ResourceError)
    monkeypatch.setenv("PRUNARIUM_MEMORY_GB", "0.2")
    load(str(tmp_path))
    monkeypatch.setenv("PRUNARIUM_MEMORY_GB", "much")
    assert "not a number" in refused(tmp_path, ResourceError)


@pytest.mark.quick
def test_a_lazy_model_needs_no_more_memory_than_its_largest_block_and_what_is_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    saved(tmp_path, num_hidden_layers=8)
    monkeypatch.setenv("PRUNARIUM_MEMORY_GB", "0.0001")
    refused(tmp_path, ResourceError)
    load(str(tmp_path), lazy=True)
    monkeypatch.setenv("PRUNARIUM_MEMORY_GB", "0.00001")
    assert "a block at a time" in refused(tmp_path, ResourceError, lazy=True)


@pytest.mark.quick
def test_a_name_is_only_text(tmp_path: Path):
    name = "a.${alert(1)}"
    saved(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file({**tensors, name: torch.zeros(2)}, path)
    assert name in {tensor.name for tensor in preview(tmp_path).tensors}
    assert load(str(tmp_path)).unused == (name,)


@pytest.mark.quick
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(("value", "said"), [(float("nan"), "NaN"), (float("inf"), "infinite")])
def test_weights_that_are_no_numbers_are_refused_by_name(value: float, said: str, lazy: bool, tmp_path: Path):
    model = tiny("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 5] = value
    model.save_pretrained(tmp_path)
    if lazy:
        loaded = load(str(tmp_path), lazy=True)
        with pytest.raises(ModelError, match=f"model.layers.1.mlp.up_proj.weight are damaged: some are {said}"), loaded.block(1):
            pass
    else:
        assert f"model.layers.1.mlp.up_proj.weight are damaged: some are {said}" in refused(tmp_path)


@pytest.mark.quick
@pytest.mark.parametrize("lazy", [False, True])
def test_missing_weights_never_pass_as_random_ones(lazy: bool, tmp_path: Path):
    path = saved(tmp_path) / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    safetensors.torch.save_file(tensors, path)
    assert "lacks weights that its architecture needs: model.layers.1.mlp.up_proj.weight." in refused(tmp_path, lazy=lazy)


@pytest.mark.quick
def test_a_base_model_under_the_name_of_one_with_a_head_is_refused(tmp_path: Path):
    tiny("bert").bert.save_pretrained(tmp_path)
    edit_config(tmp_path, architectures=["BertForSequenceClassification"])
    assert "lacks weights" in refused(tmp_path)


@pytest.mark.quick
@pytest.mark.parametrize("lazy", [False, True])
def test_weights_of_another_shape_than_the_config_are_refused(lazy: bool, tmp_path: Path):
    edit_config(saved(tmp_path), intermediate_size=48)
    if lazy:
        loaded = load(str(tmp_path), lazy=True)
        with pytest.raises(ModelError, match=r"another shape than config\.json says"), loaded.block(0):
            pass
    else:
        assert "another shape than config.json says" in refused(tmp_path)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "no_such_thing", "architectures": ["NoSuchModel"]}, "no architecture called 'no_such_thing'"),
        ({"architectures": ["NoSuchModel"]}, "no architecture called 'NoSuchModel'"),
        ({"architectures": ["BertModel"]}, "no architecture called 'BertModel' for llama"),
        ({"architectures": ["pipeline"]}, "no architecture called 'pipeline'"),
        ({"architectures": [{"a": 1}]}, "no architecture called"),
        ({"model_type": None}, "does not say its model_type"),
        ({"model_type": ["llama"]}, "does not say its model_type"),
        ({"auto_map": {"AutoModelForCausalLM": "modeling_own.Own"}}, "auto_map"),
        ({"vision_config": {"auto_map": {"AutoModel": "x.Y"}}}, "auto_map"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "stored quantised"),
        ({"num_attention_heads": 0}, "cannot be read"),
        ({"hidden_act": "no_such_act"}, "cannot be read"),
        ({"rope_parameters": "yes"}, "cannot be read"),
    ],
)
def test_a_config_is_refused_that_asks_for(changes: dict, said: str, tmp_path: Path):
    edit_config(saved(tmp_path), **changes)
    (tmp_path / "modeling_own.py").write_text(f"open({str(tmp_path / 'trap')!r}, 'w')\nclass Own: pass\n")
    assert said in refused(tmp_path)
    assert not (tmp_path / "trap").exists()


@pytest.mark.quick
def test_a_config_cannot_choose_the_code_that_runs_or_the_file_that_is_read(tmp_path: Path):
    """transformers would fetch an attention kernel from a hub, and read other weights, where config.json says so."""
    edit_config(
        saved(tmp_path),
        attn_implementation="someone/kernel",
        _attn_implementation="someone/kernel",
        transformers_weights="../else.safetensors",
        _name_or_path="someone/else",
    )
    loaded = load(str(tmp_path))
    assert loaded.model.config._attn_implementation in ("sdpa", "eager")
    assert not hasattr(loaded.model.config, "transformers_weights")


@pytest.mark.quick
def test_an_adapter_is_refused_for_it_names_its_own_base_model(tmp_path: Path):
    (saved(tmp_path) / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "someone/else"}))
    assert "is an adapter" in refused(tmp_path)


@pytest.mark.quick
def test_an_empty_folder_a_folder_without_config_and_nothing_at_all_are_told_apart(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    assert "is empty" in refused(tmp_path / "empty")
    bare = saved(tmp_path / "bare")
    (bare / "config.json").unlink()
    assert "has no config.json" in refused(bare)
    no_weights = saved(tmp_path / "no_weights")
    (no_weights / "model.safetensors").unlink()
    assert "has no weights" in refused(no_weights)
    assert "There is no model at" in refused(tmp_path / "nothing")
    (tmp_path / "notes.txt").write_text("hello")
    assert "is not a model this program reads" in refused(tmp_path / "notes.txt")


@pytest.mark.quick
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"model_type": "llama", "model_type": "bert"}', b"\xff\xff"])
def test_a_damaged_config_is_refused(content: bytes, tmp_path: Path):
    (saved(tmp_path) / "config.json").write_bytes(content)
    assert "config.json" in refused(tmp_path)


@pytest.mark.quick
@pytest.mark.parametrize(
    "name", ["../other/model.safetensors", "/etc/passwd", "..", "a\\b.safetensors", "", "sub/model.safetensors"]
)
def test_an_index_cannot_name_a_file_outside_the_folder(name: str, tmp_path: Path):
    saved(tmp_path / "other")
    folder = saved(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": name}}))
    assert "names a file outside" in refused(folder)


@pytest.mark.quick
def test_an_index_cannot_name_a_pickle_or_what_is_not_there(tmp_path: Path):
    folder = saved(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    index = folder / "model.safetensors.index.json"
    (folder / "shard.bin").write_bytes(pickle.dumps(Trap(tmp_path / "trap")))
    for name, said in (("shard.bin", "pickle checkpoint"), ("gone.safetensors", "gone.safetensors is missing")):
        index.write_text(json.dumps({"weight_map": {"lm_head.weight": name}}))
        assert said in refused(folder)
    index.write_text(json.dumps({"weight_map": {"no.such.weight": "part.safetensors"}}))
    assert "which its shard does not hold" in refused(folder)
    assert not (tmp_path / "trap").exists()


@pytest.mark.quick
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_link_out_of_the_folder_is_refused(name: str, tmp_path: Path):
    folder = saved(tmp_path / "model")
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    assert "is a link to a file outside" in refused(folder)


@pytest.mark.quick
def test_the_links_of_a_hub_cache_are_followed(tmp_path: Path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    saved(blobs)
    snapshot.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).symlink_to(Path("../../blobs") / name)
    assert load(str(snapshot)).anatomy.family == "llama"


@pytest.mark.quick
def test_a_tokenizer_with_code_of_its_own_is_refused(tmp_path: Path):
    folder = saved(tmp_path, tokenizer=True)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "auto_map": {"AutoTokenizer": ["own.Own", None]}}))
    assert "auto_map" in refused(folder)


@pytest.mark.quick
def test_a_damaged_tokenizer_is_refused(tmp_path: Path):
    folder = saved(tmp_path)
    letters().save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{")
    assert "The tokenizer cannot be read" in refused(folder)


def gguf(
    path: Path, *, tensors: int = 1, pairs: int = 1, offset: int = 0, length: int = 4, data: int = 64, shape: int = 16
) -> Path:
    """A GGUF file with one setting and one tensor, any part of which may lie."""
    key, name = b"general.architecture", b"a"
    raw = b"GGUF" + struct.pack("<IQQ", 3, tensors, pairs)
    raw += struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, length) + b"llama"[:4]
    raw += struct.pack("<Q", len(name)) + name + struct.pack("<IQIQ", 1, shape, 0, offset)
    path.write_bytes(raw + b"\0" * (-len(raw) % 32) + b"\0" * data)
    return path


@pytest.mark.quick
def test_an_honest_gguf_header_is_read(tmp_path: Path):
    header = preview(gguf(tmp_path / "a.gguf"))
    assert (header.format, header.architecture, header.parameters, header.size_bytes) == ("gguf", "llam", 16, 64)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("lie", "said"),
    [
        ({"tensors": 2**62}, "which no model has"),
        ({"pairs": 2**40}, "which no model has"),
        ({"length": 2**60}, "a text of"),
        ({"shape": 2**50}, "is cut off"),
        ({"offset": 2**50}, "is cut off"),
        ({"offset": 7}, "overlaps another"),
        ({"data": 32}, "is cut off"),
        ({"tensors": 2}, "is wrong|is cut off"),
    ],
)
def test_a_gguf_header_that_lies_is_refused(lie: dict[str, int], said: str, tmp_path: Path):
    with pytest.raises(ModelError, match=said):
        load(str(gguf(tmp_path / "a.gguf", **lie)))


@pytest.mark.quick
@pytest.mark.parametrize("content", [b"", b"GG", b"GGUF", b"GGUF\x09\0\0\0", b"PK\x03\x04" + b"\0" * 64])
def test_what_only_calls_itself_gguf_is_refused(content: bytes, tmp_path: Path):
    (tmp_path / "a.gguf").write_bytes(content)
    assert "a.gguf" in refused(tmp_path / "a.gguf")


def test_a_gguf_file_of_no_model_that_transformers_knows_ends_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PRUNARIUM_CACHE", str(tmp_path / "cache"))
    assert "could not be converted" in refused(gguf(tmp_path / "a.gguf"))
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


@pytest.mark.quick
def test_a_hub_id_without_a_network_is_refused_with_what_to_use_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ResourceError, match="the hub cannot be reached") as caught:
        locate("nobody-of-that-name/nothing@main")
    assert "builtin:tiny-llama" in caught.value.remedy


@pytest.mark.quick
def test_a_folder_that_may_not_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = saved(tmp_path)

    def forbidden(self: Path, *_: object, **__: object) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", forbidden)
    assert "Permission denied" in refused(folder)
