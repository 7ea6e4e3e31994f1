"""Budgets in a cost: what each unit gives back against real counts before and after, totals met in whole units, and everything that is refused."""

from __future__ import annotations

import copy
import itertools
from math import ceil

import numpy as np
import pytest
import torch

from core.catalogue import resolve
from core.cost import COSTS, FALLS, Owed, Price, check, meet, removed, units_needed, whole
from core.errors import PrunariumError, RecipeError
from core.events import Silent
from core.model.budgets.block_latency import TimedBlocks
from core.model.budgets.costing import depth_costs
from core.model.depth.bypass import block_units
from core.model.depth.sublayers import sublayer_units
from core.model.loading import from_module
from core.model.measuring.counts import counts, flops_per_token, kv_bytes
from core.model.pruning.step import prune
from core.model.units.groups import unit_groups
from core.recipe import from_yaml, parse, to_yaml
from tests import tiny_models
from tests.oracle.test_experts import built

IDS = torch.randint(0, 300, (6, 16), generator=torch.Generator().manual_seed(3))
pytestmark = pytest.mark.quick


def recipe(**fields):
    return parse({"recipe": 1, "name": "x", "model": {"source": "x"}, "steps": [{"prune": fields}]})


def run(model, watcher=None, **fields):
    return prune(from_module(model, "tiny"), recipe(**fields).steps[0].prune, lambda: IDS, 0, watcher or Silent())


def real(loaded, cost: str, masked: bool) -> float:
    """The figure, from the model alone. Parameters: one by one."""
    if cost == "parameters":
        seen = {p.data_ptr(): int((p != 0).sum()) if masked else p.numel() for p in loaded.model.parameters()}
        return sum(seen.values())
    if cost == "bytes":
        return counts(loaded.model, loaded.source_dtype).size_bytes
    if cost == "kv_bytes":
        cache = loaded.model(IDS[:1], use_cache=True).past_key_values
        one = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
        return one * 512 // IDS.shape[1]
    return flops_per_token(loaded, nonzero=masked)


CASES = [
    (name, structure, cost)
    for structure in ("neurons", "heads")
    for cost in FALLS[structure]
    for name in ("llama", "gpt2", "bert")
    if cost != "latency" and (name, cost) != ("bert", "kv_bytes")
]


@pytest.mark.parametrize(("name", "structure", "cost"), CASES)
def test_a_budget_of_units_is_met_by_less_than_one_unit_of_the_real_count(name, structure, cost):
    """What one unit takes off is found here by taking one out and counting again."""
    model = getattr(tiny_models, name)()
    loaded = from_module(copy.deepcopy(model), "tiny")
    group = unit_groups(loaded.model, loaded.anatomy.blocks, loaded.anatomy.family, structure)[0]
    before = real(loaded, cost, False)
    one = run(copy.deepcopy(model), method="magnitude", structure=structure,
              allocation={"method": "by_hand", "shares": {group.name: 1 / group.units}})  # fmt: skip
    each = before - real(one.loaded, cost, False)
    done = run(model, method="magnitude", structure=structure, budget={"cost": cost, "remove": 0.05})
    said, reached = done.said["budget"], real(done.loaded, cost, False)
    assert (said["before"], said["reached"]) == (before, reached) and said["target"] == pytest.approx(0.95 * before)
    slack = 300 if cost == "bytes" else 1e-6  # of the file's header, whose numbers get shorter
    assert said["target"] - each - slack < reached <= said["target"] + 1e-6
    gone = sum(round(row.sparsity * row.shape[0]) for row in done.rows)
    assert abs(gone - ceil(0.05 * before / each - 1e-9)) <= (cost == "bytes")


def test_the_costs_of_a_tiny_llama_worked_by_hand():
    """A neuron: three rows or columns of 32. A KV group: 2 query heads, a key and a value head of 8: 8 * 32 * (2 + 2 + 1 + 1) weights."""
    loaded = from_module(tiny_models.llama(), "tiny")
    assert kv_bytes(loaded, 10, 3) == 2 * 2 * 8 * 2 * 4 * 10 * 3  # key and value, heads, width, blocks, float32
    done = run(tiny_models.llama(), method="magnitude", structure="neurons", budget={"cost": "parameters", "remove": 0.1})
    gone = sum(round(row.sparsity * 48) for row in done.rows)
    assert done.said["budget"]["before"] - done.said["budget"]["reached"] == 96 * gone
    done = run(
        tiny_models.llama(), method="magnitude", structure="heads", budget={"cost": "flops", "remove": 0.01, "tokens": 100}
    )
    assert done.said["budget"]["before"] - done.said["budget"]["reached"] == 2 * 8 * 32 * 6 + 4 * 2 * 8 * 101 / 2


