"""The X-ray's engine against plain references: similarity, runs, ablation, tiles, duplicates, spectra, and what the worker answers."""

import base64
import itertools
import json
import math

import numpy as np
import pytest
import torch

from core import serve, serve_xray
from core.errors import ModelError, PrunariumError, RecipeError
from core.events import Silent
from core.model.depth.ablation import without_each_block, without_weight
from core.model.loading import from_module, load
from core.model.looking import lens, tiles
from core.model.looking.duplicates import alike, unit_vectors
from core.model.looking.redundancy import Borders, debiased_cka
from core.model.looking.spectrum import spectrum
from core.model.looking.xray import observe_model
from core.model.measuring.likelihood import token_losses
from core.recipe import Observe
from tests import tiny_models

IDS = torch.randint(1, tiny_models.VOCABULARY, (6, 24), generator=torch.Generator().manual_seed(3))


def opened(model, place):
    """The same weights as a model that was loaded from a folder."""
    model.save_pretrained(place)
    return load(str(place))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return opened(tiny_models.llama(4), tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def seen(loaded):
    return observe_model(loaded, Observe(scores=("magnitude", "wanda", "taylor"), ablation=True), lambda: IDS, 0, Silent())


def hsic_by_counting(k, l):  # noqa: E741 - the paper's letters
    """The U-statistic over all choices of four different tokens."""
    chosen = list(itertools.permutations(range(len(k)), 4))
    return sum(k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q]) for i, j, q, r in chosen) / len(chosen)


@pytest.mark.quick
def test_debiased_cka_is_the_mean_over_all_choices_of_four_tokens():
    x, y = (torch.randn(7, width, generator=torch.Generator().manual_seed(width)).double() for width in (3, 5))
    y[:, :3] += x
    k, l = x @ x.T, y @ y.T  # noqa: E741
    wanted = hsic_by_counting(k, l) / math.sqrt(hsic_by_counting(k, k) * hsic_by_counting(l, l))
    found = debiased_cka([x, y])
    assert found[0][1] == found[1][0] == pytest.approx(float(wanted), rel=1e-9)
    assert found[0][0] == 1.0


@pytest.mark.quick
def test_cka_sees_through_rotation_and_scale_and_not_through_chance():
    draw = torch.Generator().manual_seed(0)
    x, other = (torch.randn(200, 8, generator=draw) for _ in range(2))
    turn = torch.linalg.qr(torch.randn(8, 8, generator=draw)).Q
    found = debiased_cka([x, 7 * x @ turn, other])
    assert found[0][1] == pytest.approx(1.0, abs=1e-6) and abs(found[0][2]) < 0.05
    assert debiased_cka([x[:3], x[:3]])[0][1] is None


def test_runs_are_what_the_method_angular_distance_would_take(loaded, seen):
    from core.method import get
    from core.model.depth.trials import last_states

    names = [block.name for block in loaded.anatomy.blocks]
    for length, row in enumerate(seen["runs"]["values"], 1):
        given = {"units": tuple(names), "sizes": dict.fromkeys(names, 1), "count": length, "watcher": Silent()}
        run = get("search", "angular_distance")(given | {"last_states": lambda: last_states(loaded, IDS, Silent())})
        lowest = min(range(len(names) - length + 1), key=lambda start: row[start])
        assert run == names[lowest : lowest + length]
        assert row[len(names) - length + 1 :] == [None] * (length - 1)


@pytest.mark.quick
def test_a_very_deep_model_is_compared_at_some_borders_only():
    borders = Borders(10_000)
    for border in range(10_001):
        borders.take([torch.full((1, 4, 2), 1.0 + border)], border)
    found = borders.similarity()
    assert len(found["labels"]) == len(found["values"]) <= 202 and found["labels"][-1] == "9999"
    assert borders.runs(True) is None


