"""Where parts written apart meet: what a recipe could combine, and what was once an exception or a sentence that misled."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from core.catalogue import resolve
from core.errors import ModelError, PrunariumError, RecipeError
from core.events import Silent
from core.method import cards
from core.model.anatomy import read_anatomy
from core.model.blocks import known_ids
from core.model.inputs.texts import NO_TEXTS, Texts
from core.model.loading import from_module, load
from core.model.measuring.latency import latency
from core.model.measuring.measure import prepare
from core.model.pruning.step import prune
from core.recipe import Measure, parse
from kernels.masks import keep_highest, keep_n_of_m
from studio.rooms.prune.saying import sentence
from tests import tiny_models
from tests.oracle.test_experts import built

IDS = torch.randint(0, 300, (4, 16), generator=torch.Generator().manual_seed(3))
pytestmark = pytest.mark.quick


def recipe(source="builtin:tiny-llama", calibration="auto", **fields):
    step = {"prune": fields}
    made = {"recipe": 1, "name": "x", "model": {"source": source}, "calibration": {"source": calibration}, "steps": [step]}
    return resolve(parse(made), cards())


def run(loaded, inputs=lambda: IDS, texts=NO_TEXTS, **fields):
    return prune(loaded, recipe(**fields).steps[0].prune, inputs, 0, Silent(), texts)


@pytest.mark.parametrize(("model", "most"), [(tiny_models.gpt2, 256), (tiny_models.bert, 64)])
def test_more_tokens_than_a_model_has_positions_for_are_refused_wherever_they_are_said(model, most):
    loaded = from_module(model(), "tiny")
    assert known_ids(loaded, torch.zeros(1, most, dtype=torch.int64)).shape == (1, most)
    latency(loaded, 1, most, 3, Silent())
    for ask in (
        lambda: known_ids(loaded, torch.zeros(2, most + 1, dtype=torch.int64)),
        lambda: latency(loaded, 1, most + 1, 3, Silent()),
        lambda: prepare(loaded, Measure(latency={"tokens": most + 1})),
        lambda: run(
            loaded, method="magnitude", structure="neurons", budget={"cost": "latency", "remove": 0.1, "tokens": most + 1}
        ),
    ):
        with pytest.raises(ModelError, match=f"reads at most {most} tokens") as error:
            ask()
        assert f"tokens: {most}" in error.value.remedy


@pytest.mark.parametrize("structure", ["neurons", "heads", "blocks", "sublayers"])
def test_an_image_classifier_takes_a_budget_in_latency_or_says_in_a_sentence_why_not(structure):
    loaded = load("builtin:tiny-vit")
    budget = {"cost": "latency", "remove": 0.01, "repeats": 3}
    try:
        done = run(loaded, method="random", structure=structure, budget=budget)
    except RecipeError as error:  # this machine may be too busy for so little to be measured
        assert "the nearest that can be reached" in error.problem
    else:
        assert done.said["budget"]["before"] > 0 and "tokens" not in done.said["budget"]


def test_an_image_classifier_has_no_cache_to_bring_down():
    with pytest.raises(ModelError, match="keeps no keys and values"):
        run(load("builtin:tiny-vit"), method="magnitude", structure="heads", budget={"cost": "kv_bytes", "remove": 0.2})


def test_an_image_classifier_is_refused_a_gradient_before_a_second_text_is_read():
    def general():
        raise AssertionError("read")

    with pytest.raises(ModelError, match="has no gradient"):
        run(from_module(tiny_models.resnet(), "tiny"), texts=Texts(general), method="d_pruner", sparsity=0.5)


def test_names_that_fit_no_mixture_are_said_to_fit_no_experts():
    for fields, said in (
        ({"only": ("blocks.9",)}, "No experts of this model"),
        ({"protect": ("blocks.*",)}, "leaves no experts"),
    ):
        with pytest.raises(RecipeError, match=said):
            run(from_module(built(), "tiny"), method="moe_pruner", sparsity=0.5, **fields)


def test_a_width_that_a_mixture_cannot_multiply_says_which_share_may_do():
    model = built()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        run(from_module(model, "tiny"), method="random", structure="width", sparsity=0.4)
    except ModelError as error:
        assert "multiple of 16" in error.remedy
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert run(from_module(model, "tiny"), method="random", structure="width", sparsity=0.5).said["width"] == 16


def test_a_stream_that_can_no_longer_be_narrowed_says_what_comes_first():
    loaded = from_module(tiny_models.llama(2), "tiny")
    done = run(loaded, method="magnitude", structure="neurons", allocation={"method": "by_hand", "shares": {"blocks.0": 0.5}})
    with pytest.raises(ModelError, match="narrow the stream first"):
        run(replace(done.loaded, anatomy=read_anatomy(done.loaded.model)), method="magnitude", structure="width", sparsity=0.25)


@pytest.mark.parametrize("structure", ["width", "mixed", "vocabulary", "slices", "channels", "2:4"])
def test_a_budget_that_a_structure_cannot_take_is_refused_in_good_english(structure):
    method = {"mixed": "multi_pruner", "vocabulary": "unused_tokens", "slices": "slicegpt"}.get(structure, "magnitude")
    with pytest.raises(PrunariumError, match=r"^Structure \S+ (goes|shares|fixes) "):
        recipe(method=method, structure=structure, budget={"cost": "parameters", "remove": 0.1})


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("method", "structure"),
    [
        ("wanda", "unstructured"),
        ("sparsegpt", "unstructured"),
        ("flap", "neurons"),
        ("greedy_output", "heads"),
        ("laco", "blocks"),
    ],
)
def test_a_weight_that_is_no_number_is_refused_with_the_model_as_it_was(method, structure, wrong):
    model = tiny_models.llama(3)
    model.get_parameter("model.layers.1.mlp.down_proj.weight").data[3, 5] = wrong
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ModelError, match=r"weights of blocks\.1\.mlp\.down_proj are not all numbers"):
        run(from_module(model, "tiny"), method=method, structure=structure, sparsity=0.4)
    now = model.state_dict()
    assert now.keys() == before.keys()
    assert all(torch.equal(value.nan_to_num(), before[name].nan_to_num()) for name, value in now.items())


def test_masks_are_made_of_scores_that_still_have_a_gradient():
    scores = torch.randn(4, 8, requires_grad=True)
    assert torch.equal(keep_highest(scores, 11), keep_highest(scores.detach(), 11))
    assert torch.equal(keep_n_of_m(scores, 2, 4), keep_n_of_m(scores.detach(), 2, 4))


def test_plans_of_all_kinds_of_steps_read_as_sentences():
    def said(**fields):
        return sentence(recipe(**fields), tuple(cards()))

    assert said(method="magnitude", structure="heads", sparsity=0.4, allocation="logistic_depth").startswith(
        "Remove 40 % of all heads of tiny-llama by Magnitude, which looks at the weights alone, "
        "spread over the blocks by Rising with depth (SEAP)"
    )
    assert said(method="reap", structure="experts", budget={"cost": "bytes", "remove": 0.2}).endswith(
        ", evenly from every block, until the bytes on disk are 20 % fewer."
    )
    assert said(method="magnitude", structure="tiles:16", sparsity=0.5).startswith(
        "Remove 50 % of the 16 × 16 tiles in every layer"
    )
    tiles = said(method="magnitude", structure="tiles:16", budget={"cost": "flops", "remove": 0.2})
    assert tiles.startswith("Set 16 × 16 tiles of tiny-llama to zero") and "counting what is not zero" in tiles
    images = said(
        source="builtin:tiny-cnn", calibration="builtin:mnist5k/train", method="flap", structure="channels", sparsity=0.3
    )
    assert images.endswith("looking at 128 images from mnist5k/train.") and "tokens" not in images