@pytest.mark.parametrize("cost", ["parameters", "flops"])
@pytest.mark.parametrize("method", ["magnitude", "wanda"])
@pytest.mark.parametrize("allocation", ["uniform", "erk", "global", "pq_index", "knapsack"])
def test_single_weights_meet_a_budget_in_what_is_not_zero_by_every_allocation(cost, method, allocation):
    model = tiny_models.llama()
    done = run(model, method=method, budget={"cost": cost, "remove": 0.15}, allocation=allocation)
    said, reached = done.said["budget"], real(done.loaded, cost, True)
    assert said["reached"] == reached <= said["target"] + 1e-6
    coarsest = 48 if method == "wanda" else 1  # Wanda takes as many from each row, so a whole column's worth at a time
    assert reached > said["target"] - coarsest * (2 if cost == "flops" else 1) - 1e-6
    shares = {row.asked for row in done.rows}
    assert max(shares) - min(shares) > 1e-3 or allocation == "uniform"


def test_weights_that_are_zero_already_give_nothing_back():
    model = tiny_models.llama()
    run(model, method="magnitude", sparsity=0.3)
    done = run(model, method="magnitude", budget={"cost": "parameters", "remove": 0.2})
    assert done.said["budget"]["reached"] == pytest.approx(0.8 * done.said["budget"]["before"], abs=1)


def test_a_convolutional_net_counts_operations_by_position():
    """FLOPs of a ResNet lie in other layers than its weights: the same share of either is another mask, and both are met."""
    asked = {}
    for cost in ("parameters", "flops"):
        done = run(tiny_models.resnet(), method="magnitude", budget={"cost": cost, "remove": 0.4}, allocation="knapsack")
        said = done.said["budget"]
        assert said["reached"] == real(done.loaded, cost, True) <= said["target"]
        assert said["reached"] > said["target"] - 2 * 64
        asked[cost] = [row.asked for row in done.rows]
    assert asked["parameters"] != asked["flops"]


@pytest.mark.parametrize("cost", ["parameters", "bytes", "flops", "kv_bytes"])
def test_blocks_go_until_the_budget_is_met_and_not_one_more(cost):
    model = tiny_models.llama(4)
    done = run(model, method="block_influence", structure="blocks", budget={"cost": cost, "remove": 0.3})
    said = done.said["budget"]
    each = (said["before"] - said["reached"]) / len(done.removed)
    assert said["reached"] == real(done.loaded, cost, False) <= said["target"] < said["reached"] + each + 300


def test_a_search_over_sublayers_is_given_their_costs():
    """Caches lie in attentions alone: two of the four go, and no MLP."""
    done = run(tiny_models.llama(4), method="block_pruner", structure="sublayers", budget={"cost": "kv_bytes", "remove": 0.5})
    assert [part for _, part in done.parts] == ["attention"] * 2
    assert done.said["budget"]["reached"] == done.said["budget"]["target"]


def test_an_absolute_target_is_what_may_be_left():
    done = run(tiny_models.llama(), method="magnitude", structure="heads", budget={"cost": "kv_bytes", "at_most": 100_000})
    assert done.said["budget"]["target"] == 100_000 >= done.said["budget"]["reached"]


REFUSED = [
    ({"structure": "neurons", "budget": {"cost": "kv_bytes", "remove": 0.1}}, "cannot fall with structure neurons", "heads"),
    ({"budget": {"cost": "latency", "remove": 0.1}}, "cannot fall with structure unstructured: weights set to zero", "neurons"),
    ({"budget": {"cost": "bytes", "remove": 0.1}}, "cannot fall", "parameters or flops"),
    ({"structure": "tiles", "budget": {"cost": "latency", "remove": 0.1}}, "cannot fall with structure tiles", "neurons"),
    ({"structure": "2:4", "budget": {"cost": "parameters", "remove": 0.1}}, "fixes the share", "Leave budget out"),
    ({"structure": "experts", "budget": {"cost": "flops", "remove": 0.1}}, "visits as many experts", "parameters or bytes"),
    ({"method": "slicegpt", "structure": "slices", "budget": {"cost": "bytes", "remove": 0.1}}, "one share", "Leave budget out"),
    ({"method": "laco", "structure": "blocks", "budget": {"cost": "bytes", "remove": 0.1}}, "decides for the whole", "sparsity"),
    ({"sparsity": 0.5, "budget": {"cost": "parameters", "remove": 0.1}}, "both say how much", "Correct"),
    ({"allocation": {"method": "by_hand", "shares": {"blocks.0": 0.5}}, "budget": {"cost": "parameters", "remove": 0.1}}, "both say", "Correct"),
    ({"budget": {"cost": "parameters"}}, "either remove", "Correct"),
    ({"budget": {"cost": "parameters", "remove": 0.1, "at_most": 5}}, "either remove", "Correct"),
    ({"budget": {"cost": "watts", "remove": 0.1}}, "cost", "Correct"),
    ({"budget": {"cost": "parameters", "remove": 1.0}}, "remove", "Correct"),
    ({"budget": {"cost": "parameters", "at_most": 0}}, "at_most", "Correct"),
    ({"budget": {"cost": "parameters", "removed": 0.1}}, "unknown key", "Did you mean 'remove'"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "says", "remedy"), REFUSED)
