"""From the controls to a recipe, and from a recipe to a sentence."""

from dataclasses import replace
from pathlib import Path

import pytest

from core import catalogue
from core.errors import RecipeError, ResourceError
from core.recipe import parse
from studio import known, target
from studio.jobs import admit
from studio.rooms.prune import onscreen, plandiff, scope
from studio.rooms.prune.plans import BY_HAND, Order, spreads, structures, suggested_name, to_recipe
from studio.rooms.prune.results import budgets
from studio.rooms.prune.saying import sentence
from studio.runs_table import what

pytestmark = pytest.mark.quick
ORDER = Order(model="builtin:tiny-llama")


def made(**changes):
    recipe = parse(to_recipe(replace(ORDER, **changes)))
    catalogue.resolve(recipe)
    return recipe


def said(**changes):
    return sentence(made(**changes), catalogue.load())


def test_every_structure_that_a_method_offers_makes_a_recipe_that_runs():
    for card in catalogue.of_kind("score"):
        for _, structure in structures(card):
            seconds = {param.name: "builtin:tiny-llama" for param in card.params if param.grammar == "model"}
            asked = {"N:M": "2:4"}.get(structure, structure)  # any N:M: the numbers beside it stand at two of four
            assert made(method=card.name, structure=structure, params=seconds).steps[0].prune.structure == asked


def test_the_plan_says_what_is_inside_experts_and_which_second_model_is_compared():
    inside = said(method="moe_pruner")
    assert inside.startswith(
        "Remove 50 % of the weights in every layer inside the experts of tiny-llama by MoE-Pruner, looking at 128"
    )
    assert ("single weights, anywhere inside experts", "unstructured") in [
        (words.lower(), value) for words, value in structures(catalogue.pruner(catalogue.load(), "moe_pruner"))
    ]
    against = said(method="router_norm_change", structure="experts", params={"base": "builtin:tiny-moe"})
    assert "by Router norm change against tiny-moe, which looks at the weights alone" in against


def test_a_second_model_typed_on_the_page_must_lie_in_an_opened_folder(tmp_path):
    from studio.rooms.prune import _admitted

    class Page:
        def admit(self, source: str) -> str:
            return admit(source, (tmp_path / "opened",))

    for name in ("opened", "closed"):
        (tmp_path / name).mkdir()
    kept = _admitted(Page(), "router_norm_change", {"base": str(tmp_path / "opened")})
    assert kept == {"base": str((tmp_path / "opened").resolve())}
    assert _admitted(Page(), "router_norm_change", {"base": ""}) == {"base": ""}  # the recipe's own check says what is missing
    with pytest.raises(ResourceError, match="outside the folders"):
        _admitted(Page(), "router_norm_change", {"base": str(tmp_path / "closed")})


def test_the_budget_by_hand_goes_in_as_shares_and_leaves_out_what_is_whole():
    prune = made(allocation=BY_HAND, shares={"blocks.0": 0.4, "blocks.1": 0.0}).steps[0].prune
    assert (prune.allocation.method, prune.allocation.shares, prune.sparsity) == (BY_HAND, {"blocks.0": 0.4}, None)


def test_any_n_of_m_and_tiles_of_any_side_go_into_the_recipe_and_nonsense_is_a_sentence():
    assert made(structure="N:M", pattern=(3, 8)).steps[0].prune.sparsity == 5 / 8
    assert said(structure="N:M", pattern=(3, 8)).startswith("Keep 3 of each 8 consecutive inputs of tiny-llama")
    assert suggested_name(replace(ORDER, structure="3:8")) == "tiny-llama-wanda-3of8"
    assert made(structure="tiles", tile=16).steps[0].prune.structure == "tiles:16"
    assert made(structure="tiles").steps[0].prune.structure == "tiles"
    assert (
        "allocation"
        not in to_recipe(replace(ORDER, structure="N:M", allocation=BY_HAND, shares={"blocks.0": 0.4}))["steps"][0]["prune"]
    )
    for pattern, words in (
        ((4, 4), "4 of each 4 inputs is no"),
        ((None, 4), "Nothing of each 4"),
        ((0, 4), "0 of each 4"),
        ((3, -4), "of each -4"),
    ):
        with pytest.raises(RecipeError, match=words):
            made(structure="N:M", pattern=pattern)
    for side in (None, 0, 100_000):
        with pytest.raises(RecipeError, match="A tile cannot be"):
            made(structure="tiles", tile=side)