def test_ablation_is_the_loss_of_the_model_without_that_block(loaded, seen):
    found = seen["ablation"]
    block, kept = loaded.model.model.layers[1], list(loaded.model.model.layers)
    loaded.model.model.layers = torch.nn.ModuleList(layer for layer in kept if layer is not block)
    try:
        with torch.no_grad():
            alone = float(token_losses(loaded.model, IDS).mean())
    finally:
        loaded.model.model.layers = torch.nn.ModuleList(kept)
    assert found["without"]["blocks.1"] == pytest.approx(alone, rel=1e-5)
    with pytest.raises(ModelError, match="one block"):
        without_each_block(from_module(tiny_models.llama(1), "one"), IDS, Silent())


def test_a_model_without_gradients_keeps_the_other_scores_and_says_why(tmp_path):
    image = opened(tiny_models.resnet(), tmp_path)
    found = observe_model(
        image, Observe(scores=("magnitude", "taylor"), ablation=True), lambda: torch.randn(8, 1, 8, 8), 0, Silent()
    )
    assert set(found["layers"][0]["scores"]) == {"magnitude"}
    assert "predicts no next token" in found["left_out"]["taylor"] and "change width" in found["left_out"]["ablation"]
    with pytest.raises(ModelError, match="no next token"):
        observe_model(image, Observe(scores=("taylor",)), lambda: torch.randn(8, 1, 8, 8), 0, Silent())


@pytest.mark.quick
@pytest.mark.parametrize("how", ["max", "mean"])
def test_tiles_are_the_largest_or_mean_value_of_their_rectangles(how):
    matrix = np.random.default_rng(0).random((37, 11), dtype=np.float32)
    found = tiles.tiled(matrix, (3, 37, 1, 11), how, most=5)
    for i, (top, bottom) in enumerate(itertools.pairwise(found.rows)):
        for j, (left, right) in enumerate(itertools.pairwise(found.columns)):
            assert found.values[i, j] == pytest.approx(getattr(matrix[top:bottom, left:right], how)(), rel=1e-6)
    assert found.values.shape == (5, 5) and (found.rows[0], found.rows[-1]) == (3, 37)
    with pytest.raises(RecipeError, match="do not lie in"):
        tiles.checked_window([0, 38, 0, 11], 37, 11)


@pytest.mark.quick
def test_units_joined_by_pairs_are_one_cluster():
    base = torch.eye(6)
    vectors = torch.stack([base[0], base[0] + 0.1 * base[1], base[2], base[3], base[2] * 5, -base[3]])
    found = alike(vectors, 0.9)
    assert found.clusters == ((0, 1), (2, 4)) and found.mate[0] == 1 and float(found.nearest[2]) == pytest.approx(1.0)
    with pytest.raises(ModelError, match="one unit"):
        alike(vectors[:1], 0.9)
    with pytest.raises(ModelError, match="NaN"):
        alike(vectors * torch.nan, 0.9)


@pytest.mark.quick
def test_units_that_are_all_alike_are_one_cluster_without_a_list_of_their_pairs():
    chance = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 8, generator=chance)
    vectors = torch.where(
        torch.arange(3000)[:, None] % 3 > 0, one, other
    )  # over two million pairs, in three stretches of the table
    found = alike(vectors, 0.99)
    assert found.clusters == (tuple(i for i in range(3000) if i % 3), tuple(range(0, 3000, 3)))
    chain = torch.stack([torch.tensor([cos, sin]) for cos, sin in ((math.cos(i / 40), math.sin(i / 40)) for i in range(60))])
    assert alike(chain[torch.randperm(60, generator=chance)], math.cos(1.5 / 40)).clusters == (
        tuple(range(60)),
    )  # each is near its neighbours only


