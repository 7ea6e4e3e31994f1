"""Neurons and heads against plain references: whole-model forwards with hooks, loops over single units, sorts of plain lists."""

from __future__ import annotations

import copy
import statistics

import pytest
import torch

from core.catalogue import load as cards
from core.catalogue import resolve
from core.errors import ModelError, RecipeError, Stopped
from core.events import Silent
from core.method import get
from core.model.loading import from_module
from core.model.pruning.step import prune
from core.recipe import parse
from tests.model_folders import tiny
from tests.tiny_models import VOCABULARY, gpt2, llama

IDS = torch.randint(0, VOCABULARY, (11, 16), generator=torch.Generator().manual_seed(3))
HEAD = 8  # of tests.tiny_models.llama: 4 query heads of 8, on 2 key-value heads


def recipe(**fields):
    return parse({"recipe": 1, "name": "x", "model": {"source": "x"}, "steps": [{"prune": fields}]})


def run(model, calibration=IDS, watcher=None, seed=0, **fields):
    step = recipe(**fields).steps[0].prune
    return prune(from_module(model, "tiny"), step, lambda: calibration, seed, watcher or Silent())


def kept(done) -> dict[str, list[int]]:
    return {cut.group.name: cut.keep.nonzero().flatten().tolist() for cut in done.cuts}


def readings(model, path: str) -> torch.Tensor:
    """What a layer reads in one forward of the whole model: (sequences, tokens, features)."""
    seen = []
    handle = model.get_submodule(path).register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().double()))
    with torch.no_grad():
        model(IDS)
    handle.remove()
    return seen[0]


