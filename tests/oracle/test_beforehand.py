"""What is refused before the dense model is measured, what earlier steps' zeros count for, and what a step says that it left alone."""

from __future__ import annotations

import pytest
import torch

from core import folder
from core.catalogue import resolve
from core.errors import ModelError, PrunariumError, RecipeError
from core.events import Silent
from core.method import cards
from core.model.loading import from_module
from core.model.pruning.step import prune
from core.model.steps import check_steps
from core.recipe import parse
from core.run import run
from tests.oracle.test_experts import built
from tests.tiny_models import VOCABULARY, llama

IDS = torch.randint(0, VOCABULARY, (6, 16), generator=torch.Generator().manual_seed(3))


def recipe(*steps, **fields):
    steps = [{"prune": step} for step in steps]
    return resolve(
        parse({"recipe": 1, "name": "x", "model": {"source": "builtin:tiny-llama"}, "steps": steps, **fields}), cards()
    )


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"method": "wanda", "structure": "3:7"}, "needs a multiple of 7"),
        ({"method": "magnitude", "sparsity": 0.5, "only": ["blocks.9"]}, "No layer of this model fits"),
        (
            {"method": "magnitude", "structure": "neurons", "sparsity": 0.5, "protect": ["blocks.9"]},
            "No neurons of this model fit",
        ),
        ({"method": "sleb", "structure": "blocks", "sparsity": 0.5, "only": ["blocks.9"]}, "No block of this model fits"),
        ({"method": "wanda", "allocation": {"method": "by_hand", "shares": {"blocks.9": 0.5}}}, "names 'blocks.9'"),
        ({"method": "bonsai", "structure": "neurons", "sparsity": 0.3, "allocation": "knapsack"}, "tries out budgets on scores"),
        (
            {"method": "bonsai", "structure": "neurons", "sparsity": 0.3, "allocation": "influence_weighted"},
            "goes through the blocks",
        ),
        ({"method": "sparsegpt", "sparsity": 0.5, "protect": ["super_weights"]}, "chooses its weights while it solves"),
    ],
)
def test_a_step_that_cannot_be_is_refused_with_nothing_measured(fields, why):
    with pytest.raises(PrunariumError, match=why):
        check_steps(recipe(fields), from_module(llama(2), "x"))


def test_a_recipe_refuses_what_no_model_could_do():
    with pytest.raises(RecipeError, match="weights inside experts are none"):
        recipe({"method": "moe_pruner", "sparsity": 0.5, "allocation": "owl"})
    with pytest.raises(RecipeError, match="names single weights, and neurons go whole"):
        recipe({"method": "wanda", "structure": "neurons", "sparsity": 0.5, "protect": ["super_weights"]})


def test_names_that_an_earlier_step_may_change_are_looked_up_in_their_turn():
    first = {
        "method": "magnitude",
        "structure": "neurons",
        "sparsity": 0.5,
    }  # 24 neurons are left: 4:8 divides 24, 16:32 does not
    check_steps(recipe(first, {"method": "magnitude", "structure": "16:32"}), from_module(llama(2), "x"))
    with pytest.raises(RecipeError, match="16:32 needs a multiple of 32"):
        check_steps(recipe({"method": "magnitude", "structure": "16:32"}, first), from_module(llama(2), "x"))


def test_a_run_says_so_before_it_measures(tmp_path):
    steps = {"method": "wanda", "structure": "3:7"}, {"method": "magnitude", "sparsity": 0.5}
    with pytest.raises(RecipeError, match="multiple of 7"):
        run(recipe(*steps, measure={"perplexity": {"samples": 2, "tokens": 32}}), tmp_path / "run")
    assert not any("dense" in str(event) for event in folder.read_events(tmp_path / "run")[0])


@pytest.mark.parametrize("method", ["random", "magnitude", "wanda"])
def test_zeros_of_an_earlier_step_go_first_and_count(method):
    """Wanda takes half of each row; another step for half then takes the same weights, and one for 0.75 half of the rest; 0.25 takes nothing more."""
    model = llama(2)
    loaded = prune(
        from_module(model, "x"), recipe({"method": "wanda", "sparsity": 0.5}).steps[0].prune, lambda: IDS, 0, Silent()
    ).loaded
    weight = model.model.layers[1].mlp.up_proj.weight
    zeros = weight == 0
    assert float(zeros.float().mean()) == 0.5
    for sparsity, reached in ((0.25, 0.5), (0.5, 0.5), (0.75, 0.75)):
        done = prune(loaded, recipe({"method": method, "sparsity": sparsity}).steps[0].prune, lambda: IDS, 1, Silent())
        assert (weight[zeros] == 0).all()
        assert float((weight == 0).float().mean()) == pytest.approx(reached, abs=1e-3)
        assert all(row.sparsity == pytest.approx(reached, abs=1e-3) for row in done.rows)


def test_a_step_for_layers_says_how_many_weights_inside_experts_it_left():
    model, watcher = built(), Silent()
    inside = sum(parameter.numel() for name, parameter in model.named_parameters() if "experts" in name)
    done = prune(
        from_module(model, "x"), recipe({"method": "wanda", "sparsity": 0.5}).steps[0].prune, lambda: IDS % 96, 0, watcher
    )
    assert done.said == {"expert_weights_left_dense": inside}
    assert any(f"{inside:,} weights inside experts" in event.text for event in watcher.heard)
    dense = llama(2)
    assert not prune(
        from_module(dense, "x"), recipe({"method": "wanda", "sparsity": 0.5}).steps[0].prune, lambda: IDS, 0, watcher
    ).said


def test_memory_that_searches_and_solvers_need_is_asked_for_first(monkeypatch):
    monkeypatch.setenv("PRUNARIUM_MEMORY_GB", "0.0000001")
    for fields in (
        {"method": "magnitude", "sparsity": 0.5, "allocation": "darwinlm"},
        {"method": "kcm", "structure": "neurons", "sparsity": 0.5},
        {"method": "greedy_output", "structure": "neurons", "sparsity": 0.5},
    ):
        with pytest.raises(PrunariumError, match="of memory, and this machine has"):
            prune(from_module(llama(2), "x"), recipe(fields).steps[0].prune, lambda: IDS, 0, Silent())


def test_weights_of_norms_that_overflow_are_a_sentence():
    model = llama(2)
    with torch.no_grad():
        model.model.layers[1].post_attention_layernorm.weight.fill_(1e30)
    with pytest.raises(ModelError, match=r"scores of blocks\.1\.mlp\.\w+ are not all finite"):
        prune(from_module(model, "x"), recipe({"method": "wanda", "sparsity": 0.5}).steps[0].prune, lambda: IDS, 0, Silent())
