"""Allocators that look at costs and at whole models: the knapsack against brute force, evolution against a loss taken from models really pruned."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from core.cost import Price, removed
from core.errors import ModelError, PrunariumError, Stopped
from core.events import Silent
from core.method import get
from core.model.loading import from_module
from core.model.pruning.step import prune
from core.recipe import parse
from kernels.knapsack import cover
from tests import tiny_models

IDS = torch.randint(0, 300, (8, 16), generator=torch.Generator().manual_seed(3))
pytestmark = pytest.mark.quick


def run(model, watcher=None, seed=0, **fields):
    step = parse({"recipe": 1, "name": "x", "model": {"source": "x"}, "steps": [{"prune": fields}]}).steps[0].prune
    return prune(from_module(model, "tiny"), step, lambda: IDS, seed, watcher or Silent())


def loss(model, sequences: int) -> float:
    """Mean negative log-likelihood, from plain logits of the whole model."""
    with torch.no_grad():
        logits = model(IDS[:sequences]).logits
    return float(cross_entropy(logits[:, :-1].flatten(0, 1), IDS[:sequences, 1:].flatten()))


def _items(rng, whole: bool):
    values, saves = [], []
    for _ in range(int(rng.integers(1, 5))):
        levels = int(rng.integers(2, 6))
        values.append(np.concatenate(([0.0], rng.random(levels).cumsum())))
        step = rng.integers(0, 5, levels) if whole else rng.random(levels)
        saves.append(np.concatenate(([0.0], step.cumsum().astype(float))))
    return values, saves


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("whole", [True, False])
def test_the_cover_of_small_cases_equals_brute_force_and_its_bound_holds(seed, whole):
    values, saves = _items(np.random.default_rng(seed), whole)
    most = sum(save[-1] for save in saves)
    for owed in (0.1 * most, 0.5 * most, 0.77 * most, most):
        choices = [
            choice
            for choice in itertools.product(*(range(len(value)) for value in values))
            if sum(save[k] for save, k in zip(saves, choice, strict=True)) >= owed * (1 - 1e-9)
        ]
        least = min(sum(value[k] for value, k in zip(values, choice, strict=True)) for choice in choices)
        found = cover(values, saves, owed)
        assert sum(save[k] for save, k in zip(saves, found.levels, strict=True)) >= owed * (1 - 1e-9)
        assert found.value == pytest.approx(sum(value[k] for value, k in zip(values, found.levels, strict=True)))
        assert found.bound <= least + 1e-9
        assert found.value == pytest.approx(least) if whole else least - 1e-9 <= found.value  # in whole units it is exact


def test_a_cover_that_no_choice_reaches_is_refused():
    with pytest.raises(ValueError, match="no choice saves"):
        cover([np.array([0.0, 1.0])], [np.array([0.0, 2.0])], 2.5)


def test_greedy_by_importance_per_cost_would_be_worse_here_and_is_not_what_is_chosen():
    """Owed 10. Per cost the unit of 9 is the best (1 for 9), but then another must come (5 for 10 or 9 for 9); one of 10 alone costs 5."""
    values, saves = (
        [np.array([0.0, 1.0]), np.array([0.0, 5.0]), np.array([0.0, 9.0])],
        [np.array([0.0, w]) for w in (9.0, 10.0, 9.0)],
    )
    found = cover(values, saves, 10.0)
    assert found.value == 5.0 and found.levels.tolist() == [0, 1, 0]


@pytest.mark.parametrize("seed", range(6))
def test_the_knapsack_loses_the_least_importance_for_its_cost(seed):
    """Three groups of up to five units whose prices differ, every choice tried."""
    rng = np.random.default_rng(seed)
    scores = {name: torch.from_numpy(rng.random(int(rng.integers(2, 6)))) for name in "abc"}
    prices = {name: Price.linear(len(scores[name]), each) for name, each in zip("abc", (3.0, 5.0, 7.0), strict=True)}
    sizes = {name: len(value) for name, value in scores.items()}
    owed = 0.45 * sum(price.off[-1] for price in prices.values())
    given = {"sizes": sizes, "scores": scores.__getitem__, "prices": prices, "owed": owed, "watcher": Silent()}
    shares = get("allocator", "knapsack")(given, {"floor": 0.0})
    lost = sum(float(scores[n].sort().values[: round(shares[n] * sizes[n])].sum()) for n in sizes)
    best = min(
        sum(float(scores[n].sort().values[:k].sum()) for n, k in zip(sizes, counts, strict=True))
        for counts in itertools.product(*(range(size + 1) for size in sizes.values()))
        if sum(prices[n].each * k for n, k in zip(sizes, counts, strict=True)) >= owed
    )
    assert removed(shares, prices) >= owed
    assert lost == pytest.approx(best)


@pytest.mark.parametrize("structure", ["unstructured", "neurons"])
def test_where_all_units_cost_alike_the_knapsack_is_the_global_ranking(structure):
    fields = {"method": "magnitude", "structure": structure, "sparsity": 0.4}
    ranked = run(tiny_models.llama(), allocation={"method": "global", "params": {"floor": 0.0}}, **fields)
    packed = run(tiny_models.llama(), allocation={"method": "knapsack", "params": {"floor": 0.0}}, **fields)
    for one, other in zip(ranked.rows, packed.rows, strict=True):
        units = one.shape[0] if structure == "neurons" else int(np.prod(one.shape))
        assert one.asked == pytest.approx(other.asked, abs=(1 if structure == "neurons" else units / 1000 + 1) / units)


def test_relative_scores_forget_a_groups_scale():
    scores = {"a": torch.tensor([1.0, 2.0, 3.0, 4.0]), "b": torch.tensor([10.0, 20.0, 30.0, 40.0])}
    given = {"sizes": {"a": 4, "b": 4}, "scores": scores.__getitem__, "prices": {n: Price.linear(4, 1.0) for n in "ab"}, "owed": 4,
             "watcher": Silent()}  # fmt: skip
    allocate = get("allocator", "knapsack")
    assert allocate(given, {"floor": 0.0}) == {"a": 1.0, "b": 0.0}
    assert allocate(given, {"floor": 0.0, "relative": True}) == {"a": 0.5, "b": 0.5}


SMALL = {"generations": 3, "offspring": 4, "samples": 8, "step": 0.1}
WAYS = [
    ({"method": "wanda", "sparsity": 0.5}, "unstructured"),
    ({"method": "magnitude", "structure": "neurons", "budget": {"cost": "flops", "remove": 0.03}}, "neurons"),
    ({"method": "wanda", "structure": "heads", "sparsity": 0.5}, "heads"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "structure"), WAYS)
def test_evolution_is_never_worse_than_its_start_and_keeps_the_total_exactly(fields, structure):
    """The loss that it tells is the loss of the model without what it chose, taken from plain logits; the start is the uniform budget, pruned."""
    watcher, model = Silent(), tiny_models.llama(4)
    done = run(model, watcher, allocation={"method": "darwinlm", "params": SMALL}, **fields)
    told = [said.values["loss"] for said in watcher.heard if said.stage == "allocate: darwinlm"]
    assert len(told) == 4 and told == sorted(told, reverse=True)
    uniform = run(tiny_models.llama(4), **fields)
    if structure == "neurons":  # magnitude's scores need no pass, so the cut is what was tried
        assert told[-1] == pytest.approx(loss(done.loaded.model, 8), abs=2e-6)
        assert told[0] == pytest.approx(loss(uniform.loaded.model, 8), abs=2e-6)
    gone = {row.name: row.asked * (np.prod(row.shape) if structure == "unstructured" else row.shape[0]) for row in done.rows}
    start = {row.name: row.asked * (np.prod(row.shape) if structure == "unstructured" else row.shape[0]) for row in uniform.rows}
    assert sum(gone.values()) == pytest.approx(sum(start.values()), abs=1e-6)
    assert structure == "heads" or gone != start


def test_single_weights_are_tried_with_the_masks_that_are_then_made():
    """Magnitude's masks do not depend on the text, so the loss of the pruned model is the one that the search told last."""
    watcher, model = Silent(), tiny_models.gpt2()
    done = run(model, watcher, method="magnitude", sparsity=0.6, allocation={"method": "darwinlm", "params": SMALL})
    told = [said.values["loss"] for said in watcher.heard if said.stage == "allocate: darwinlm"]
    assert told[-1] == pytest.approx(loss(done.loaded.model, 8), abs=2e-6)