def test_parts_and_super_weights_go_into_the_recipe_only_where_the_method_can_spare_them():
    wanda, solver, whole = (catalogue.pruner(catalogue.load(), name) for name in ("wanda", "sparsegpt", "slicegpt"))
    only, protect = scope.asked([" blocks.1 "], ["*.k_proj", ""], True, wanda, "unstructured")
    assert (only, protect) == (("blocks.1",), ("*.k_proj", "super_weights"))
    assert scope.asked([], ["*.k_proj"], True, solver, "2:4") == ((), ("*.k_proj",))  # it is asked for no scores
    assert scope.asked(["blocks.1"], [], True, wanda, "neurons") == (("blocks.1",), ())
    assert scope.asked(["blocks.1"], ["blocks.2"], True, whole, "slices") == ((), ())
    prune = made(only=only, protect=protect).steps[0].prune
    assert (prune.only, prune.protect) == (only, protect)
    assert ", only in blocks.1, sparing the super weights and *.k_proj; then" in said(only=only, protect=protect)
    assert "sparing a, b, c and 3 others" in said(protect=("a", "b", "c", "d", "e", "f"))


def test_a_pattern_or_a_name_that_does_not_fit_the_model_is_said_before_the_run():
    described = known.description("builtin:tiny-llama", Path("nowhere"))
    assert ("every mlp.up_proj", "blocks.*.mlp.up_proj") in scope.names(described) and ("blocks.3", "blocks.3") in scope.names(
        described
    )
    layers = described["layers"]
    kept = scope.touched(made(only=("blocks.0",), protect=("*.mlp.*", "super_weights")).steps[0].prune, layers)
    assert [layer["name"] for layer in kept] == [f"blocks.0.self_attn.{name}_proj" for name in "qkvo"]
    scope.check(made(structure="N:M", pattern=(5, 32)), described)
    with pytest.raises(RecipeError, match=r"5:7 needs a multiple of 7 inputs; blocks.0.self_attn.q_proj has 192"):
        scope.check(made(structure="N:M", pattern=(5, 7)), described)
    scope.check(made(structure="N:M", pattern=(5, 7), only=("blocks.9*",)), {})  # nothing is known of the model yet
    with pytest.raises(RecipeError, match=r"No layer of this model fits 'blocks.99'"):
        scope.check(made(only=("blocks.99",)), described)
    with pytest.raises(RecipeError, match="No layer is left"):
        scope.check(made(protect=("blocks.*",)), described)
    before, left = plandiff.weights_left(made(only=("blocks.0",)), described)[1:]
    assert before - left == round(0.5 * sum(layer["parameters"] for layer in layers if layer["block"] == 0))


def test_a_recovery_is_trained_with_its_own_parameters():
    assert made(recovery="lora", healing={"rank": 3}).steps[1].recover.params == {"rank": 3}


def test_a_plan_that_another_window_has_overtaken_is_not_the_one_that_is_pruned():
    shown = onscreen.of(made(allocation=BY_HAND, shares={"blocks.0": 0.4}))
    onscreen.same(shown, made(allocation=BY_HAND, shares={"blocks.0": 0.4}, sparsity=0.1, name="other"))
    onscreen.same(None, made())
    with pytest.raises(ResourceError, match="opened builtin:tiny-vit meanwhile"):
        onscreen.same(onscreen.of(made()), made(model="builtin:tiny-vit"))
    with pytest.raises(ResourceError, match="moved the bars"):
        onscreen.same(shown, made(allocation=BY_HAND, shares={"blocks.0": 0.5}))


def test_an_empty_budget_by_hand_is_said_in_a_sentence():
    with pytest.raises(RecipeError, match="shares"):
        made(allocation=BY_HAND)


