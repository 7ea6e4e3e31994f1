"""A dense Llama split into experts says what it said."""

from __future__ import annotations

import subprocess

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, MixtralForCausalLM

from core import builtins
from core.errors import ModelError, ResourceError
from core.events import Silent
from core.model.files import made_folder
from core.model.files.split_experts import main, split, split_folder
from core.model.loading import from_module, load
from core.model.pruning.step import prune
from core.recipe import parse

from .tiny_models import llama, tokenizer

IDS = torch.randint(1, 300, (3, 20), generator=torch.Generator().manual_seed(0))


def says(model) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def dense(**changed):
    return llama(layers=3, initializer_range=0.2, rms_norm_eps=1e-5, head_dim=8, **changed)


@pytest.mark.quick
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize(
    "rope", [{"rope_type": "default", "rope_theta": 500.0}, {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}]
)
def test_all_experts_together_say_what_the_dense_model_says(count, rope):
    model = dense(rope_parameters=rope)
    made = split(model, count)
    assert (says(made) - says(model)).abs().max() <= 1e-4 < says(model).abs().max()
    assert made.config.num_local_experts == made.config.num_experts_per_tok == count
    router = count * 32 * 3
    assert sum(p.numel() for p in made.parameters()) == sum(p.numel() for p in model.parameters()) + router
    assert made.lm_head.weight is made.model.embed_tokens.weight


@pytest.mark.quick
def test_each_expert_is_a_quarter_of_the_neurons_and_without_one_the_rest_have_gates_of_a_third():
    model = dense()
    made = split(model, 4)
    done = prune(
        from_module(made, "moe"),
        parse({"recipe": 1, "name": "x", "model": {"source": "x"}, "steps": [
            {"prune": {"method": "magnitude", "structure": "experts", "sparsity": 0.25}}]}).steps[0].prune,
        lambda: IDS, 0, Silent(),
    )  # fmt: skip
    assert done.said["experts_a_token"] == 3
    for block, cut in zip(model.model.layers, done.cuts, strict=True):
        gone = int((~cut.keep).nonzero())
        block.mlp.down_proj.weight.data[:, 12 * gone : 12 * (gone + 1)] = 0
        block.mlp.down_proj.weight.data *= 4 / 3
    assert (says(done.loaded.model) - says(model)).abs().max() <= 1e-4


@pytest.mark.quick
@pytest.mark.parametrize("changed", [{"mlp_bias": True}, {"attention_bias": True}, {"intermediate_size": 50}])
def test_what_a_mixtral_cannot_be_is_refused(changed):
    with pytest.raises(ModelError, match="cannot be 4 equal experts"):
        split(dense(**changed), 4)


@pytest.mark.quick
def test_a_folder_is_made_whole_with_tokenizer_and_card_and_loads_natively(tmp_path):
    model = dense()
    model.save_pretrained(tmp_path / "dense")
    tokenizer().save_pretrained(tmp_path / "dense")
    assert main([str(tmp_path / "dense"), str(tmp_path / "moe"), "4", "builtin:dense"]) == 0
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "moe")
    assert isinstance(again, MixtralForCausalLM) and (says(again) - says(model)).abs().max() <= 1e-4
    assert AutoTokenizer.from_pretrained(tmp_path / "moe")("fox")["input_ids"] == tokenizer()("fox")["input_ids"]
    card = (tmp_path / "moe" / "README.md").read_text()
    assert "builtin:dense" in card and "never trained as a mixture" in card
    assert "experts" not in load(str(tmp_path / "moe")).anatomy.refused
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense", "moe"]


@pytest.mark.quick
def test_a_full_disk_is_said_before_anything_is_written(tmp_path, monkeypatch, capsys):
    from core.model.files import split_experts

    dense().save_pretrained(tmp_path / "dense")
    monkeypatch.setattr(split_experts.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000})())
    with pytest.raises(ResourceError, match=r"needs .* MB of disk"):
        split_folder(tmp_path / "dense", tmp_path / "moe", 4, "x")
    assert main([str(tmp_path / "dense"), str(tmp_path / "moe"), "4", "x"]) == 1 and main([]) == 2
    assert "error: moe needs" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


def test_the_built_in_mixture_is_made_once_in_a_process_of_its_own(tmp_path, monkeypatch):
    """The same way as smollm2-moe, from a tiny model in smollm2-135m's place."""
    monkeypatch.setenv("PRUNARIUM_CACHE", str(tmp_path))
    place = tmp_path / "smollm2-135m" / "model"
    model = dense()
    model.save_pretrained(place)
    tokenizer().save_pretrained(place)
    assert not builtins.present("smollm2-moe")
    folder = builtins.model_path("builtin:smollm2-moe")
    assert folder == tmp_path / "smollm2-moe"
    assert (says(load("builtin:smollm2-moe").model) - says(model)).abs().max() <= 1e-4
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("it was made again"))
    assert made_folder.made(folder, "smollm2-135m") == builtins.prepare("smollm2-moe") == folder


def test_a_damaged_source_ends_in_a_sentence_and_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNARIUM_CACHE", str(tmp_path))
    place = tmp_path / "smollm2-135m" / "model"
    dense().save_pretrained(place)
    tokenizer().save_pretrained(place)
    (place / "model.safetensors").write_bytes(b"no")
    with pytest.raises(ModelError, match="smollm2-moe could not be made from smollm2-135m"):
        builtins.fetch("smollm2-moe")
    assert not (tmp_path / "smollm2-moe").exists()