def test_a_copied_neuron_is_found_in_the_model(loaded):
    block, mlp = loaded.anatomy.blocks[2], loaded.model.model.layers[2].mlp
    before = {name: p.detach().clone() for name, p in mlp.named_parameters()}
    with torch.no_grad():
        for layer in (mlp.gate_proj, mlp.up_proj):
            layer.weight[7] = layer.weight[3]
        mlp.down_proj.weight[:, 7] = 2 * mlp.down_proj.weight[:, 3]
    try:
        assert alike(unit_vectors(loaded, block, "neurons"), 0.999).clusters == ((3, 7),)
    finally:
        with torch.no_grad():
            for name, p in mlp.named_parameters():
                p.copy_(before[name])


@pytest.mark.quick
def test_the_spectrum_by_hand():
    # singular values 3, 3, 0: p = 1/2, 1/2, so two effective directions; 3^2 + 3^2 over 3^2 = 2
    found = spectrum(torch.diag(torch.tensor([3.0, 3.0, 0.0])), share=0.5)
    assert found["effective_rank"] == pytest.approx(2.0) and found["stable_rank"] == pytest.approx(2.0)
    assert found["energy_rank"] == 2 and found["values"] == pytest.approx([3.0, 3.0, 0.0])
    assert found["cut"] == 0 and found["kept"] == 0.0  # 4.5 weights are left, a rank costs 6
    assert spectrum(torch.eye(40), share=0.5) | {"values": 0, "ranks": 0} == {
        "full_rank": 40, "effective_rank": pytest.approx(40), "stable_rank": pytest.approx(40), "energy_rank": 40, "share": 0.5, "cut": 10,
        "kept": pytest.approx(0.25), "values": 0, "ranks": 0,
    }  # fmt: skip
    with pytest.raises(ModelError, match="zero"):
        spectrum(torch.zeros(4, 4))


def test_a_weight_is_put_back_after_it_was_left_out():
    model = from_module(tiny_models.llama(2), "tiny")
    object.__setattr__(model, "tokenizer", tiny_models.tokenizer())
    before = {name: p.detach().clone() for name, p in model.model.named_parameters()}
    found = without_weight(model, IDS, "blocks.0.mlp.down_proj", 3, 5, "a")
    assert found["dense"]["loss"] != found["without"]["loss"]
    assert all(torch.equal(p, before[name]) for name, p in model.model.named_parameters())
    with pytest.raises(ModelError, match=r"no weight \[99, 0\]"):
        without_weight(model, IDS, "blocks.0.mlp.down_proj", 99, 0, "a")


@pytest.fixture
def session(loaded, tmp_path):
    session = serve.Session(tmp_path, loaded)
    session.parts["xray"] = lens.Lens(loaded, IDS)
    return session


def asked(session, ask, /, **args):
    return serve.answer(session, json.dumps({"id": 1, "ask": ask, "args": args}))


def test_the_weight_map_removes_what_the_mask_would(session, loaded):
    from core.method import get
    from core.model.masks import decide

    name = "blocks.1.mlp.up_proj"
    found = asked(session, "xray_weights", name=name, metric="wanda", share=0.5, how="mean")["answer"]
    scores = lens.scores_of_weights(session.parts["xray"], loaded.anatomy.layer(name), get("score", "wanda"))
    removed = np.frombuffer(base64.b64decode(found["removed"]), "<f4").reshape(48, 32)
    assert np.array_equal(removed > 0.5, ~decide(scores, "unstructured", 0.5, "row", name).numpy())
    assert np.frombuffer(base64.b64decode(found["values"]), "<f4") == pytest.approx(scores.flatten().numpy(), rel=1e-6)


def test_the_overlap_of_two_masks_is_what_both_remove(session, loaded):
    from core.method import get
    from core.model.masks import decide

    name = "blocks.1.mlp.up_proj"
    found = asked(session, "xray_masks", name=name, share=0.25)["answer"]
    at = {metric: place for place, metric in enumerate(found["metrics"])}
    assert {"magnitude", "wanda", "taylor", "random"} <= set(at) and found["left_out"] == {}
    gone = {}
    for metric in ("magnitude", "wanda"):
        scores = lens.scores_of_weights(session.parts["xray"], loaded.anatomy.layer(name), get("score", metric))
        gone[metric] = ~decide(scores, "unstructured", 0.25, get("score", metric).card.compare, name)
    both = float((gone["magnitude"] & gone["wanda"]).sum() / gone["magnitude"].sum())
    assert found["overlap"][at["magnitude"]][at["wanda"]] == pytest.approx(both)
    assert all(found["overlap"][place][place] == 1.0 for place in at.values())


