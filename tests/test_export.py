"""A saved model is the model in memory: loaded again with the same tensors and outputs, whole or not there, and small failures say why."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from core.errors import ModelError, ResourceError
from core.model.depth.surgery import remove_blocks
from core.model.files import export
from core.model.files.export import save
from core.model.loading import from_module, load
from core.model.measuring.counts import counts, saved_bytes
from core.recipe import parse
from tests.tiny_models import bert, gpt2, halved, llama, resnet, tokenizer

RECIPE = parse({"recipe": 1, "name": "wanda-half", "model": {"source": "builtin:tiny-llama"},
                "steps": [{"prune": {"method": "wanda", "sparsity": 0.5}}]})  # fmt: skip


def halved_model(build, dtype: torch.dtype = torch.bfloat16):
    """A pruned model in float32 that came from a file of `dtype`."""
    loaded = from_module(build(), "tiny")
    halved(loaded.model, [layer.path for layer in loaded.anatomy.layers])
    return replace(loaded, source_dtype=dtype)


def outputs(model) -> torch.Tensor:
    given = torch.ones(1, 1, 8, 8) if model.main_input_name == "pixel_values" else torch.arange(1, 17)[None]
    with torch.no_grad():
        return model(given).logits


@pytest.mark.quick
@pytest.mark.parametrize("build", [llama, gpt2, bert, resnet])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_a_saved_model_loads_again_with_the_same_outputs_and_zeros(build, dtype, tmp_path):
    loaded = halved_model(build, dtype)
    said = save(loaded, tmp_path / "model")
    again = type(loaded.model).from_pretrained(tmp_path / "model", dtype=torch.float32)
    for name, tensor in loaded.model.state_dict().items():
        kept = tensor.to(dtype).float() if tensor.is_floating_point() else tensor
        assert torch.equal(again.state_dict()[name], kept), name
    assert said["difference"] == 0 and said["dtype"] == str(dtype).removeprefix("torch.")
    assert float((outputs(again) - outputs(loaded.model)).abs().max()) <= (0 if dtype is torch.float32 else 0.05)
    assert said["rounding"] == 0 if dtype is torch.float32 else said["rounding"] > 0
    assert said["nonzero"] == counts(again).nonzero <= counts(loaded.model).nonzero


@pytest.mark.quick
@pytest.mark.parametrize("build", [llama, gpt2, bert, resnet])
def test_the_bytes_foretold_are_the_bytes_on_disk(build, tmp_path):
    loaded = halved_model(build)
    said = save(loaded, tmp_path / "model")
    assert said["size_bytes"] == saved_bytes(tmp_path / "model")
    assert said["size_bytes"] == pytest.approx(
        counts(loaded.model, loaded.source_dtype).size_bytes, abs=64
    )  # names in the header


@pytest.mark.quick
def test_the_dtype_is_that_of_the_source_on_disk_and_in_the_config(tmp_path):
    loaded = halved_model(llama)
    save(loaded, tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16} and "lm_head.weight" not in tensors
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == "bfloat16"
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").dtype == torch.bfloat16


@pytest.mark.quick
@pytest.mark.parametrize("build", [lambda: llama(layers=4), gpt2], ids=["llama", "gpt2"])
def test_a_model_without_some_of_its_blocks_loads_natively(build, tmp_path):
    loaded = remove_blocks(from_module(build(), "tiny"), [1])
    save(loaded, tmp_path / "model")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert torch.equal(outputs(again), outputs(loaded.model)) and counts(again) == counts(loaded.model)
    assert again.generate(torch.ones(1, 3, dtype=torch.int64), max_new_tokens=2).shape == (1, 5)


@pytest.mark.quick
def test_what_was_saved_opens_as_any_model_does_and_can_be_saved_again(tmp_path):
    loaded = replace(halved_model(llama), tokenizer=tokenizer())
    save(loaded, tmp_path / "first")
    opened = load(str(tmp_path / "first"))
    assert opened.source_dtype == torch.bfloat16 and opened.tokenizer("abc")["input_ids"] == loaded.tokenizer("abc")["input_ids"]
    save(opened, tmp_path / "second")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second")]
    assert weights[0] == weights[1]
    assert AutoTokenizer.from_pretrained(tmp_path / "second").decode([5, 6]) == loaded.tokenizer.decode([5, 6])


@pytest.mark.quick
def test_the_card_says_what_was_done_measured_and_how_to_load_it(tmp_path):
    loaded = replace(halved_model(llama), tokenizer=tokenizer())
    fields = {
        "dense": {"perplexity": 30.5, "parameters": 1000},
        "pruned": {"perplexity": 61.25, "parameters": 1000},
        "sparsity": {"pruned_layers": 0.5},
        "steps": [{"kind": "prune", "method": "wanda", "nonzero_before": 1000, "nonzero_after": 500}],
        "protocol": {"perplexity": {"source": "builtin:wikitext2/test", "tokens": 512, "stride": None}},
    }
    save(loaded, tmp_path / "model", RECIPE, fields)
    card = (tmp_path / "model" / "README.md").read_text()
    for said in ("# wanda-half", "builtin:tiny-llama", "1. prune: wanda (1,000 to 500 non-zero parameters)", "50.0% of pruned layers",
                 "| Perplexity | 30.500 | 61.250 |", "source builtin:wikitext2/test, tokens 512, stride none", "neither faster nor smaller",
                 'LlamaForCausalLM.from_pretrained("path/to/this/folder"', "```yaml\nrecipe: 1\n", "bit for bit"):  # fmt: skip
        assert said in card


@pytest.mark.quick
def test_no_markup_from_a_name_survives_on_the_card(tmp_path):
    loaded = replace(halved_model(llama), name="x`<img src=x onerror=alert(1)>|\n# y")
    save(loaded, tmp_path / "model", None, {"protocol": {"perplexity": {"source": "<script>alert(1)</script>"}}})
    card = (tmp_path / "model" / "README.md").read_text()
    assert "<img" not in card and "<script" not in card and "\n# y" not in card


@pytest.mark.quick
def test_settings_that_transformers_refuses_to_save_do_not_stop_a_save(tmp_path):
    loaded = halved_model(llama)
    loaded.model.generation_config = GenerationConfig(temperature=0.6, top_p=0.9)  # as many published models have it
    save(loaded, tmp_path / "model")
    kept = json.loads((tmp_path / "model" / "generation_config.json").read_text())
    assert kept["temperature"] == 0.6 and not loaded.model.generation_config.do_sample


@pytest.mark.quick
def test_a_module_that_transformers_does_not_know_is_saved_as_its_state_with_a_note(tmp_path):
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    module[1].weight = module[0].weight
    said = save(from_module(module, "own"), tmp_path / "model")
    again = load_file(tmp_path / "model" / "model.safetensors")
    assert torch.equal(again["0.weight"], module[0].weight) and "1.weight" not in again
    assert said["difference"] is None and "load_model(module" in (tmp_path / "model" / "README.md").read_text()


@pytest.mark.quick
def test_a_folder_that_holds_something_is_not_written_over(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("mine")
    with pytest.raises(ResourceError, match="already holds something"):
        save(halved_model(llama), tmp_path / "model")
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "mine.txt"]


@pytest.mark.quick
@pytest.mark.parametrize("change", ["weight", "config"])
def test_a_save_that_loads_as_another_model_is_not_kept(change, tmp_path, monkeypatch):
    loaded, load_again = halved_model(llama, torch.float32), export._load_again

    def tamper(model, scratch):
        again = load_again(model, scratch)
        if change == "weight":
            again.model.layers[1].mlp.up_proj.weight.data[3, 3] += 1e-6
        else:
            again.model.layers[1].self_attn.scaling *= 2
        return again

    monkeypatch.setattr(export, "_load_again", tamper)
    with pytest.raises(ModelError, match="is not the one in memory"):
        save(loaded, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.quick
def test_a_disk_too_small_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(export.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1_000_000})())
    with pytest.raises(ResourceError, match=r"needs 16 MB and .* has 1 MB free"):
        save(halved_model(llama), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


SAVE = """
import os, signal, sys
from pathlib import Path
from core.errors import PrunariumError
from core.model.files import export
from core.model.loading import from_module
from tests.tiny_models import llama
{before}
try:
    export.save(from_module(llama(vocab_size=30000), "tiny"), Path(sys.argv[1]))