def plain(model, structure: str, score, drop: int) -> dict[str, list[int]]:
    """Block after block: score each unit, silence the lowest in the dense weights, go on with that model. {group name: units kept}"""
    model, found = copy.deepcopy(model), {}
    for index, block in enumerate(model.model.layers):
        name, reader = ("mlp", block.mlp.down_proj) if structure == "neurons" else ("attention", block.self_attn.o_proj)
        path = f"model.layers.{index}." + ("mlp.down_proj" if structure == "neurons" else "self_attn.o_proj")
        per_unit = 1 if structure == "neurons" else 2 * HEAD
        values = readings(model, path)
        scores = [score(block, reader, values, unit, per_unit) for unit in range(reader.weight.shape[1] // per_unit)]
        gone = sorted(range(len(scores)), key=lambda unit: (scores[unit], unit))[:drop]
        for unit in gone:
            reader.weight.data[:, unit * per_unit : (unit + 1) * per_unit] = 0
        found[f"blocks.{index}.{name}"] = [unit for unit in range(len(scores)) if unit not in gone]
    return found


def columns(unit: int, per_unit: int) -> range:
    return range(unit * per_unit, (unit + 1) * per_unit)


def fluctuation(block, reader, values, unit, per_unit) -> float:
    total = 0.0
    for column in columns(unit, per_unit):
        seen = values[..., column].flatten().tolist()
        total += statistics.variance(seen) * float(reader.weight.detach()[:, column].double().square().sum())
    return total


def loudness(block, reader, values, unit, per_unit) -> float:
    return sum(float(values[..., column].square().sum()) / len(IDS) for column in columns(unit, per_unit)) ** 0.5


def both_sides(block, reader, values, unit, per_unit) -> float:
    norm = loudness(block, reader, values, unit, 1)
    out = float(reader.weight.detach()[:, unit].abs().sum())
    return (
        out * norm
        + float(block.mlp.up_proj.weight.detach()[unit].abs().sum())
        + float(block.mlp.gate_proj.weight.detach()[unit].abs().sum())
    ) * norm


def size(block, reader, values, unit, per_unit) -> float:
    """Magnitude of a neuron: the sum over its row of gate, its row of up and its column of down."""
    return sum(
        float(w.detach().abs().double().sum())
        for w in (block.mlp.gate_proj.weight[unit], block.mlp.up_proj.weight[unit], reader.weight[:, unit])
    )


def size_of_heads(block, reader, values, unit, per_unit) -> float:
    a, one = block.self_attn, slice(unit * HEAD, (unit + 1) * HEAD)
    two = slice(unit * 2 * HEAD, (unit + 1) * 2 * HEAD)
    parts = (a.q_proj.weight[two], a.k_proj.weight[one], a.v_proj.weight[one], reader.weight[:, two])
    return sum(float(part.abs().double().sum()) for part in parts)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("method", "structure", "score", "params"),
    [
        ("flap", "neurons", fluctuation, {"compensate": False}),
        ("flap", "heads", fluctuation, {"compensate": False}),
        ("activation", "neurons", loudness, {}),
        ("activation", "heads", loudness, {}),
        ("cfsp", "neurons", both_sides, {}),
        ("magnitude", "neurons", size, {}),
        ("magnitude", "heads", size_of_heads, {}),
    ],
)
def test_the_units_kept_are_those_of_a_plain_reference_that_silences_them_one_block_at_a_time(method, structure, score, params):
    model = llama(layers=3)
    share, drop = (0.25, 12) if structure == "neurons" else (0.5, 1)
    expected = plain(model, structure, score, drop)
    assert kept(run(model, method=method, structure=structure, sparsity=share, params=params)) == expected


@pytest.mark.quick
def test_wanda_gives_a_neuron_the_sum_over_its_weights_each_layer_with_its_own_inputs():
    model = llama(layers=1)
    dense, layer = copy.deepcopy(model), "model.layers.0.mlp."
    scores = torch.zeros(48, dtype=torch.float64)
    for name, axis in (("gate_proj", 1), ("up_proj", 1), ("down_proj", 0)):
        norm = (readings(dense, layer + name).square().sum((0, 1)) / len(IDS)).sqrt()
        scores += (dense.get_submodule(layer + name).weight.double().abs() * norm).sum(axis)
    done = run(model, method="wanda", structure="neurons", sparsity=0.5)
    assert kept(done)["blocks.0.mlp"] == sorted(scores.argsort(stable=True)[24:].tolist())
    torch.testing.assert_close(done.scores["blocks.0.mlp.neurons"], scores.float())


@pytest.mark.quick
def test_flap_ranks_all_blocks_together_by_how_far_a_neuron_is_from_its_blocks_mean():
    model = llama(layers=3)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[:, :40] *= 0.01  # these say next to nothing, so this block must lose more
    ranked = []
    for index, block in enumerate(model.model.layers):
        values = readings(model, f"model.layers.{index}.mlp.down_proj")
        raw = [fluctuation(block, block.mlp.down_proj, values, unit, 1) for unit in range(48)]
        ranked += [((x - statistics.mean(raw)) / statistics.pstdev(raw), index) for x in raw]
    lost = [index for _, index in sorted(ranked)[:72]]
    fields = {"allocation": {"method": "global", "params": {"floor": 0.0}}, "params": {"compensate": False}}
    done = run(model, method="flap", structure="neurons", sparsity=0.5, **fields)
    assert [48 - len(units) for units in kept(done).values()] == [lost.count(index) for index in range(3)]
    assert lost.count(1) > 24 > max(lost.count(0), lost.count(2))


@pytest.mark.quick
@pytest.mark.parametrize("build", [llama, gpt2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("structure", ["neurons", "heads"])
def test_flap_leaves_the_mean_of_what_went_in_the_bias_of_the_layer_that_read_it(build, structure):
    """The mean over all tokens of the reading layer's output is then what it was, whatever went."""
    model = build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5)  # random weights are so small that their means are nearly nothing
    group = (
        {"neurons": "mlp.down_proj", "heads": "self_attn.o_proj"}
        if build is llama
        else {"neurons": "mlp.c_proj", "heads": "attn.c_proj"}
    )
    path = ("model.layers.0." if build is llama else "transformer.h.0.") + group[structure]
    before = mean_output(model, path)
    shares = {"blocks.0": 0.5}
    plain_model = copy.deepcopy(model)
    run(model, method="flap", structure=structure, allocation={"method": "by_hand", "shares": shares})
    run(
        plain_model,
        method="flap",
        structure=structure,
        allocation={"method": "by_hand", "shares": shares},
        params={"compensate": False},
    )
    torch.testing.assert_close(mean_output(model, path), before, atol=1e-5, rtol=0)
    assert (mean_output(plain_model, path) - before).abs().max() > 1e-3
    assert (plain_model.get_submodule(path).bias is None) is (build is llama)


def mean_output(model, path: str) -> torch.Tensor:
    seen = []
    handle = model.get_submodule(path).register_forward_hook(lambda module, args, out: seen.append(out.detach()))
    with torch.no_grad():
        model(IDS)
    handle.remove()
    return seen[0].flatten(0, -2).mean(0)


@pytest.mark.quick
@pytest.mark.parametrize("structure", ["neurons", "heads"])
def test_a_share_of_nothing_changes_nothing_and_of_everything_is_refused_or_by_hand_leaves_one_unit(structure):
    model = llama()
    before = copy.deepcopy(model.state_dict())
    run(model, method="flap", structure=structure, sparsity=0.0)
    assert model.state_dict().keys() == before.keys() and all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    with pytest.raises(RecipeError, match="the last of a block always stays"):
        run(model, method="flap", structure=structure, sparsity=1.0)
    watcher = Silent()
    by_hand = {"method": "by_hand", "shares": {"blocks.0": 1.0, "blocks.1": 1.0}}
    done = run(model, watcher=watcher, method="flap", structure=structure, allocation=by_hand)
    assert any("with none of them nothing would come through" in event.text for event in watcher.heard)
    assert [len(units) for units in kept(done).values()] == [1, 1]
    assert all(row.asked == 1.0 and row.sparsity == (row.shape[0] - 1) / row.shape[0] for row in done.rows)
    with torch.no_grad():
        assert torch.isfinite(model(IDS).logits).all()


@pytest.mark.quick
def test_heads_go_by_key_value_group_and_what_is_left_writes_with_a_cache():
    model = llama(num_attention_heads=8, num_key_value_heads=4, head_dim=4)
    done = run(
        model,
        method="magnitude",
        structure="heads",
        allocation={"method": "by_hand", "shares": {"blocks.0": 0.5, "blocks.1": 0.25}},
    )
    heads = [block.attention for block in done.loaded.anatomy.blocks]
    assert [(h.query_heads, h.kv_heads, h.head_dim) for h in heads] == [(4, 2, 4), (6, 3, 4)]
    with torch.no_grad():
        plainly = model(IDS[:1], use_cache=False).logits[0, -1].argmax()
        written = model.generate(IDS[:1], max_new_tokens=3, do_sample=False)
    assert written[0, 16] == plainly and written.shape == (1, 19)


@pytest.mark.quick
def test_random_takes_another_lot_with_another_seed_and_the_same_with_the_same():
    first, again, other = (
        kept(run(llama(), method="random", structure="neurons", sparsity=0.5, seed=seed)) for seed in (0, 0, 1)
    )
    assert first == again != other


@pytest.mark.quick
def test_a_budget_by_hand_names_blocks_or_groups_and_leaves_the_others_whole():
    shares = {"blocks.0": 0.25, "blocks.0.mlp": 0.5, "blocks.2": 0.25}
    done = run(llama(layers=3), method="magnitude", structure="neurons", allocation={"method": "by_hand", "shares": shares})
    assert [(row.name, row.asked, row.sparsity) for row in done.rows] == [
        ("blocks.0.mlp", 0.5, 0.5),
        ("blocks.1.mlp", 0.0, 0.0),
        ("blocks.2.mlp", 0.25, 0.25),
    ]


@pytest.mark.quick
def test_only_and_protect_choose_groups_by_group_block_or_layer():
    for chosen in ({"only": ["blocks.1"]}, {"only": ["blocks.1.mlp"]}, {"protect": ["blocks.0", "blocks.2.mlp.up_proj"]}):
        done = run(llama(layers=3), method="activation", structure="neurons", sparsity=0.5, **chosen)
        assert [row.name for row in done.rows] == ["blocks.1.mlp"]


@pytest.mark.quick
@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"structure": "neurons", "sparsity": 0.5, "only": ["blocks.9"]}, RecipeError, "'blocks.9'"),
        ({"structure": "heads", "sparsity": 0.5, "protect": ["blocks.*"]}, RecipeError, "no heads to remove"),
        (
            {"structure": "neurons", "allocation": {"method": "by_hand", "shares": {"blocks.0.mlp.up_proj": 0.5}}},
            RecipeError,
            "up_proj",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_any_weight_has_changed(fields, error, says):
    model = llama()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error) as caught:
        run(model, method="magnitude", **fields)
    assert says in str(caught.value) and caught.value.remedy
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.quick
def test_scores_that_are_no_numbers_and_a_stop_are_obeyed():
    model = llama()
    model.model.layers[0].mlp.up_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"blocks\.0\.mlp"):
        run(model, method="magnitude", structure="neurons", sparsity=0.5)
    with pytest.raises(Stopped):
        run(llama(), watcher=Silent(stop=True), method="flap", structure="neurons", sparsity=0.5)


