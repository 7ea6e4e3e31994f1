"""Single query heads leave their key-value group: as many from each group of a block, and the model is saved and loads again."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers

from core.errors import PrunariumError, RecipeError
from core.events import Silent
from core.model.depth.gone import KEY
from core.model.files import export
from core.model.loading import from_module, load
from core.model.pruning.step import prune
from core.recipe import Prune
from tests import tiny_models
from tests.families import FAMILIES, build, inputs, outputs
from tests.model_folders import tiny

NATIVE = ("Llama", "Mistral", "Qwen2", "Qwen3", "Gemma 2", "Gemma 3", "Phi-3", "Mixtral", "Qwen3-MoE")
STEP = {"method": "magnitude", "structure": "query_heads", "sparsity": 0.5}


def eight(name: str):
    """A model of the family with 8 query heads in 2 groups; Falcon's share one."""
    model_class, config_class, arguments = FAMILIES[name]
    torch.manual_seed(0)
    made = getattr(transformers, config_class)(**{**arguments, "num_attention_heads": 8})
    return getattr(transformers, model_class)(made).eval().requires_grad_(False)


def run(model, **fields):
    return prune(from_module(model, "tiny"), Prune(**{**STEP, **fields}), lambda: inputs(model), 0, Silent())


@pytest.mark.quick
@pytest.mark.parametrize("alike", [True, False], ids=["alike", "uneven"])
@pytest.mark.parametrize("name", [*NATIVE, "Falcon"])
def test_what_is_left_says_what_it_said_with_zeros_in_the_heads_place_and_so_does_the_saved_one(name, alike, tmp_path):
    model, zeroed = eight(name), eight(name)
    done = run(model, **({} if alike else {"only": ["blocks.1"]}))
    sets = 1 if name == "Falcon" else 2
    for cut in done.cuts:
        assert cut.keep.reshape(sets, -1).sum(1).tolist() == [4 // sets] * sets
        reader = zeroed.get_submodule(cut.group.reader.path)
        reader.weight[:, cut.group.reader.index[~cut.keep].flatten()] = 0
    given = inputs(model)
    expected = outputs(zeroed, given)
    assert (outputs(done.loaded.model, given) - expected).abs().max() <= 1e-5
    assert done.loaded.anatomy.blocks[1].attention.query_heads == 4 and done.loaded.anatomy.blocks[1].attention.kv_heads == sets
    export.save(done.loaded, tmp_path / "model")
    assert hasattr(done.loaded.model.config, KEY) is not (alike and name != "Falcon")
    again = load(str(tmp_path / "model"))
    assert (outputs(again.model, given) - expected).abs().max() <= 1e-5
    if alike and name != "Falcon":
        plain = type(model).from_pretrained(tmp_path / "model", dtype=torch.float32)
        assert (outputs(plain, given) - expected).abs().max() <= 1e-5


@pytest.mark.quick
def test_the_heads_that_go_are_the_lowest_of_each_group_by_a_plain_sum_of_their_weights():
    """4 query heads of 8 in 2 groups: of head h the sizes of rows 8 h .. 8 h + 7 of the query layer and of the same columns of the output layer."""
    model = tiny("llama", num_hidden_layers=1)
    attention = model.model.layers[0].self_attn
    sizes = [
        float(attention.q_proj.weight[8 * h : 8 * h + 8].abs().double().sum() + attention.o_proj.weight[:, 8 * h : 8 * h + 8].abs().double().sum())
        for h in range(4)
    ]  # fmt: skip
    expected = [sizes[0] > sizes[1], sizes[0] < sizes[1], sizes[2] > sizes[3], sizes[2] < sizes[3]]
    assert run(model).cuts[0].keep.tolist() == expected


@pytest.mark.quick
def test_whole_groups_and_single_heads_can_go_from_one_model_in_either_order(tmp_path):
    for order in (("heads", "query_heads"), ("query_heads", "heads")):
        model = eight("Llama")
        for structure in order:
            done = run(model, structure=structure, only=["blocks.0"])
        left = done.loaded.anatomy.blocks[0].attention
        assert (left.query_heads, left.kv_heads) == (2, 1)
        expected = outputs(done.loaded.model, inputs(model))
        export.save(done.loaded, tmp_path / order[0])
        assert (outputs(load(str(tmp_path / order[0])).model, inputs(model)) - expected).abs().max() <= 1e-5


@pytest.mark.quick
@pytest.mark.parametrize("fields", [
    {"method": "wanda", "allocation": "global"}, {"method": "flap", "allocation": "knapsack"}, {"method": "taylor"},
    {"method": "activation", "allocation": "logistic_depth"}, {"sparsity": None, "budget": {"cost": "parameters", "remove": 0.05}},
])  # fmt: skip
def test_every_way_to_score_and_spread_takes_as_many_from_each_group(fields):
    done = run(eight("Llama"), **fields)
    gone = [cut.keep.reshape(2, 4).sum(1).tolist() for cut in done.cuts]
    assert all(one == other >= 1 for one, other in gone) and sum(map(sum, gone)) < 16
    if "budget" in fields and fields["budget"]["cost"] == "parameters":
        said = done.said["budget"]
        assert said["reached"] <= said["target"] < said["before"]


@pytest.mark.quick
def test_a_latency_budget_is_met_by_as_many_from_each_group():
    """Attention is nearly all of this model, so that heads take a time that can be measured."""
    wide = tiny_models.llama(2, hidden_size=512, num_attention_heads=16, num_key_value_heads=2, head_dim=64, intermediate_size=16)
    done = run(wide, sparsity=None, budget={"cost": "latency", "remove": 0.02, "tokens": 64, "repeats": 5})
    said, gone = done.said["budget"], [(~cut.keep).reshape(2, 8).sum(1).tolist() for cut in done.cuts]
    assert all(one == other for one, other in gone) and 0 < sum(map(sum, gone)) < 32
    assert 0 < said["target"] < said["before"] and said["reached"] > 0


@pytest.mark.quick
@pytest.mark.parametrize(
    ("name", "says"),
    [("GPT-2", "Each query head of GPT2LMHeadModel has a key and value head of its own"), ("OLMoE", "spans several heads")],
)
def test_where_nothing_is_shared_it_is_refused_and_the_model_is_as_it_was(name, says):
    model = build(name)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(PrunariumError, match=says) as caught:
        run(model)
    assert caught.value.remedy and all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.quick
def test_a_key_value_cache_cannot_be_the_budget_of_query_heads():
    from core.catalogue import resolve
    from core.method import cards
    from core.recipe import parse

    made = parse({"recipe": 1, "name": "x", "model": {"source": "builtin:tiny-llama"},
                  "steps": [{"prune": {"method": "wanda", "structure": "query_heads", "budget": {"cost": "kv_bytes", "remove": 0.1}}}]})  # fmt: skip
    with pytest.raises(RecipeError, match="keys and values, which stay"):
        resolve(made, cards())