def _table(generations: int, seed: int = 0, watcher=None):
    """Evolution on a fitness that is a table: group a is free, d dear; what it costs to search is counted."""
    prices = {
        "a": Price.linear(30, 4.0, 29),
        "b": Price.linear(30, 4.0, 29),
        "c": Price.linear(40, 6.0, 39),
        "d": Price.linear(40, 6.0, 39),
    }
    weight, tried = {"a": 0.0, "b": 1.0, "c": 2.0, "d": 4.0}, []

    def fitness(shares, sequences):
        tried.append((dict(shares), sequences))
        return sum(weight[name] * share**2 for name, share in shares.items())

    given = {"sizes": {n: p.steps for n, p in prices.items()}, "prices": prices, "owed": 240.0, "fitness": fitness, "sequences": 8,
             "generator": torch.Generator().manual_seed(seed), "watcher": watcher or Silent()}  # fmt: skip
    shares = get("allocator", "darwinlm")(given, {"generations": generations, "offspring": 8, "samples": 8})
    return shares, prices, tried


def test_evolution_finds_what_is_cheap_switches_between_unlike_prices_and_repeats():
    shares, prices, tried = _table(30)
    total = removed(tried[0][0], prices)
    assert 240.0 <= total < 246.0  # in units of 4 and of 6
    assert removed(shares, prices) == total and all(removed(tried_shares, prices) == total for tried_shares, _ in tried)
    assert shares["a"] > 0.8 and shares["d"] < 0.2
    assert _table(30)[0] == shares and _table(30, seed=1)[2] != tried
    assert {text for _, text in tried} == {2, 4, 8}
    on_all = sum(text == 8 for _, text in tried)
    assert on_all < sum(text == 4 for _, text in tried) < sum(text == 2 for _, text in tried)