def test_quality_means_perplexity_for_language_models_and_accuracy_for_image_classifiers():
    assert made().measure.perplexity is not None
    images = made(kind="image_classifier").measure
    assert (images.perplexity, images.accuracy is not None, images.generate) == (None, True, ())


def test_nothing_to_measure_leaves_measure_out():
    assert "measure" not in to_recipe(replace(ORDER, measures=()))


@pytest.mark.parametrize(
    "changes", [{"samples": 0}, {"tokens": 1}, {"sparsity": 1.3}, {"name": "<b>"}, {"seed": -1}, {"params": {"power": 9.0}}]
)
def test_a_bad_value_is_one_sentence_with_a_remedy(changes):
    with pytest.raises(RecipeError) as wrong:
        made(**changes)
    assert wrong.value.problem.endswith(".")
    assert wrong.value.remedy.endswith((".", "?"))


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("builtin:tiny-llama", "tiny-llama-wanda-50"),
        ("/a/folder with spaces/", "folder-with-spaces-wanda-50"),
        ("owner/Name@main", "Name-wanda-50"),
        ("/a/<script>.gguf", "script-wanda-50"),
        ("/", "model-wanda-50"),
    ],
)
def test_a_run_is_named_after_what_it_does(model, name):
    assert suggested_name(replace(ORDER, model=model)) == name
    assert made(model=model).name == name


def test_the_plan_is_one_sentence_that_says_it_all():
    assert said(save=True) == (
        "Remove 50 % of the weights in every layer of tiny-llama by Wanda, looking at 128 sequences of 512 tokens from its standard "
        "calibration text; then measure perplexity and sample text before and after; then save the model in a folder that transformers loads."
    )
    assert said(structure="2:4").startswith("Keep 2 of each 4 consecutive inputs of tiny-llama by Wanda")
    assert "which looks at the weights alone" in said(method="magnitude")
    assert "which looks at the weights alone" in said(method="magnitude", allocation="global")
    assert "looking at 128 sequences" in said(method="magnitude", allocation="owl")
    assert said(method="block_influence", structure="blocks", sparsity=0.25).startswith("Remove 25 % of the blocks of tiny-llama")
    assert said(allocation=BY_HAND, shares={"blocks.0": 0.4}).startswith("Remove what your budget says from 1 block of")


def test_neurons_and_heads_are_said_by_block_and_take_a_budget_by_hand():
    assert "emove 50 % of the neurons in every block" in said(method="flap", structure="neurons", sparsity=0.5)
    assert "spread over the blocks by Global ranking" in said(method="flap", structure="heads", allocation="global")
    prune = made(method="magnitude", structure="heads", allocation=BY_HAND, shares={"blocks.0": 0.5}).steps[0].prune
    assert (prune.structure, prune.allocation.shares) == ("heads", {"blocks.0": 0.5})


def test_a_plan_promises_transformers_only_what_transformers_can_load():
    assert "transformers loads" in said(save=True)
    assert "transformers loads" not in said(save=True, method="flap", structure="neurons")


@pytest.mark.parametrize("cost", ["parameters", "bytes", "flops", "latency"])
def test_a_target_cost_goes_in_as_a_budget_and_is_read_back_in_words(cost):
    prune = made(structure="neurons", method="flap", cost=cost, sparsity=0.2).steps[0].prune
    assert (prune.budget.cost, prune.budget.remove, prune.sparsity) == (cost, 0.2, None)
    words = said(structure="neurons", method="flap", cost=cost, sparsity=0.2)
    assert words.startswith("Remove neurons of tiny-llama by FLAP, looking at 128 sequences")
    assert ", evenly from every block, until the " in words and "20 %" in words


def test_a_limit_is_said_in_peoples_unit_and_wins_over_the_share():
    prune = made(structure="heads", method="magnitude", cost="kv_bytes", limit=1.5).steps[0].prune
    assert (prune.budget.at_most, prune.budget.remove) == (1.5e6, None)
    assert "until the bytes of the key-value cache are at most 1.5 MB" in said(
        structure="heads", method="magnitude", cost="kv_bytes", limit=1.5
    )
    order = replace(ORDER, structure="heads", cost="kv_bytes", limit=1.5)
    assert suggested_name(order) == "tiny-llama-wanda-kv_bytes-to-1.5"
    assert suggested_name(replace(order, cost="flops", limit=None)) == "tiny-llama-wanda-flops-50"