@pytest.mark.parametrize("metric", ["magnitude", "wanda", "taylor"])
@pytest.mark.parametrize("structure", ["neurons", "heads"])
def test_the_scores_of_units_are_sums_over_their_weights(session, loaded, metric, structure):
    from core.method import get

    found = asked(session, "xray_units", block="blocks.1", structure=structure, metric=metric)["answer"]
    layers = ("up_proj", "gate_proj", "down_proj") if structure == "neurons" else ("q_proj", "k_proj", "v_proj", "o_proj")
    every = [layer for layer in loaded.anatomy.blocks[1].layers if layer.name.rpartition(".")[2] in layers]
    whole = sum(float(lens.scores_of_weights(session.parts["xray"], layer, get("score", metric)).sum()) for layer in every)
    assert found["metric"] == metric and sum(found["scores"]) == pytest.approx(whole, rel=1e-4)
    assert len(found["scores"]) == (48 if structure == "neurons" else 2)


def test_a_score_that_does_not_fit_gives_way_to_one_that_does(session):
    assert asked(session, "xray_units", block="blocks.1", structure="heads", metric="reap")["answer"]["metric"] == "magnitude"


@pytest.mark.parametrize(
    ("name", "args", "said"),
    [
        ("xray_units", {"block": "blocks.9", "structure": "heads"}, "no block called blocks.9"),
        ("xray_units", {"block": "blocks.0", "structure": "experts"}, "not a mixture of experts"),
        ("xray_units", {"block": "blocks.0", "structure": "feathers"}, "No score is known"),
        ("xray_weights", {"name": "blocks.0.mlp.up_proj", "window": [0, 900, 0, 1]}, "do not lie in"),
        ("xray_duplicates", {"block": "blocks.0", "structure": "channels"}, "not compared"),
        ("xray_experts", {"block": "blocks.0"}, "not a mixture of experts"),
        ("xray_ablate", {"layer": "blocks.0.mlp.down_proj", "row": 0, "column": 0}, "no tokenizer"),
        ("xray_nonsense", {}, "knows no question"),
    ],
)
def test_what_cannot_be_answered_is_a_sentence(session, name, args, said):
    found = asked(session, name, **args)
    assert said in found["problem"] and found["remedy"] and "failed on that" not in found["problem"]


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_scores_that_are_no_numbers_are_a_sentence(tmp_path, wrong):
    broken = from_module(tiny_models.llama(2), "tiny")
    with torch.no_grad():
        broken.model.model.layers[0].mlp.up_proj.weight[0, 0] = wrong
    session = serve.Session(tmp_path, broken)
    session.parts["xray"] = lens.Lens(broken, IDS)
    for name, args in (
        ("xray_weights", {"name": "blocks.0.mlp.up_proj", "share": 0.5}),
        ("xray_units", {"block": "blocks.0", "structure": "neurons"}),
        ("xray_duplicates", {"block": "blocks.0", "structure": "neurons"}),
        ("xray_spectrum", {"name": "blocks.0.mlp.up_proj"}),
    ):
        told = asked(session, name, **args)
        assert "NaN" in str(told) or "not all numbers" in told["problem"] or "not all finite" in told["problem"]


def test_the_lens_is_made_anew_for_another_model(session, monkeypatch):
    before = serve_xray._lens(session)
    session.loaded = from_module(tiny_models.gpt2(), "other")
    with pytest.raises(PrunariumError, match="no tokenizer"):  # a new one reads text, which this model cannot
        serve_xray._lens(session)
    assert before.loaded is not session.loaded
