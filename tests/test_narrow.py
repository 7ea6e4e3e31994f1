"""Removed neurons and heads are really gone: the same outputs as with zeros in their place, in memory, saved, and loaded again."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers
from torch import nn

from core.model import export
from core.model.anatomy import read_anatomy
from core.model.counts import counts, flops_per_token
from core.model.groups import unit_groups
from core.model.loading import LoadedModel, from_module, load
from core.model.narrow import cut
from core.model.widths import KEY, settle
from tests.model_folders import CLASSES, TEXT, inputs, tiny

QWEN3 = ("Qwen3ForCausalLM", "Qwen3Config", {"num_key_value_heads": 2, "head_dim": 16, **TEXT})
OLMO2 = ("Olmo2ForCausalLM", "Olmo2Config", {"num_key_value_heads": 2, **TEXT})
FALCON = ("FalconForCausalLM", "FalconConfig", {**CLASSES["falcon"][2], "new_decoder_architecture": True, "num_kv_heads": 2})
HEADS_BY_ONE = ("FalconForCausalLM", "FalconConfig", {**CLASSES["falcon"][2], "multi_query": False})
FAMILIES = [
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "phi3",
    "gpt2",
    "opt",
    "gpt_neox",
    "falcon40",
    "falcon_mha",
    "bert",
    "vit",
]
NO_FIELD_FOR_HEADS = {
    "gpt2",
    "opt",
    "gpt_neox",
    "falcon40",
    "falcon_mha",
    "bert",
}  # their head size is hidden / heads, so fewer heads cannot be said


def build(name: str) -> nn.Module:
    """A tiny model of the family whose every parameter is random: new biases are zero, and zeros would hide what is cut wrongly."""
    own = {"qwen3": QWEN3, "olmo2": OLMO2, "falcon40": FALCON, "falcon_mha": HEADS_BY_ONE}
    if name in own:
        model_class, config_class, arguments = own[name]
        torch.manual_seed(0)
        model = getattr(transformers, model_class)(getattr(transformers, config_class)(**arguments)).eval()
    else:
        model = tiny(name)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def outputs(model: nn.Module, name: str) -> torch.Tensor:
    with torch.no_grad():
        return model(inputs(name if name in CLASSES else "llama")).logits


def cut_units(model: nn.Module, structure: str, gone: dict[int, list[int]]) -> tuple[LoadedModel, nn.Module]:
    """(the model without these units of these blocks, a dense copy in which nothing reads them)."""
    zeroed, anatomy = copy.deepcopy(model), read_anatomy(model)
    for group in unit_groups(model, anatomy.blocks, anatomy.family, structure):
        keep = torch.ones(group.units, dtype=torch.bool)
        keep[gone.get(group.block, [])] = False
        reader = zeroed.get_submodule(group.reader.path)
        with torch.no_grad():
            (reader.weight.T if isinstance(reader, nn.Linear) else reader.weight)[group.reader.index[~keep].flatten()] = 0.0
        cut(model, anatomy.blocks[group.block], group, keep)
    settle(model)
    return from_module(model, "tiny"), zeroed


UNIFORM, UNEVEN = {0: [0], 1: [1]}, {1: [0]}


@pytest.mark.quick
@pytest.mark.parametrize("gone", [UNIFORM, UNEVEN], ids=["alike", "uneven"])
@pytest.mark.parametrize("structure", ["neurons", "heads"])
@pytest.mark.parametrize("name", FAMILIES)
def test_without_a_unit_a_model_says_what_it_said_with_zeros_in_its_place_and_so_does_the_saved_one(
    name, structure, gone, tmp_path
):
    loaded, zeroed = cut_units(build(name), structure, gone)
    expected = outputs(zeroed, name)
    assert (outputs(loaded.model, name) - expected).abs().max() <= 1e-5
    assert counts(loaded.model).parameters < counts(zeroed).parameters
    assert flops_per_token(loaded) < flops_per_token(from_module(zeroed, "zeroed"))
    said = export.save(loaded, tmp_path / "model")
    assert said["size_bytes"] < counts(zeroed).size_bytes and said["difference"] <= 1e-5
    native = (
        gone is UNIFORM
        and not (structure == "heads" and name in NO_FIELD_FOR_HEADS)
        and not (name.startswith("falcon") and False)
    )
    assert hasattr(loaded.model.config, KEY) is not native
    for lazy in (False, True):
        again = load(str(tmp_path / "model"), lazy=lazy)
        again.lazy and [again.lazy.bring(part) for part in range(-1, 2)]
        assert (outputs(again.model, name) - expected).abs().max() <= 1e-5
        assert [block.attention for block in again.anatomy.blocks] == [block.attention for block in loaded.anatomy.blocks]
    if native:
        plain = type(loaded.model).from_pretrained(tmp_path / "model", dtype=torch.float32)
        assert (outputs(plain, name) - expected).abs().max() <= 1e-5
    else:
        with pytest.raises(RuntimeError, match="mismatch"):
            type(loaded.model).from_pretrained(tmp_path / "model")
