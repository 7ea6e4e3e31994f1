"""Blocks with a second attention, to another model's output: it is never taken for the block's own, nor for an MLP."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers
from torch import nn

from core.errors import ModelError
from core.events import Silent
from core.model.anatomy import read_anatomy
from core.model.files import export
from core.model.loading import from_module, load
from core.model.pruning.step import prune
from core.recipe import Prune
from tests.model_folders import GPT2, TEXT

IDS = torch.arange(3, 51).reshape(4, 12)
_BART = {"d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 64, "vocab_size": 96, "is_encoder_decoder": False,
         "is_decoder": True, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 64, "max_position_embeddings": 64,
         "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}  # fmt: skip
TWO = {  # name: (model class, config class, its arguments, where the block's own attention is, where the other is)
    "bart": ("BartForCausalLM", "BartConfig", _BART, "self_attn", "encoder_attn"),
    "bert": ("BertLMHeadModel", "BertConfig", {**TEXT, "is_decoder": True, "add_cross_attention": True}, "attention", "crossattention"),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", {**GPT2, "add_cross_attention": True}, "attn", "crossattention"),
}  # fmt: skip
_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 4, "vocab_size": 96, "decoder_start_token_id": 0}


def built(name: str) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    model_class, config_class, arguments, _, _ = TWO[name]
    model = getattr(transformers, model_class)(getattr(transformers, config_class)(**arguments))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval().requires_grad_(False)


def says(model: nn.Module) -> torch.Tensor:
    return model(IDS).logits


def taken(model, method: str, structure: str, share: float = 0.5, **more):
    return prune(
        from_module(model, "x"),
        Prune(method=method, structure=structure, sparsity=share, **more),
        lambda: IDS,
        0,
        Silent(),
    )


@pytest.mark.quick
@pytest.mark.parametrize("name", TWO)
def test_the_blocks_own_attention_is_found_and_the_other_has_no_role(name):
    own, other = TWO[name][3:]
    for block in read_anatomy(built(name)).blocks:
        assert block.attention.path == f"{block.path}.{own}"
        roles = {layer.path.removeprefix(f"{block.path}."): layer.role for layer in block.layers}
        assert {role for path, role in roles.items() if path.startswith(f"{other}.")} == {"other"}
        assert "output" in {role for path, role in roles.items() if path.startswith(f"{own}.")}
        assert sum(role == "down" for role in roles.values()) == 1


@pytest.mark.quick
@pytest.mark.parametrize("name", TWO)
@pytest.mark.parametrize("structure", ["heads", "neurons"])
def test_heads_and_neurons_go_from_the_blocks_own_and_it_says_what_zeros_in_their_place_say(name, structure, tmp_path):
    model = built(name)
    dense, plain = says(model), copy.deepcopy(model)
    done = taken(model, "magnitude", structure)
    for cut in done.cuts:
        assert 0 < int(cut.keep.sum()) < len(cut.keep)
        reader = plain.get_submodule(cut.group.reader.path)
        weight = reader.weight if isinstance(reader, nn.Linear) else reader.weight.T
        weight[:, cut.group.reader.index[~cut.keep].flatten()] = 0
    after = says(done.loaded.model)
    torch.testing.assert_close(after, says(plain), rtol=1e-4, atol=1e-5)
    assert (after - dense).abs().max() > 1e-3
    export.save(done.loaded, tmp_path / "model")
    torch.testing.assert_close(says(load(str(tmp_path / "model")).model), after)


@pytest.mark.quick
@pytest.mark.parametrize("name", TWO)
def test_a_whole_attention_that_goes_is_the_blocks_own(name):
    model = built(name)
    plain, own = copy.deepcopy(model), TWO[name][3]
    shares = {"blocks.0.attention": 1.0}
    done = taken(model, "random", "sublayers", None, allocation={"method": "by_hand", "shares": shares})
    assert done.parts == ((0, "attention"),)
    out = next(layer.path for layer in read_anatomy(plain).blocks[0].layers if layer.role == "output")
    assert f".{own}." in out
    for parameter in plain.get_submodule(out).parameters():
        parameter.zero_()
    torch.testing.assert_close(says(done.loaded.model), says(plain), rtol=1e-4, atol=1e-5)


@pytest.mark.quick
@pytest.mark.parametrize("name", TWO)
def test_a_criterion_that_looks_at_inputs_says_that_the_other_is_never_run_and_takes_it_protected(name):
    model, other = built(name), TWO[name][4]
    before = says(model)
    with pytest.raises(ModelError, match=rf"does not run blocks\.0\.{other}\.") as caught:
        taken(model, "wanda", "unstructured")
    assert torch.equal(says(model), before)
    done = taken(model, "wanda", "unstructured", protect=(f"*.{other}.*",))
    assert done.masks and not any(other in path for path in done.masks)
    assert f"*.{other}" in caught.value.remedy or name == "bert"  # bert's lies one module deeper


@pytest.mark.quick
def test_t5_has_one_attention_a_block_alone_and_is_no_chain_of_blocks_whole():
    torch.manual_seed(0)
    alone = read_anatomy(transformers.T5EncoderModel(transformers.T5Config(**_T5)))
    assert [block.attention.path.rpartition(".")[2] for block in alone.blocks] == ["SelfAttention"] * 2
    assert "relative_attention_bias of T5EncoderModel spans several heads" in alone.refused["heads"]
    assert "neurons" not in alone.refused
    whole = read_anatomy(transformers.T5ForConditionalGeneration(transformers.T5Config(**_T5)))
    assert whole.blocks == () and all(
        "is not a chain of equal blocks" in whole.refused[each] for each in ("heads", "neurons", "blocks")
    )
