"""From the controls to a recipe, and from a recipe to a sentence."""

from dataclasses import replace

import pytest

from core import catalogue
from core.errors import RecipeError, ResourceError
from core.recipe import parse
from studio.jobs import admit
from studio.plans import BY_HAND, Order, sentence, structures, suggested_name, to_recipe

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
            assert made(method=card.name, structure=structure, params=seconds).steps[0].prune.structure == structure


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
    assert "spread over the blocks by global" in said(method="flap", structure="heads", allocation="global")
    prune = made(method="magnitude", structure="heads", allocation=BY_HAND, shares={"blocks.0": 0.5}).steps[0].prune
    assert (prune.structure, prune.allocation.shares) == ("heads", {"blocks.0": 0.5})


def test_a_plan_promises_transformers_only_what_transformers_can_load():
    assert "transformers loads" in said(save=True)
    assert "transformers loads" not in said(save=True, method="flap", structure="neurons")