@pytest.mark.quick
def test_images_choose_neurons_too():
    pixels = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    model, seen = tiny("vit"), []
    group = from_module(copy.deepcopy(model), "x").anatomy.blocks[0]
    reader = next(layer for layer in group.layers if layer.role == "down")
    dense = copy.deepcopy(model)
    dense.get_submodule(reader.path).register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().double()))
    with torch.no_grad():
        dense(pixels)
    done = run(model, calibration=pixels, method="flap", structure="neurons", sparsity=0.25)
    assert [row.sparsity for row in done.rows] == [0.25, 0.25] and done.loaded.model.config.intermediate_size == 48
    weight = dense.get_submodule(reader.path).weight.detach().double()
    scores = (
        seen[0].flatten(0, 1).var(0) * weight.square().sum(0)
    ).tolist()  # the first block's: fluctuation of a neuron, times what reads it
    left = sorted(sorted(range(64), key=lambda unit: (scores[unit], unit))[16:])
    assert done.cuts[0].keep.nonzero().flatten().tolist() == left


@pytest.mark.quick
def test_a_method_for_units_is_refused_where_weights_are_pruned_or_looked_at():
    for fields in ({"structure": "unstructured", "sparsity": 0.5}, {"structure": "2:4"}):
        with pytest.raises(RecipeError, match="flap does not work on"):
            resolve(recipe(method="flap", **fields), cards())
    seen = {"recipe": 1, "name": "x", "model": {"source": "x"}, "observe": {"scores": ["flap"]}}
    with pytest.raises(RecipeError, match="observe does not show"):
        resolve(parse(seen), cards())


@pytest.mark.quick
def test_the_scores_worked_by_hand():
    """Two units of one entry: variances 1 and 4; the column of the first is (3, 0), of the second (1, 1): 1 * 9 and 4 * 2.

    Neuron sizes for CFSP with norms 2 and 1, rows (1, -1) and (2, 2): (3 * 2 + 2) * 2 = 16 and (2 * 1 + 4) * 1 = 6.
    """
    out_of, into = torch.tensor([[3.0, 0.0], [1.0, 1.0]]), torch.tensor([[1.0, -1.0], [2.0, 2.0]])
    given = {
        "out_of": out_of,
        "into": into,
        "input_variance": torch.tensor([[1.0], [4.0]]),
        "input_norm": torch.tensor([[2.0], [1.0]]),
    }
    assert get("score", "flap")(given, {"standardise": False}).tolist() == [9.0, 8.0]
    assert get("score", "flap")(given).tolist() == [1.0, -1.0]
    assert get("score", "cfsp")(given).tolist() == [16.0, 6.0]
    assert get("score", "activation")({"input_norm": torch.tensor([[3.0, 4.0], [0.0, 1.0]])}).tolist() == [5.0, 1.0]
