"""Attention and MLP as units: gone means the same numbers as a layer out of them that gives zeros, in memory and after a round trip."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn
from transformers import Qwen3Config, Qwen3ForCausalLM

from core.errors import ModelError
from core.model.depth.bypass import bypassed
from core.model.depth.sublayers import remove_sublayers, sublayer_units
from core.model.files.export import save
from core.model.loading import from_module, load
from tests.model_folders import TEXT, edit_config, inputs, tiny

pytestmark = pytest.mark.quick
IDS = torch.randint(0, 96, (7, 12), generator=torch.Generator().manual_seed(3))
OUT = {  # family: the layers out of attention and MLP, from the block
    "llama": ("self_attn.o_proj", "mlp.down_proj"),
    "qwen2": ("self_attn.o_proj", "mlp.down_proj"),
    "qwen3": ("self_attn.o_proj", "mlp.down_proj"),
    "gemma2": ("self_attn.o_proj", "mlp.down_proj"),
    "phi3": ("self_attn.o_proj", "mlp.down_proj"),
    "gpt2": ("attn.c_proj", "mlp.c_proj"),
    "opt": ("self_attn.out_proj", "fc2"),
    "gpt_neox": ("attention.dense", "mlp.dense_4h_to_h"),
    "falcon": ("self_attention.dense", "mlp.dense_4h_to_h"),
    "bert": ("attention.output.dense", "output.dense"),
    "vit": ("attention.o_proj", "mlp.fc2"),
}
CASES = (["blocks.0.attention"], ["blocks.1.mlp"], ["blocks.1.attention", "blocks.0.mlp"], ["blocks.0.attention", "blocks.0.mlp"])


def model_of(family: str):
    """Random everywhere: norms and biases too, which a fresh model has at one and zero."""
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(num_key_value_heads=2, head_dim=8, **TEXT)).eval() if family == "qwen3" else tiny(family)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    return model


def block_of(model, index: int) -> nn.Module:
    return model.get_submodule(from_module(model, "tiny").anatomy.blocks[index].path)


def zeroed(model, family: str, names):
    """A plain copy in which the layers out of these sub-layers give zeros."""
    plain = copy.deepcopy(model)
    for name in names:
        _, index, part = name.split(".")
        layer = block_of(plain, int(index)).get_submodule(OUT[family][part == "mlp"])
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
    return plain


def logits(model, given) -> torch.Tensor:
    with torch.no_grad():
        return model(given).logits


def without(model, names):
    loaded = from_module(model, "tiny")
    units = sublayer_units(loaded)
    return remove_sublayers(loaded, [units[name] for name in names])


@pytest.mark.parametrize("names", CASES, ids=" ".join)
@pytest.mark.parametrize("family", OUT)
def test_gone_is_zeros_in_memory_and_after_a_round_trip(family, names, tmp_path):
    model, given = model_of(family), inputs(family)
    expected, dense = logits(zeroed(model, family, names), given), sum(p.numel() for p in model.parameters())
    outs = [block_of(model, int(name.split(".")[1])).get_submodule(OUT[family][name.endswith("mlp")]) for name in names]
    done = without(model, names)
    assert torch.allclose(logits(done.model, given), expected, atol=1e-5)
    left = sum(p.numel() for p in done.model.parameters())
    assert left <= dense - sum(p.numel() for layer in outs for p in layer.parameters())
    assert not any(module is layer for module in done.model.modules() for layer in outs)
    assert len(done.anatomy.blocks) == 2 and done.anatomy.kind == from_module(model_of(family), "x").anatomy.kind
    said = save(done, tmp_path / "model")
    assert said["difference"] == 0
    for lazy in (False, True):
        again = load(str(tmp_path / "model"), lazy=lazy)
        if lazy:
            again.lazy.bring_all()
        assert torch.equal(logits(again.model, given), logits(done.model, given))
        assert sum(p.numel() for p in again.model.parameters()) == left
        assert again.anatomy.blocks == done.anatomy.blocks
    with pytest.raises(RuntimeError, match="mismatch"):  # never a model with random weights in the place of what is gone
        type(done.model).from_pretrained(tmp_path / "model")


@pytest.mark.parametrize("family", [family for family in OUT if family not in ("bert", "vit")])
def test_generation_with_a_cache_is_the_whole_forward_token_by_token(family):
    for names in CASES:
        model = without(model_of(family), names).model
        ids, cache = IDS[:2], None
        with torch.no_grad():
            whole = model(ids, use_cache=False).logits
            for at, stop in ((0, 5), (5, 6), (6, 9), (9, 12)):
                step = model(ids[:, at:stop], past_key_values=cache, use_cache=True)
                cache = step.past_key_values
                assert torch.allclose(step.logits, whole[:, at:stop], atol=1e-5), (names, at)
        assert cache.get_seq_length() == 12
        assert model.generate(ids, max_new_tokens=3, do_sample=False, num_beams=2).shape == (2, 15)


@pytest.mark.parametrize(
    ("family", "attention", "mlp"),
    [
        ("gemma2", {"self_attn", "input_layernorm", "post_attention_layernorm"}, {"mlp", "pre_feedforward_layernorm", "post_feedforward_layernorm"}),
        ("opt", {"self_attn", "self_attn_layer_norm"}, {"fc1", "fc2", "final_layer_norm"}),
        ("bert", {"attention.self", "attention.output.dense"}, {"intermediate.dense", "output.dense"}),
        ("falcon", {"self_attention"}, {"mlp"}),  # both read one norm
    ],
)  # fmt: skip
def test_what_goes_with_a_sublayer(family, attention, mlp):
    loaded = from_module(model_of(family), "tiny")
    units, path = sublayer_units(loaded), loaded.anatomy.blocks[1].path
    assert list(units) == ["blocks.0.attention", "blocks.0.mlp", "blocks.1.attention", "blocks.1.mlp"]
    assert set(units["blocks.1.attention"].gone) == {f"{path}.{inner}" for inner in attention}
    assert set(units["blocks.1.mlp"].gone) == {f"{path}.{inner}" for inner in mlp}
    inside = [loaded.module(f"{path}.{inner}") for inner in mlp]
    assert units["blocks.1.mlp"].parameters == sum(p.numel() for module in inside for p in module.parameters())


def test_a_norm_that_both_read_goes_when_both_go():
    model = without(model_of("falcon"), ["blocks.0.attention", "blocks.0.mlp"]).model
    assert not list(model.transformer.h[0].parameters()) and list(model.transformer.h[1].parameters())


@pytest.mark.parametrize("family", OUT)
def test_bypassing_is_removing_and_leaves_the_model_as_it_was(family):
    for names in CASES:
        model, given = model_of(family), inputs(family)
        before, loaded = logits(model, given), from_module(model, "tiny")
        units = sublayer_units(loaded)
        with bypassed(loaded, [units[name] for name in names]):
            found = logits(model, given)
        assert torch.equal(logits(model, given), before)
        assert torch.equal(found, logits(remove_sublayers(loaded, [units[name] for name in names]).model, given))


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ([1], "no mapping"),
        ({"without": ["model.layers.0.mlp"]}, "no mapping"),
        ({"without": {"model.layers.9.mlp": "zeros"}}, "model.layers.9.mlp"),
        ({"without": {"lm_head": "zeros"}}, "lm_head"),
        ({"without": {"model.layers.0": "identity"}}, "no block has a part"),
        ({"without": {"model.layers.0.mlp": "__import__"}}, "not a way"),
        ({"without": {"model.layers.0.mlp": "zeros", "model.layers.0.mlp.up_proj": "zeros"}}, "lies in another"),
    ],
)
def test_a_config_that_cannot_be_right_is_refused_in_a_sentence(said, says, tmp_path):
    tiny("llama").save_pretrained(tmp_path)
    edit_config(tmp_path, prunarium=said)
    with pytest.raises(ModelError, match=says) as caught:
        load(str(tmp_path))
    assert caught.value.remedy
    assert json.loads((tmp_path / "config.json").read_text())["prunarium"] == said


@pytest.mark.parametrize("names", CASES[:3], ids=" ".join)
def test_sliding_windows_static_caches_and_padding_count_the_tokens_that_went_by(names):
    model = without(tiny("gemma2", sliding_window=4), names).model
    ids, cache = IDS[:2], None
    padded = torch.ones_like(ids)
    padded[0, :3] = 0
    with torch.no_grad():
        whole = model(ids, use_cache=False).logits
        for at in range(ids.shape[1]):
            step = model(ids[:, at : at + 1], past_key_values=cache, use_cache=True)
            cache = step.past_key_values
            assert torch.allclose(step.logits[:, 0], whole[:, at], atol=1e-5), at
    plain = model.generate(ids, attention_mask=padded, max_new_tokens=6, do_sample=False, use_cache=False)
    for how in ({}, {"cache_implementation": "static"}):
        assert torch.equal(model.generate(ids, attention_mask=padded, max_new_tokens=6, do_sample=False, **how), plain)