def test_a_budget_that_means_nothing_is_refused_before_anything_is_loaded(fields, says, remedy):
    with pytest.raises(RecipeError) as caught:
        resolve(recipe(**{"method": "magnitude", **fields}))
    assert says in caught.value.problem and remedy in caught.value.remedy


IMPOSSIBLE = [
    ("llama", {"structure": "neurons", "budget": {"cost": "parameters", "remove": 0.9}}, r"nearest that can be reached is 1\d,\d{3} parameters"),
    ("llama", {"structure": "heads", "budget": {"cost": "kv_bytes", "remove": 0.6}}, r"0\.06554 MB of key-value cache \(50 % off\)"),
    ("llama", {"budget": {"cost": "parameters", "remove": 0.9}}, "nearest that can be reached"),
    ("llama", {"budget": {"cost": "parameters", "remove": 0.6}, "allocation": {"method": "global", "params": {"floor": 0.5}}}, "by allocation global"),
    ("llama", {"budget": {"cost": "parameters", "remove": 0.6}, "allocation": {"method": "knapsack", "params": {"floor": 0.5}}}, "by allocation knapsack"),
    ("llama", {"structure": "blocks", "budget": {"cost": "bytes", "remove": 0.9}}, "nearest that can be reached"),
    ("llama", {"structure": "neurons", "budget": {"cost": "parameters", "at_most": 1e9}}, "nothing would go"),
    ("bert", {"structure": "heads", "budget": {"cost": "kv_bytes", "remove": 0.1}}, "keeps no keys and values"),
    ("module", {"budget": {"cost": "flops", "remove": 0.1}}, "no known number of operations"),
    ("bert", {"budget": {"cost": "flops", "remove": 0.1}, "allocation": "darwinlm"}, "gives no loss to search by"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "fields", "says"), IMPOSSIBLE)
def test_a_budget_that_cannot_be_met_is_a_sentence_and_the_model_as_it_was(name, fields, says):
    model = (
        torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)) if name == "module" else getattr(tiny_models, name)()
    )
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(PrunariumError, match=says) as caught:
        run(model, **{"method": "magnitude", **fields})
    assert caught.value.remedy.endswith(".")
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


def test_every_cost_can_fall_with_some_structure_and_only_known_ones_are_named():
    assert set(itertools.chain(*FALLS.values())) == set(COSTS)
    for structure, costs in FALLS.items():
        for cost in costs:
            check(structure, cost)


def test_a_budget_comes_back_from_yaml_as_it_was():
    made = recipe(method="magnitude", structure="heads", budget={"cost": "latency", "at_most": 12.5, "batch": 2})
    assert from_yaml(to_yaml(made)) == made and from_yaml(to_yaml(made, full=True)) == made


@pytest.mark.parametrize("seed", range(25))
def test_whole_steps_meet_the_total_by_less_than_the_dearest_step_and_spread_evenly(seed):
    rng = np.random.default_rng(seed)
    prices = {str(i): Price.linear(n := int(rng.integers(2, 9)), float(rng.integers(1, 9)), n - 1) for i in range(12)}
    most = sum(price(price.most) for price in prices.values())
    for owed in (1.0, 0.2 * most, 0.61 * most, most):
        shares = meet(lambda sparsity: dict.fromkeys(prices, sparsity), prices, owed)
        found = whole(shares, prices, owed)
        gone = {name: found[name] * prices[name].steps for name in prices}
        assert all(abs(value - round(value)) < 1e-9 and 0 <= round(value) <= prices[name].most for name, value in gone.items())
        total = sum(prices[name](round(gone[name])) for name in prices)
        assert owed - 1e-6 <= total < owed + max(price.each for price in prices.values())
        dearest = max(price.each for price in prices.values())
        moved = {
            name: abs(gone[name] - min(shares[name] * price.steps, price.most)) * price.each for name, price in prices.items()
        }
        assert all(moved[name] <= dearest + price.each for name, price in prices.items())


def test_groups_too_coarse_for_their_share_lose_units_here_and_there():
    """Nine groups of three, of which a ninth shall go: three of the 27 units, from the middle of each three groups, not all from the first."""
    prices = {str(i): Price.linear(3, 10.0, 2) for i in range(9)}
    found = whole(dict.fromkeys(prices, 1 / 9), prices, 30.0)
    assert [round(share * 3) for share in found.values()] == [0, 1, 0, 0, 1, 0, 0, 1, 0]


