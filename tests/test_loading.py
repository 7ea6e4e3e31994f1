"""Loading gives exactly the stored model, whole or block by block, in no more memory than it takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from core.errors import ModelError, PrunariumError, RecipeError, ResourceError
from core.model.files.header import preview
from core.model.files.source import fingerprint, locate
from core.model.loading import LoadedModel, from_module, load, pick_device
from tests.model_folders import CLASSES, edit_config, entry, inputs, saved, tiny, write_gguf, write_safetensors


def output(model: nn.Module, name: str) -> torch.Tensor:
    with torch.no_grad():
        return model(inputs(name)).logits


@pytest.mark.quick
@pytest.mark.parametrize("name", CLASSES)
def test_what_is_loaded_computes_what_was_saved(name: str, tmp_path: Path):
    loaded = load(str(saved(tmp_path, name)), device="cpu")
    assert torch.equal(output(loaded.model, name), output(tiny(name), name))
    assert loaded.unused == () and loaded.tokenizer is None
    assert not loaded.model.training and not any(parameter.requires_grad for parameter in loaded.model.parameters())


@pytest.mark.quick
@pytest.mark.parametrize("name", [name for name in CLASSES if name != "bart"])
def test_a_lazy_pass_with_one_block_in_memory_at_a_time_computes_the_same_in(name: str, tmp_path: Path):
    loaded = load(str(saved(tmp_path, name)), device="cpu", lazy=True)
    assert all(parameter.is_meta for parameter in loaded.model.parameters())
    most = follow(loaded)
    with loaded.outside():
        computed = output(loaded.model, name)
    assert torch.equal(computed, output(tiny(name), name))
    assert max(most) == 1
    assert all(parameter.is_meta for parameter in loaded.model.parameters())


def follow(loaded: LoadedModel) -> list[int]:
    """Bring each block in just before it runs and let it go just after; the list grows by the number of blocks then in memory."""
    most: list[int] = []

    def in_memory() -> int:
        return sum(not next(loaded.module(block.path).parameters()).is_meta for block in loaded.anatomy.blocks)

    for block in loaded.anatomy.blocks:
        held = []

        def before(module: nn.Module, args: object, index: int = block.index, held: list = held) -> None:
            held.append(loaded.block(index))
            held[-1].__enter__()
            most.append(in_memory())

        def after(module: nn.Module, args: object, result: object, held: list = held) -> None:
            held.pop().__exit__(None, None, None)

        loaded.module(block.path).register_forward_pre_hook(before)
        loaded.module(block.path).register_forward_hook(after)
    return most


@pytest.mark.quick
def test_a_lazy_block_keeps_what_was_changed_only_where_asked(tmp_path: Path):
    loaded = load(str(saved(tmp_path)), lazy=True)
    for index, keep in ((0, True), (1, False)):
        with loaded.block(index, keep=keep) as block, torch.no_grad():
            block.mlp.up_proj.weight.zero_()
    with loaded.block(0) as kept, loaded.block(1) as let_go:
        assert not kept.mlp.up_proj.weight.any() and let_go.mlp.up_proj.weight.any()
    assert not next(kept.parameters()).is_meta and next(let_go.parameters()).is_meta


@pytest.mark.quick
def test_a_block_held_twice_stays_until_the_outer_one_ends(tmp_path: Path):
    loaded = load(str(saved(tmp_path)), lazy=True)
    with loaded.block(0) as block:
        with loaded.block(0):
            pass
        assert not next(block.parameters()).is_meta
    assert next(block.parameters()).is_meta


@pytest.mark.quick
def test_tied_weights_stay_tied_when_they_are_let_go_and_brought_back(tmp_path: Path):
    loaded = load(str(saved(tmp_path, "qwen2")), lazy=True)
    for _ in range(2):
        with loaded.outside() as model:
            assert model.lm_head.weight is model.model.embed_tokens.weight and not model.lm_head.weight.is_meta
        assert loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight


@pytest.mark.quick
def test_weights_are_computed_in_float32_and_their_own_dtype_is_remembered(tmp_path: Path):
    tiny("llama").to(torch.bfloat16).save_pretrained(tmp_path)
    loaded = load(str(tmp_path))
    assert loaded.source_dtype == torch.bfloat16 and loaded.model.dtype == torch.float32
    expected = tiny("llama").model.layers[0].mlp.up_proj.weight.to(torch.bfloat16)
    assert torch.equal(loaded.model.model.layers[0].mlp.up_proj.weight, expected.float())
    assert load(str(tmp_path), dtype="bfloat16").model.dtype == torch.bfloat16


@pytest.mark.quick
@pytest.mark.parametrize("lazy", [False, True])
def test_shards_are_loaded_together(lazy: bool, tmp_path: Path):
    tiny("llama").save_pretrained(tmp_path, max_shard_size="20KB")
    loaded = load(str(tmp_path), lazy=lazy)
    with loaded.outside(), loaded.block(0), loaded.block(1):
        assert torch.equal(output(loaded.model, "llama"), output(tiny("llama"), "llama"))


@pytest.mark.quick
def test_the_names_that_older_versions_wrote_are_understood(tmp_path: Path):
    """A ViT saved years ago calls its layers otherwise; transformers knows how, and so do lazy blocks."""
    path = saved(tmp_path, "vit") / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    assert set(tensors) != set(tiny("vit").state_dict())
    for lazy in (False, True):
        loaded = load(str(tmp_path), lazy=lazy)
        with loaded.outside(), loaded.block(0), loaded.block(1):
            assert torch.equal(output(loaded.model, "vit"), output(tiny("vit"), "vit"))


@pytest.mark.quick
def test_a_config_without_architectures_gets_the_class_that_fits_its_type(tmp_path: Path):
    for name in ("llama", "bert", "vit"):
        folder = edit_config(saved(tmp_path / name, name), architectures=None)
        assert type(load(str(folder)).model) is type(tiny(name))


@pytest.mark.quick
def test_the_tokenizer_and_the_generation_settings_come_along(tmp_path: Path):
    folder = saved(tmp_path, tokenizer=True)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 7, "max_length": 33}))
    loaded = load(str(folder))
    assert loaded.tokenizer is not None and len(loaded.tokenizer("abc")["input_ids"]) == 3
    assert loaded.model.generation_config.eos_token_id == 7


@pytest.mark.quick
def test_any_module_can_be_taken_as_it_is():
    loaded = from_module(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), "plain")
    assert (loaded.name, loaded.source_dtype, loaded.tokenizer) == ("plain", torch.float32, None)
    assert loaded.module(loaded.anatomy.layers[1].path).weight.shape == (2, 8)
    llama = from_module(tiny("llama"), "own")
    with llama.block(1) as block, llama.outside() as model:
        assert block is model.model.layers[1]


@pytest.mark.quick
@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"dtype": "float8"}, RecipeError, "no dtype 'float8'"),
        ({"device": "toaster"}, RecipeError, "no device 'toaster'"),
        ({"device": "cpu:x"}, RecipeError, "no device 'cpu:x'"),
        ({"device": "cuda:99"}, ResourceError, "has no cuda:99"),
    ],
)
def test_a_dtype_or_device_that_is_not_there_is_refused(options: dict, kind: type[PrunariumError], said: str, tmp_path: Path):
    with pytest.raises(kind, match=said) as caught:
        load(str(saved(tmp_path)), **options)
    assert caught.value.remedy


@pytest.mark.quick
def test_the_device_is_what_the_machine_has():
    assert pick_device("auto").type == (
        "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    )
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.quick
def test_the_fingerprint_follows_the_content_and_not_the_place(tmp_path: Path):
    one, two = saved(tmp_path / "one"), saved(tmp_path / "two")
    first = fingerprint(locate(str(one)))
    assert first == fingerprint(locate(str(two))) and len(first) == 64
    edit_config(two, rms_norm_eps=1e-3)
    assert fingerprint(locate(str(two))) != first
    raw = bytearray((one / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (one / "model.safetensors").write_bytes(raw)
    assert fingerprint(locate(str(one))) != first


@pytest.mark.quick
def test_the_fingerprint_of_a_big_file_sees_its_end(tmp_path: Path):
    path = write_safetensors(saved(tmp_path) / "model.safetensors", {"a": entry([2**20], 0, 2**22)}, 2**22)
    first = fingerprint(locate(str(tmp_path)))
    with path.open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"x")
    assert fingerprint(locate(str(tmp_path))) != first


@pytest.mark.quick
def test_a_source_is_located_by_what_it_is(tmp_path: Path):
    assert locate("builtin:tiny-llama").kind == "folder" and locate("builtin:tiny-llama").name == "builtin:tiny-llama"
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    assert (locate(str(tmp_path / "a.gguf")).kind, locate(str(tmp_path / "a.gguf")).name) == ("gguf", "a")
    with pytest.raises(RecipeError, match="The built-in model is called builtin:tiny-llama"):
        locate("tiny-llama")
    with pytest.raises(RecipeError, match="nothing built in called no-such"):
        locate("builtin:no-such")
    with pytest.raises(ModelError, match=r"no model at \./nothing/here/at all"):
        locate("./nothing/here/at all")


@pytest.mark.quick
@pytest.mark.parametrize(
    ("name", "kind"),
    [("tiny-llama", "decoder"), ("tiny-moe", "decoder"), ("tiny-cnn", "image_classifier"), ("tiny-vit", "image_classifier")],
)
def test_the_demo_models_load(name: str, kind: str):
    loaded = load(f"builtin:{name}")
    assert loaded.anatomy.kind == kind and loaded.source_dtype == torch.bfloat16
    assert (loaded.tokenizer is not None) == (kind == "decoder")


def test_a_gguf_file_is_converted_once_and_then_loads_like_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PRUNARIUM_CACHE", str(tmp_path / "cache"))
    path = write_gguf(tmp_path / "small.gguf")
    assert {tensor.name: tensor.shape for tensor in preview(path).tensors}["blk.0.ffn_up.weight"] == (64, 32)
    loaded = load(str(path))
    assert (loaded.name, loaded.anatomy.kind, len(loaded.anatomy.blocks)) == ("small", "decoder", 1)
    assert torch.isfinite(loaded.model(torch.arange(8)[None]).logits).all()
    assert len(loaded.tokenizer("hello")["input_ids"]) == 5
    monkeypatch.setattr(subprocess, "run", None)  # nothing is converted again
    assert torch.equal(load(str(path)).model.lm_head.weight, loaded.model.lm_head.weight)


_MEASURE = """
import os, sys
os.environ["OMP_NUM_THREADS"] = "1"
from core.model.files.header import preview
from core.model.loading import load
def held(key):
    return int(next(line for line in open("/proc/self/status") if line.startswith(key)).split()[1]) * 1024
open("/proc/self/clear_refs", "w").write("5")  # the peak starts again from here
before = held("VmRSS")
model = load(sys.argv[1]).model
print((held("VmHWM") - before) / sum(4 * parameter.numel() for parameter in model.parameters()))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loading_holds_the_weights_once(dtype: torch.dtype, tmp_path: Path, checkout: Path):
    """96 MB of weights. A memory map, or a second copy, would make it twice that."""
    tiny("llama", hidden_size=512, intermediate_size=2048, num_hidden_layers=6).to(dtype).save_pretrained(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(tmp_path)], cwd=checkout, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 1.6