def test_evolution_along_a_curve_that_bends_never_takes_off_less_than_is_owed():
    bent = Price(20, 19, (0.0, 10.0, 20.0), (0.0, 1.0, 21.0))
    prices, tried = dict.fromkeys("abc", bent), []

    def fitness(shares, _):
        tried.append(removed(shares, prices))
        return shares["a"]

    given = {"sizes": dict.fromkeys(prices, 20), "prices": prices, "owed": 20.0, "fitness": fitness, "sequences": 2,
             "generator": torch.Generator().manual_seed(0), "watcher": Silent()}  # fmt: skip
    shares = get("allocator", "darwinlm")(given, {"generations": 8})
    assert min(tried) >= 20.0 - 1e-9 and shares["a"] < 1 / 2


def test_evolution_stops_when_asked_and_leaves_the_model_as_it_was():
    class Soon(Silent):
        def check(self):
            self.stop = len([said for said in self.heard if said.stage == "allocate: darwinlm"]) >= 2
            super().check()

    model = tiny_models.llama()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(Stopped):
        run(
            model,
            Soon(),
            method="magnitude",
            structure="neurons",
            sparsity=0.3,
            allocation={"method": "darwinlm", "params": SMALL},
        )
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_model_without_a_loss_is_refused_and_left_as_it_was():
    model = tiny_models.bert()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ModelError, match="gives no loss to search by"):
        run(model, method="magnitude", sparsity=0.5, allocation="darwinlm")
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_budget_far_out_of_reach_is_refused_before_anything_is_tried():
    watcher = Silent()
    with pytest.raises(PrunariumError, match="nearest that can be reached"):
        run(
            tiny_models.llama(),
            watcher,
            method="magnitude",
            structure="neurons",
            budget={"cost": "flops", "remove": 0.95},
            allocation="darwinlm",
        )
    assert not [said for said in watcher.heard if said.stage == "allocate: darwinlm"]
