"""Models that lost experts: saved and loaded by anyone, in many families; run folders; what no method may do to a mixture it does not know."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
import transformers
from safetensors.torch import load_file

from core import folder
from core.errors import ModelError
from core.events import Silent
from core.model.anatomy import read_anatomy
from core.model.files import export
from core.model.loading import from_module, load
from core.model.measuring.counts import flops_per_token
from core.model.mixture.check import check
from core.model.mixture.experts import expert_layers
from core.model.mixture.routing import Routed, listening, mixed
from core.model.pruning.step import prune
from tests.model_folders import TEXT, tiny
from tests.test_steps import loaded, recipe, run, text  # noqa: F401 (text is a fixture)

IDS = torch.arange(3, 51).reshape(4, 12)
FOUR = {**TEXT, "num_key_value_heads": 2, "initializer_range": 0.2, "num_experts_per_tok": 2, "head_dim": 8}
MIXTURES = {
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", {"num_local_experts": 4}),
    "qwen3_moe": ("Qwen3MoeForCausalLM", "Qwen3MoeConfig", {"num_experts": 4, "moe_intermediate_size": 24}),
    "qwen2_moe": ("Qwen2MoeForCausalLM", "Qwen2MoeConfig", {"num_experts": 4, "moe_intermediate_size": 24}),
    "olmoe": ("OlmoeForCausalLM", "OlmoeConfig", {"num_experts": 4}),
    "gpt_oss": ("GptOssForCausalLM", "GptOssConfig", {"num_local_experts": 4}),
    "granitemoe": ("GraniteMoeForCausalLM", "GraniteMoeConfig", {"num_local_experts": 4}),
    "ernie4_5_moe": ("Ernie4_5_MoeForCausalLM", "Ernie4_5_MoeConfig",
                     {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 24, "moe_layer_start_index": 1}),
    "glm4_moe": ("Glm4MoeForCausalLM", "Glm4MoeConfig", {"n_routed_experts": 4, "moe_intermediate_size": 24, "first_k_dense_replace": 1}),
}  # fmt: skip


def built(name: str, **changed):
    torch.manual_seed(0)
    model_class, config_class, own = MIXTURES[name]
    model = getattr(transformers, model_class)(getattr(transformers, config_class)(**{**FOUR, **own, **changed}))
    for layer in expert_layers(model, read_anatomy(model).blocks):  # some families start with a router of zeros
        for parameter in model.get_submodule(layer.router).parameters():
            torch.nn.init.normal_(parameter)
    return model.eval().requires_grad_(False)


def step(**fields):
    return recipe({"prune": {"method": "reap", "structure": "experts", "sparsity": 0.5, **fields}}).steps[0].prune


def says(model) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize("name", MIXTURES)
def test_a_model_without_some_experts_is_saved_and_loaded_by_transformers_as_it_is_in_memory(name, tmp_path):
    model = built(name)
    parameters, flops = sum(p.numel() for p in model.parameters()), flops_per_token(from_module(model, name))
    before = says(model)
    done = prune(from_module(model, name), step(), lambda: IDS, 0, Silent())
    after = says(done.loaded.model)
    assert all(int(cut.keep.sum()) == 2 for cut in done.cuts) and (after - before).abs().max() > 1e-3
    assert sum(p.numel() for p in model.parameters()) < parameters
    assert flops_per_token(done.loaded) <= flops  # a token still visits two
    export.save(done.loaded, tmp_path / "model")
    plain, info = type(model).from_pretrained(tmp_path / "model", dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"] and not info["unexpected_keys"]
    torch.testing.assert_close(says(plain), after)
    for lazy in (False, True):
        again = load(str(tmp_path / "model"), lazy=lazy)
        if lazy:
            again.lazy.bring_all()
        torch.testing.assert_close(says(again.model), after)
        assert [layer.count for layer in expert_layers(again.model, again.anatomy.blocks)] == [2] * len(done.cuts)


@pytest.mark.quick
@pytest.mark.parametrize("name", MIXTURES)
def test_what_is_noted_of_a_mixture_adds_up_to_what_its_experts_say(name):
    model, heard, said = built(name), [], []
    layer = expert_layers(model, read_anatomy(model).blocks)[0]
    model.get_submodule(layer.path).register_forward_hook(lambda module, args, output: said.append(output))
    with listening(model, layer, heard.append):
        says(model)
    (routed,) = heard
    assert isinstance(routed, Routed) and routed.outputs.shape == (IDS.numel(), layer.top_k, 32)
    torch.testing.assert_close((routed.outputs * routed.gates[..., None]).sum(1), said[0].reshape(-1, 32), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(mixed(routed.experts, routed), said[0].reshape(-1, 32))
    assert (
        routed.per_expert(torch.ones_like(routed.gates)).tolist() == torch.bincount(routed.chosen.flatten(), minlength=4).tolist()
    )


@pytest.mark.quick
@pytest.mark.parametrize("name", MIXTURES)
def test_the_check_passes_what_it_knows_in_few_digits_too_where_logits_tie(name):
    for seed in (0, 7):  # 7: two logits of OLMoE tie in bfloat16
        model = built(name)
        torch.manual_seed(seed)
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
        model = model.bfloat16()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        check(from_module(model, name), expert_layers(model, read_anatomy(model).blocks), 2)
        after = model.state_dict()
        assert all(torch.equal(after[name], value) and after[name].dtype == torch.bfloat16 for name, value in before.items())


@pytest.mark.quick
def test_a_router_that_chooses_groups_first_is_refused_before_any_weight_changes():
    model = built("glm4_moe", n_group=2, topk_group=1)
    before = says(model)
    with pytest.raises(ModelError, match=r"blocks\.1\.experts of Glm4MoeForCausalLM cannot do without one of its experts"):
        prune(from_module(model, "x"), step(), lambda: IDS, 0, Silent())
    assert torch.equal(says(model), before)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("model_class", "config", "why"),
    [
        ("JetMoeForCausalLM", {"num_local_experts": 4, "kv_channels": 8}, "does not keep the experts of a block in one module"),
        ("Llama4ForCausalLM", {"num_local_experts": 4, "intermediate_size_mlp": 32}, "is not handed inputs, choices and gates"),
    ],
)
def test_a_mixture_of_another_make_is_refused_in_a_sentence(model_class, config, why):
    config_class = {"JetMoeForCausalLM": "JetMoeConfig", "Llama4ForCausalLM": "Llama4TextConfig"}[model_class]
    with torch.device("meta"):
        model = getattr(transformers, model_class)(getattr(transformers, config_class)(**{**FOUR, **config}))
    assert why in read_anatomy(model).refused["experts"]


@pytest.mark.quick
def test_a_run_says_which_experts_are_left_by_their_numbers_in_the_source(text, tmp_path):  # noqa: F811
    asked = recipe(
        {"prune": {"method": "magnitude", "structure": "experts", "sparsity": 0.25}},
        {
            "prune": {
                "method": "block_influence",
                "structure": "blocks",
                "allocation": {"method": "by_hand", "shares": {"blocks.0": 1.0}},
            }
        },
        {"prune": {"method": "expert_subsets", "structure": "experts", "sparsity": 0.34}},
        {"recover": {"method": "lora", "steps": 2, "batch": 1, "tokens": 16}},
        save={"model": True},
        **text,
    )
    model = tiny("mixtral", vocab_size=300, num_hidden_layers=3)
    stem = "model.layers.{}.mlp.experts.down_proj"
    dense = [model.get_parameter(stem.format(block)).detach().clone() for block in range(3)]
    fields, path = run(loaded(model), asked, tmp_path)
    masks = load_file(path / folder.MASK)
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {"blocks": 2, "blocks.1.experts": 2, "blocks.2.experts": 2}
    for place, block in enumerate((1, 2)):
        left = model.get_parameter(stem.format(place))
        assert torch.equal(left, dense[block][masks[f"blocks.{block}.experts"]])
    assert fields["sparsity"]["experts"] == 0.5
    assert [entry.get("removed_units") for entry in fields["steps"]] == [3, None, 2, None]
    assert [entry.get("experts_a_token") for entry in fields["steps"]] == [2, None, 2, None]
    rows = pd.read_parquet(path / folder.LAYERS)
    assert rows["name"].tolist()[-2:] == ["blocks.0.experts", "blocks.1.experts"] and rows["sparsity"].iloc[-1] == pytest.approx(
        1 / 3
    )
    assert 0 < rows["output_error"].iloc[-1] < 1
    assert fields["recovered"].parameters < fields["dense"].parameters
    assert "neurons, heads and experts" in (path / folder.MODEL / "README.md").read_text()