except PrunariumError as error:
    print(error)
    sys.exit(1)
"""


def save_elsewhere(checkout: Path, folder: Path, before: str = "") -> subprocess.CompletedProcess[str]:
    """Save a model of 4 MB from a process of its own, after the lines `before`."""
    return subprocess.run(
        [sys.executable, "-c", SAVE.format(before=before), str(folder)],
        cwd=checkout, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_file_limit_while_saving_is_one_sentence_and_leaves_nothing(checkout, tmp_path):
    """The system's own refusal in the middle of the weights, as a full quota gives it."""
    done = save_elsewhere(
        checkout, tmp_path / "model", "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))"
    )
    assert done.returncode == 1 and "was not written" in done.stdout and "Traceback" not in done.stderr, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_while_saving_is_one_sentence_and_leaves_nothing(checkout, tmp_path):
    """A real disk of 2 MB, and a model of 4 MB that the first look let through."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], check=False, capture_output=True).returncode
    ):
        pytest.skip("only root may mount a small disk; the file limit above stands for it")
    try:
        done = save_elsewhere(checkout, disk / "model", "export._check_room = lambda *_: None")
        assert done.returncode == 1 and "The disk is full" in done.stdout and "Traceback" not in done.stderr, done.stderr
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_save_killed_in_the_middle_leaves_no_half_folder_and_the_next_one_cleans_up(checkout, tmp_path):
    die = "export._load_again = lambda *_: os.kill(os.getpid(), signal.SIGKILL)"
    assert save_elsewhere(checkout, tmp_path / "model", die).returncode == -signal.SIGKILL
    left = list(tmp_path.iterdir())
    assert len(left) == 1 and left[0].name.startswith(".model.saving-") and (left[0] / "model.safetensors").exists()
    done = save_elsewhere(checkout, tmp_path / "model")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