def test_a_mask_says_what_its_budget_counts():
    assert "Set weights of tiny-llama to zero" in said(cost="flops") and "counting what is not zero" in said(cost="flops")


def test_only_costs_that_fall_with_a_structure_are_offered():
    assert [value for _, value in target.choices("neurons")] == ["share", "parameters", "bytes", "flops", "latency"]
    assert [value for _, value in target.choices("2:4")] == [value for _, value in target.choices("slices")] == ["share"]


def test_a_cost_that_cannot_fall_is_a_sentence_all_the_same():
    with pytest.raises(RecipeError, match="cannot fall with structure unstructured"):
        made(cost="latency")


def test_an_allocators_parameters_go_into_the_recipe_and_their_bounds_hold():
    prune = made(allocation="owl", spread={"spread": 0.2}).steps[0].prune
    assert (prune.allocation.method, prune.allocation.params) == ("owl", {"spread": 0.2})
    with pytest.raises(RecipeError, match=r"between 0 and 0\.3"):
        made(allocation="owl", spread={"spread": 0.5})
    assert made(allocation="uniform", spread={"spread": 0.2}).steps[0].prune.allocation.params == {}


def test_a_run_with_a_budget_is_told_apart_in_the_table_and_says_what_it_reached():
    assert what(made(structure="neurons", method="flap", cost="flops", sparsity=0.2)) == "flap flops −20 % neurons"
    assert what(made(structure="heads", method="magnitude", cost="kv_bytes", limit=1.5)) == "magnitude kv_bytes ≤ 1.5 MB heads"
    report = {"steps": [{"budget": {"cost": "bytes", "before": 4e6, "target": 3e6, "reached": 2.9e6}}, {}]}
    assert budgets(report) == ("Budget: at most 3 MB on disk asked for, 2.9 MB on disk reached; there were 4 MB on disk. ")


def test_only_ways_to_spread_that_fit_the_structure_are_offered():
    assert [value for _, value in spreads("experts")] == ["uniform", BY_HAND]
    assert [value for _, value in spreads("2:4")] == [value for _, value in spreads("N:M")] == ["uniform"]
    neurons = [value for _, value in spreads("neurons")]
    assert (
        neurons[0] == "uniform"
        and neurons[-1] == BY_HAND
        and {"global", "knapsack", "darwinlm"} < set(neurons)
        and "owl" not in neurons
    )
    for structure in ("unstructured", "neurons", "heads", "tiles"):
        for _, way in spreads(structure)[:-1]:
            assert made(structure=structure, method="magnitude", allocation=way).steps[0].prune.allocation.method == way


def test_a_typed_limit_is_a_number_or_a_sentence():
    assert (target.limit("  "), target.limit("1,500"), target.limit("2.5")) == (None, 1500.0, 2.5)
    for wrong in ("many", "-3", "0", "nan", "inf"):
        with pytest.raises(RecipeError, match="a number above 0") as caught:
            target.limit(wrong)
        assert caught.value.remedy.endswith(".")


def test_of_an_image_classifier_the_plan_counts_images():
    recipe = made(model="builtin:tiny-vit", kind="image_classifier", method="wanda", samples=64)
    assert "looking at 64 images from its standard calibration set" in sentence(recipe, catalogue.load(), "image_classifier")


def test_a_refit_is_a_step_between_pruning_and_recovery():
    order = Order(model="builtin:tiny-llama", refit="admm", mending={"rounds": 40}, recovery="lora")
    made = parse(to_recipe(order))
    assert [next(name for name, part in step if part is not None) for step in made.steps] == ["prune", "reconstruct", "recover"]
    assert made.steps[1].reconstruct.params == {"rounds": 40} and made.name == "tiny-llama-wanda-50-admm-lora"
    assert "put the layers right by ADMM under the mask on the calibration text, without training" in sentence(
        made, catalogue.load()
    )
