"""Removed neurons and heads are really gone: the same outputs as with zeros in their place, in memory, saved, and loaded again."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import transformers
from torch import nn

from core.errors import ModelError
from core.events import Silent
from core.model.anatomy import read_anatomy
from core.model.depth.surgery import remove_blocks
from core.model.files import export
from core.model.files.card import readme
from core.model.loading import LoadedModel, from_module, load
from core.model.measuring.counts import counts, flops_per_token
from core.model.pruning.step import prune
from core.model.units import groups
from core.model.units.groups import unit_groups
from core.model.width.narrow import cut
from core.model.width.rehearse import rehearse
from core.model.width.widths import KEY, settle
from core.recipe import Prune, parse
from tests import tiny_models
from tests.model_folders import CLASSES, TEXT, edit_config, inputs, tiny

QWEN3 = ("Qwen3ForCausalLM", "Qwen3Config", {"num_key_value_heads": 2, "head_dim": 16, **TEXT})
OLMO2 = ("Olmo2ForCausalLM", "Olmo2Config", {"num_key_value_heads": 2, **TEXT})
BART = {**CLASSES["bart"][2], "decoder_layers": 2, "max_position_embeddings": 64}
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


ALIKE = {"neurons": {0: [*range(0, 40, 2)], 1: [*range(20)]}, "heads": {0: [0], 1: [1]}}
UNEVEN = {"neurons": {1: [*range(3, 23)]}, "heads": {1: [0]}}


@pytest.mark.quick
@pytest.mark.parametrize("gone", [ALIKE, UNEVEN], ids=["alike", "uneven"])
@pytest.mark.parametrize("structure", ["neurons", "heads"])
@pytest.mark.parametrize("name", FAMILIES)
def test_without_a_unit_a_model_says_what_it_said_with_zeros_in_its_place_and_so_does_the_saved_one(
    name, structure, gone, tmp_path
):
    loaded, zeroed = cut_units(build(name), structure, gone[structure])
    expected = outputs(zeroed, name)
    assert (outputs(loaded.model, name) - expected).abs().max() <= 1e-5
    assert counts(loaded.model).parameters < counts(zeroed).parameters
    assert flops_per_token(loaded) < flops_per_token(from_module(zeroed, "zeroed"))
    said = export.save(loaded, tmp_path / "model")
    assert said["size_bytes"] < counts(zeroed).size_bytes and said["difference"] <= 1e-5
    native = gone is ALIKE and not (structure == "heads" and name in NO_FIELD_FOR_HEADS)
    assert hasattr(loaded.model.config, KEY) is not native
    for lazy in (False, True):
        again = load(str(tmp_path / "model"), lazy=lazy)
        if lazy:
            again.lazy.bring_all()
        assert (outputs(again.model, name) - expected).abs().max() <= 1e-5
        assert [block.attention for block in again.anatomy.blocks] == [block.attention for block in loaded.anatomy.blocks]
    if native:
        plain = type(loaded.model).from_pretrained(tmp_path / "model", dtype=torch.float32)
        assert (outputs(plain, name) - expected).abs().max() <= 1e-5
    else:
        with pytest.raises(RuntimeError, match="mismatch"):
            type(loaded.model).from_pretrained(tmp_path / "model")


def uneven(structure: str = "heads", name: str = "llama") -> LoadedModel:
    return cut_units(build(name), structure, UNEVEN[structure])[0]


@pytest.mark.quick
@pytest.mark.parametrize("name", ["phi3", "gpt2", "falcon40"])
def test_unequal_heads_write_with_a_cache_what_they_say_without_one(name, tmp_path):
    model, ids = uneven(name=name).model, inputs("llama")
    with torch.no_grad():
        written = model.generate(ids, max_new_tokens=3, do_sample=False, eos_token_id=None, pad_token_id=0)
        for place in range(10, 13):
            assert torch.equal(model(written[:, :place], use_cache=False).logits[:, -1].argmax(-1), written[:, place])


@pytest.mark.quick
def test_an_attention_whose_heads_are_its_own_still_follows_the_models_implementation():
    """Phi-3 reads the number of query heads from its config: what stands in for it must not freeze everything else."""
    model = uneven(name="phi3").model
    expected = outputs(model, "phi3")
    model.set_attn_implementation("eager")
    assert all(layer.self_attn.config._attn_implementation == "eager" for layer in model.model.layers)
    torch.testing.assert_close(outputs(model, "phi3"), expected)
    twin = copy.deepcopy(model)
    torch.testing.assert_close(outputs(twin, "phi3"), expected)


@pytest.mark.quick
def test_a_second_cut_starts_from_the_first_and_equal_widths_load_natively_again():
    loaded, _ = cut_units(build("llama"), "neurons", {0: [1, 2]})
    assert getattr(loaded.model.config, KEY)["widths"]["model.layers.0.mlp.down_proj"] == [32, 62]
    loaded, _ = cut_units(loaded.model, "neurons", {1: [5, 6]})
    assert not hasattr(loaded.model.config, KEY) and loaded.model.config.intermediate_size == 62
    loaded, _ = cut_units(loaded.model, "heads", {0: [0], 1: [0]})
    assert (loaded.model.config.num_attention_heads, loaded.model.config.num_key_value_heads, loaded.model.config.head_dim) == (
        2,
        1,
        8,
    )


@pytest.mark.quick
def test_whole_blocks_can_go_from_a_model_of_unequal_widths(tmp_path):
    loaded, _ = cut_units(tiny("llama", num_hidden_layers=3), "neurons", {0: [1], 2: [3, 4]})
    loaded = remove_blocks(loaded, [1])
    assert set(getattr(loaded.model.config, KEY)["widths"]) == {
        f"model.layers.{i}.mlp.{name}" for i in (0, 1) for name in ("gate_proj", "up_proj", "down_proj")
    }
    export.save(loaded, tmp_path / "model")
    assert torch.equal(outputs(load(str(tmp_path / "model")).model, "llama"), outputs(loaded.model, "llama"))
    shallow = remove_blocks(loaded, [1])
    assert not hasattr(shallow.model.config, KEY) and shallow.model.config.intermediate_size == 63


@pytest.mark.quick
def test_an_mlp_as_wide_as_the_model_keeps_its_roles():
    loaded, _ = cut_units(build("llama"), "neurons", {0: [*range(32)], 1: [*range(32)]})
    for block in loaded.anatomy.blocks:
        roles = {layer.path.rpartition(".")[2]: layer.role for layer in block.layers}
        assert (roles["gate_proj"], roles["up_proj"], roles["down_proj"], roles["o_proj"]) == ("gate", "up", "down", "output")


@pytest.mark.quick
@pytest.mark.parametrize(
    ("name", "structure", "says"),
    [
        ("olmo2", "heads", "q_norm of Olmo2ForCausalLM spans several heads"),
        ("falcon", "heads", "one key-value group"),
        ("mixtral", "neurons", "No pair of layers"),
        ("bloom", "heads", "lays query, key and value out in one layer is not known"),
        ("falcon_alibi", "heads", "a slope by its number"),
        ("gpt_oss", "heads", "sinks of GptOssForCausalLM spans several heads"),
    ],
)
def test_units_that_cannot_go_one_by_one_are_refused_with_the_reason(name, structure, says):
    made = {
        "bloom": lambda: transformers.BloomForCausalLM(
            transformers.BloomConfig(vocab_size=96, hidden_size=32, n_layer=2, n_head=4)
        ),
        "falcon_alibi": lambda: tiny("falcon", alibi=True, multi_query=False),
        "gpt_oss": lambda: transformers.GptOssForCausalLM(
            transformers.GptOssConfig(**{**TEXT, "head_dim": 8, "num_key_value_heads": 2, "num_local_experts": 2})
        ),
    }
    model = made[name]() if name in made else build(name)
    assert says in read_anatomy(model).refused[structure]


@pytest.mark.quick
@pytest.mark.parametrize(
    ("said", "says"),
    [
        (7, "no mapping"),
        ({"widths": []}, "no mapping"),
        ({"widths": {"model.nothing": [3, 3]}}, "no layer 'model.nothing'"),
        ({"widths": {"model.layers.1.mlp.up_proj": [44, 2.5]}}, "not two whole numbers"),
        ({"widths": {"model.layers.1.mlp.up_proj": [44, -1]}}, "not two whole numbers"),
        ({"widths": {"model.layers.1.mlp.up_proj": [44, 32]}}, "layers of blocks.1.mlp do not fit together"),
        ({"widths": {"model.layers.1.mlp.up_proj": [10**9, 32], "model.layers.1.mlp.gate_proj": [10**9, 32],
                     "model.layers.1.mlp.down_proj": [32, 10**9]}}, "do not fit together"),
        ({"widths": {"model.layers.1.self_attn.q_proj": [12, 32]}}, "layers of blocks.1.attention do not fit together"),
        ({"widths": {"lm_head": [9, 32]}}, "lm_head cannot be 9 by 32"),
        ({"biases": ["model.norm"]}, "no layer 'model.norm'"),
    ],
)  # fmt: skip
def test_widths_from_a_stranger_that_do_not_fit_end_in_one_sentence(said, says, tmp_path):
    build("llama").save_pretrained(tmp_path / "model")
    edit_config(tmp_path / "model", **{KEY: said})
    with pytest.raises(ModelError, match=r"config\.json") as caught:
        load(str(tmp_path / "model"))
    assert says in str(caught.value) and caught.value.remedy


@pytest.mark.quick
def test_widths_that_the_weights_do_not_have_are_refused_by_name(tmp_path):
    export.save(uneven("neurons"), tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    widths = {path: [40 if size == 44 else size for size in shape] for path, shape in config[KEY]["widths"].items()}
    edit_config(tmp_path / "model", **{KEY: {"widths": widths, "biases": []}})
    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp.*another shape"):
        load(str(tmp_path / "model"))


@pytest.mark.quick
def test_the_card_of_a_model_of_unequal_widths_says_what_loads_it(tmp_path):
    export.save(uneven(), tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert "loads with Prunarium" in card and 'loaded = load("path/to/this/folder")' in card and "AutoTokenizer" not in card
    alike, _ = cut_units(build("llama"), "heads", ALIKE["heads"])
    assert "LlamaForCausalLM.from_pretrained" in readme(
        alike, {"dtype": "x", "nonzero": 1, "size_bytes": 1, "difference": None}, None, {}
    )


@pytest.mark.quick
@pytest.mark.parametrize(
    ("name", "arguments"),
    [("MPNetForMaskedLM", TEXT), ("DiffLlamaForCausalLM", {**TEXT, "num_key_value_heads": 2}), ("BartForCausalLM", BART)],
    ids=["a bias for each head is handed in", "heads work in pairs", "an attention that is never run"],
)
def test_heads_wired_together_in_a_way_nobody_foresaw_are_refused_by_a_rehearsal_on_a_copy(name, arguments):
    torch.manual_seed(0)
    model = getattr(transformers, name)(getattr(transformers, name.partition("For")[0] + "Config")(**arguments)).eval()
    for block in model.model.decoder.layers if name.startswith("Bart") else ():
        block._modules["self_attn"] = block._modules.pop(
            "self_attn"
        )  # as if the attention to another model's output were defined first, and so taken for the block's own
    before, config = copy.deepcopy(model.state_dict()), model.config.to_dict()
    assert "heads" not in read_anatomy(model).refused
    step = parse(
        {
            "recipe": 1,
            "name": "x",
            "model": {"source": "x"},
            "steps": [{"prune": {"method": "magnitude", "structure": "heads", "sparsity": 0.5}}],
        }
    )
    with pytest.raises(ModelError, match="cannot do without one group of its heads") as caught:
        prune(from_module(model, "tiny"), step.steps[0].prune, lambda: pytest.fail("asked for text"), 0, Silent())
    assert caught.value.remedy and model.config.to_dict() == config
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


@pytest.mark.quick
def test_a_rehearsal_sees_a_layout_that_only_looks_right(monkeypatch):
    """GPT-NeoX keeps query, key and value head by head; cut as if they were stacked, it runs and says something else."""
    monkeypatch.setattr(groups, "_STACKED", ("gpt_neox",))
    model = from_module(build("gpt_neox"), "tiny")
    with pytest.raises(ModelError, match="what it says changes"):
        rehearse(model, unit_groups(model.model, model.anatomy.blocks, "gpt_neox", "heads")[0])


@pytest.mark.quick
def test_what_is_as_wide_as_the_neurons_but_no_layer_of_the_mlp_is_refused():
    torch.manual_seed(0)
    mamba = transformers.MambaForCausalLM(
        transformers.MambaConfig(vocab_size=96, hidden_size=32, num_hidden_layers=2, state_size=4)
    )
    assert "has a number for each neuron" in read_anatomy(mamba).refused["neurons"]


@pytest.mark.parametrize("lazy", [False, True])
def test_sublayers_gone_and_widths_cut_in_one_model_save_and_load_the_same(lazy, tmp_path):
    """The two ways of being smaller than one's config share one key in it."""
    loaded = from_module(tiny_models.llama(3), "tiny")
    loaded.tokenizer = tiny_models.tokenizer()
    ids = torch.randint(0, 300, (2, 12), generator=torch.Generator().manual_seed(1))
    for fields in (
        {
            "method": "random",
            "structure": "sublayers",
            "allocation": {"method": "by_hand", "shares": {"blocks.1.attention": 1.0}},
        },
        {"method": "magnitude", "structure": "neurons", "sparsity": 0.25, "only": ["blocks.0", "blocks.1"]},
        {"method": "magnitude", "structure": "heads", "sparsity": 0.5, "only": ["blocks.2"]},
    ):
        loaded = prune(loaded, Prune(**fields), lambda: ids, 0, Silent()).loaded
    expected = loaded.model(ids).logits
    export.save(loaded, tmp_path / "model")
    again = load(str(tmp_path / "model"), lazy=lazy)
    with again.outside(keep=True):
        for index in range(3):
            again.block(index, keep=True).__enter__()
        assert torch.allclose(again.model(ids).logits, expected, atol=1e-5)