def test_a_bent_price_is_met_too_and_an_allocators_limit_is_its_limit():
    bent = {"a": Price(10, 9, (0.0, 5.0, 10.0), (0.0, 1.0, 11.0)), "b": Price.linear(10, 1.0, 9)}
    found = whole(meet(lambda s: {"a": s, "b": s}, bent, 9.0), bent, 9.0)
    assert 9.0 <= removed(found, bent) < 11.0
    assert bent["a"](7.5) == 6.0 and bent["a"](0) == 0.0
    assert removed(meet(lambda s: {"a": min(s, 0.2), "b": min(s, 0.2)}, bent, 9.0), bent) == pytest.approx(2.4)


def test_as_many_units_go_as_suffice_whichever_they_are():
    assert units_needed([3.0, 1.0, 2.0], 3.0) == 2 and units_needed([3.0, 1.0, 2.0], 3.5) == 3 and units_needed([1.0], 9.0) == 1


@pytest.mark.parametrize("structure", ["neurons", "heads"])
def test_latency_curves_are_measured_once_for_blocks_alike_and_never_fall(structure):
    loaded = from_module(tiny_models.llama(2, hidden_size=64, intermediate_size=6000), "tiny")
    watcher = Silent()
    timed = TimedBlocks(loaded, Owed("latency", structure, 100.0, 90.0, {"batch": 1, "tokens": 32, "repeats": 5}), watcher)
    groups = unit_groups(loaded.model, loaded.anatomy.blocks, "llama", structure)
    before = {key: value.clone() for key, value in loaded.model.state_dict().items()}
    first, second = (timed.group(group) for group in groups)
    assert first == second and len([said for said in watcher.heard if said.stage == "latency curve"]) == 1
    assert first.at[0] == first.off[0] == 0.0 and first.at[-1] == first.steps and list(first.off) == sorted(first.off)
    if structure == "neurons":
        assert len(first.at) == 6 and first.off[-1] > 0.0  # 6,000 neurons take time that one does not
    assert all(torch.equal(before[key], value) for key, value in loaded.model.state_dict().items())


def test_a_latency_budget_says_what_was_measured_and_the_shares_that_repeat_it():
    model = tiny_models.llama(2, hidden_size=64, intermediate_size=6000)
    budget = {"cost": "latency", "remove": 0.02, "tokens": 32, "repeats": 5}
    done = run(model, method="magnitude", structure="neurons", budget=budget)
    said = done.said["budget"]
    assert 0 < said["target"] < said["before"] and said["reached"] > 0 and said["threads"] == torch.get_num_threads()
    assert sum(said["shares"].values()) > 0
    again = run(tiny_models.llama(2, hidden_size=64, intermediate_size=6000), method="magnitude", structure="neurons",
                allocation={"method": "by_hand", "shares": said["shares"]})  # fmt: skip
    pairs = zip(done.cuts, again.cuts, strict=True)
    assert all(torch.equal(a.keep, b.keep) for a, b in pairs)


@pytest.mark.parametrize("cost", ["parameters", "bytes"])
@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_as_many_experts_go_from_every_block_as_the_budget_takes(name, cost):
    """What one expert fewer in every block takes off is found by taking one and counting again."""
    one = run(built(name), method="magnitude", structure="experts", sparsity=1 / 6)
    before = real(from_module(built(name), "tiny"), cost, False)
    each = before - real(one.loaded, cost, False)
    budget = {"cost": cost, "at_most": before - 2.2 * each}
    done = run(built(name), method="magnitude", structure="experts", budget=budget)
    gone = {int((~cut.keep).sum()) for cut in done.cuts}
    assert gone == {3} and done.said["budget"]["reached"] == real(done.loaded, cost, False) <= before - 2.2 * each
    with pytest.raises(RecipeError, match="nearest that can be reached"):
        run(built(name), method="magnitude", structure="experts", budget={"cost": cost, "remove": 0.99})


@pytest.mark.parametrize("structure", ["blocks", "sublayers"])
def test_the_latency_of_a_block_and_of_its_parts_is_measured_once_for_those_alike(structure):
    loaded = from_module(tiny_models.llama(3, hidden_size=64, intermediate_size=6000), "tiny")
    units = block_units(loaded) if structure == "blocks" else sublayer_units(loaded)
    owed = Owed("latency", structure, 100.0, 90.0, {"batch": 1, "tokens": 32, "repeats": 5})
    off = depth_costs(loaded, units.values(), owed, Silent())
    kinds = {name.partition(".")[2].partition(".")[2]: ms for name, ms in off.items()}
    assert off.keys() == units.keys() and len(set(off.values())) == len(kinds)
    assert all(ms >= 0 for ms in off.values()) and (structure == "sublayers" or min(off.values()) > 0)
    if structure == "sublayers":
        assert off["blocks.0.mlp"] > 0  # 6,000 neurons take time
