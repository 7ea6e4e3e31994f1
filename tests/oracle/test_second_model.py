"""Methods that name a second model: router norm change against a plain loop, what a transform is handed, and every bad second model in a sentence."""

from __future__ import annotations

import copy

import pytest
import torch

from core import folder
from core.catalogue import load as cards
from core.catalogue import resolve
from core.errors import ModelError, PrunariumError, RecipeError
from core.events import Silent
from core.method import METHODS, transform
from core.model.loading import from_module, load
from core.model.pruning.pruned import Pruned
from core.model.pruning.step import prune
from core.model.steps import run_model
from core.recipe import Prune, parse
from core.run import Clock
from tests.model_folders import tiny
from tests.oracle.test_experts import FAMILIES, built, kept

pytestmark = pytest.mark.quick


def asked(base: str, **fields) -> dict:
    step = {"method": "router_norm_change", "structure": "experts", "sparsity": 1 / 3, "params": {"base": base}, **fields}
    return {"recipe": 1, "name": "x", "model": {"source": "x"}, "steps": [{"prune": step}]}


def run(model, base: str, **fields):
    step = resolve(parse(asked(base, **fields)), cards()).steps[0].prune
    return prune(from_module(model, "tuned"), step, lambda: pytest.fail("it needs no text"), 0, Silent())


def tuned(model, drift: float = 0.3):
    """The model after a fine-tuning that moved each row of its routers by some amount of its own."""
    after, draw = copy.deepcopy(model), torch.Generator().manual_seed(5)
    for block in after.model.layers:
        rows = block.mlp.gate.weight
        rows += drift * torch.rand(len(rows), 1, generator=draw) * torch.randn(rows.shape, generator=draw)
    return after


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("more", [{}, {"vocab_size": 333}], ids=["same vocabulary", "other vocabulary"])
def test_experts_whose_router_rows_changed_least_in_length_go(name, more, tmp_path):
    base = built(name, **more)
    base.save_pretrained(tmp_path / "base")
    model = tuned(built(name))
    for block in model.model.layers:  # one row turned without becoming longer: that counts as no change
        block.mlp.gate.weight[2] = -base.model.layers[0].mlp.gate.weight[2]
    model.model.layers[1].mlp.gate.weight[2] = -base.model.layers[1].mlp.gate.weight[2]
    pairs = zip(copy.deepcopy(model).model.layers, base.model.layers, strict=True)
    expected = []
    for mine, its in pairs:
        rows = zip(mine.mlp.gate.weight.tolist(), its.mlp.gate.weight.tolist(), strict=True)
        expected.append([abs(sum(x * x for x in row) ** 0.5 - sum(x * x for x in other) ** 0.5) for row, other in rows])
    done = run(model, str(tmp_path / "base"))
    for block in range(2):
        torch.testing.assert_close(done.scores[f"blocks.{block}.experts"], torch.tensor(expected[block]), rtol=1e-4, atol=1e-6)
        gone = sorted(range(6), key=lambda expert: (expected[block][expert], expert))[:2]
        assert 2 in gone and kept(done)[f"blocks.{block}.experts"] == [e for e in range(6) if e not in gone]


def test_a_transform_is_handed_the_second_model_with_its_weights_in_its_file(tmp_path):
    """Task arithmetic in four lines: what a stranger's file may do."""
    base = tiny("llama")
    base.save_pretrained(tmp_path / "base")
    model = tiny("llama")
    for parameter in model.parameters():
        parameter.data += 0.5

    def halve_the_change(loaded, base_model, *, base: str = "") -> Pruned:
        """Keep half of what fine-tuning changed."""
        assert next(base_model.module("model.layers.1").parameters()).is_meta
        for index, block in enumerate(loaded.anatomy.blocks):
            with base_model.block(index) as its, torch.no_grad():
                for mine, other in zip(loaded.module(block.path).parameters(), its.parameters(), strict=True):
                    mine.lerp_(other, 0.5)
        return Pruned(loaded)

    from typing import Annotated

    from core.method import Param

    halve_the_change.__annotations__["base"] = Annotated[str, Param("Before", longest=300, grammar="model")]
    transform("halve_the_change", label="Half", structures=("blocks",))(halve_the_change)
    try:
        step = Prune(method="halve_the_change", structure="blocks", sparsity=0.5, params={"base": str(tmp_path / "base")})
        prune(from_module(model, "tuned"), step, lambda: None, 0, Silent())
    finally:
        METHODS.pop(("transform", "halve_the_change"))
    for mine, other in zip(model.model.layers.parameters(), base.model.layers.parameters(), strict=True):
        torch.testing.assert_close(mine, other + 0.25)


@pytest.mark.parametrize("base", ["", "  "])
def test_without_a_second_model_the_recipe_is_refused_with_what_to_add(base):
    with pytest.raises(
        RecipeError, match="router_norm_change compares with a second model, and base does not say which"
    ) as caught:
        resolve(parse(asked(base)), cards())
    assert "params: {base: ...}" in caught.value.remedy


def wide(path):
    built("mixtral", intermediate_size=40).save_pretrained(path)


def few(path):
    built("mixtral", num_local_experts=4).save_pretrained(path)


def short(path):
    built("mixtral", num_hidden_layers=1).save_pretrained(path)


def other(path):
    built("qwen3_moe").save_pretrained(path)


def dense(path):
    tiny("llama").save_pretrained(path)


BAD = {
    "another width": (wide, r"is not alike: model\.layers\.0\.mlp\.experts\.\w+ is 6 by .* in tuned"),
    "another router": (few, r"is not alike: a block has 4 experts, and 6 in tuned"),
    "another depth": (short, r"is not alike: it has 1 blocks, and tuned has 2"),
    "another class": (other, r"is a Qwen3MoeForCausalLM, and tuned is a MixtralForCausalLM"),
    "a dense model": (dense, r"is a LlamaForCausalLM, and tuned is a MixtralForCausalLM"),
    "no folder": (lambda path: None, r"second model \(base\) cannot be opened: there is no model at"),
    "an empty folder": (lambda path: path.mkdir(), r"second model \(base\) cannot be opened: .*config\.json"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_second_model_that_is_not_alike_is_refused_before_any_weight_changes_and_before_anything_is_measured(case, tmp_path):
    make, says = BAD[case]
    make(tmp_path / "base")
    model = built()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(PrunariumError, match=says) as caught:
        run(model, str(tmp_path / "base"))
    assert caught.value.remedy and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    watcher = Silent()
    with pytest.raises(PrunariumError, match=says):
        run_model(
            parse(asked(str(tmp_path / "base"))), folder.create(tmp_path / "run"), watcher, from_module(model, "tuned"), Clock()
        )
    assert not watcher.heard


def test_a_dense_model_has_no_router_to_compare(tmp_path):
    dense(tmp_path / "base")
    with pytest.raises(ModelError, match="LlamaForCausalLM is not a mixture of experts"):
        run(tiny("llama"), str(tmp_path / "base"))


def test_the_second_model_may_be_the_one_that_is_pruned_and_then_nothing_changed(tmp_path):
    built().save_pretrained(tmp_path / "base")
    done = run(load(str(tmp_path / "base")).model, str(tmp_path / "base"))
    assert all(not scores.any() for scores in done.scores.values())
    assert kept(done)["blocks.0.experts"] == [2, 3, 4, 5]  # of equals the first go
