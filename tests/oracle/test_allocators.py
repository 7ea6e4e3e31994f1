"""Allocators against references written out plainly: whole-model forwards, explicit loops, brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from core.budget import exactly, kept_in_proportion
from core.catalogue import fill
from core.errors import ModelError, RecipeError
from core.events import Silent
from core.method import get
from core.model.loading import from_module
from core.model.pruning.step import prune
from core.recipe import parse
from kernels.knapsack import cheapest
from tests import tiny_models

IDS = torch.randint(0, 300, (11, 16), generator=torch.Generator().manual_seed(3))


def run(model, watcher=None, **fields):
    step = parse({"recipe": 1, "name": "x", "model": {"source": "x"}, "steps": [{"prune": fields}]}).steps[0].prune
    return prune(from_module(model, "tiny"), step, lambda: IDS, 0, watcher or Silent())


def linears(model) -> dict[str, torch.nn.Linear]:
    return {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "lm_head" not in n}


def dense_inputs(model) -> dict[str, torch.Tensor]:
    """{layer path: its inputs (sequences, tokens, features)}: one forward of the whole dense model."""
    seen: dict[str, torch.Tensor] = {}
    handles = [
        m.register_forward_pre_hook(lambda m, args, n=n: seen.__setitem__(n, args[0].detach())) for n, m in linears(model).items()
    ]
    with torch.no_grad():
        model(IDS)
    for handle in handles:
        handle.remove()
    return seen


def uneven() -> torch.nn.Module:
    """A tiny Llama whose middle block has a few large weights, and whose last has none."""
    model = tiny_models.llama(4)
    with torch.no_grad():
        for module in linears(model.model.layers[1]).values():
            module.weight.view(-1)[::40] *= 12
        for module in linears(model.model.layers[2]).values():
            module.weight.view(-1)[::90] *= 12
    return model


def asked(done) -> dict[str, float]:
    return {row.name: row.asked for row in done.rows}


def removed(done) -> int:
    return sum(int((~mask.unpack()).sum()) for mask in done.masks.values())


@pytest.mark.quick
@pytest.mark.parametrize("method", ["wanda", "magnitude", "sparsegpt"])
def test_owl_equals_the_papers_rule_written_out(method):
    model = uneven()
    inputs, ratio = dense_inputs(model), []
    for index in range(4):
        scores = []
        for name, module in linears(model).items():
            if f"layers.{index}." in name:
                norm = inputs[name].pow(2).sum(dim=(0, 1)).div(len(IDS)).sqrt()
                scores.append((module.weight.detach().abs() * norm).flatten())
        scores = torch.cat(scores)
        ratio.append(float((scores > 5 * scores.mean()).double().mean()))
    mean = sum(ratio) / 4  # the blocks are of one size
    expected = [0.7 - 0.08 * (value - mean) / max(abs(r - mean) for r in ratio) for value in ratio]
    assert len(set(ratio)) == 4
    done = run(model, method=method, sparsity=0.7, allocation="owl")
    total = sum(row.parameters for row in done.rows)
    for name, share in asked(done).items():
        size = next(row.parameters for row in done.rows if row.name == name)
        assert share == pytest.approx(expected[int(name.split(".")[1])], abs=1.01 / size), name
    assert sum(row.asked * row.parameters for row in done.rows) == pytest.approx(round(0.7 * total), abs=1e-6)
    if method == "magnitude":  # its masks are chosen over a whole layer, so they meet the total to the weight too
        assert removed(done) == round(0.7 * total)


@pytest.mark.quick
def test_owl_without_a_spread_or_without_outliers_is_uniform():
    done = run(uneven(), method="wanda", sparsity=0.5, allocation={"method": "owl", "params": {"spread": 0.0}})
    assert all(share == pytest.approx(0.5, abs=1e-3) for share in asked(done).values())
    flat = tiny_models.llama(2)
    done = run(flat, method="wanda", sparsity=0.5, allocation={"method": "owl", "params": {"outlier": 20.0}})
    assert all(share == pytest.approx(0.5, abs=1e-3) for share in asked(done).values())


@pytest.mark.quick
def test_erk_keeps_in_proportion_to_the_sum_of_the_sides():
    """Worked by hand: 100 x 100 and 10 x 1000, keep 1,200 of 20,000: parts 200/10,000 and 1,010/10,000 -> 1,200 * 200/1,210 = 198.3 and 1,001.7."""
    erk, sizes = get("allocator", "erk"), {"a": 10_000, "b": 10_000}
    shares = erk({"sizes": sizes, "shapes": {"a": (100, 100), "b": (10, 1000)}, "sparsity": 0.94})
    assert {name: round(shares[name] * sizes[name]) for name in sizes} == {"a": 10_000 - 198, "b": 10_000 - 1002}
    done = run(tiny_models.llama(2), method="magnitude", sparsity=0.8, allocation="erk")
    rows = {row.name: row for row in done.rows}
    kept = {name: (1 - row.sparsity) * row.parameters / sum(row.shape) for name, row in rows.items()}
    assert max(kept.values()) == pytest.approx(
        min(kept.values()), rel=0.01
    )  # kept weights a unit of side: one figure for all layers
    assert removed(done) == round(0.8 * sum(row.parameters for row in done.rows))


@pytest.mark.quick
def test_what_a_full_layer_cannot_keep_is_kept_by_the_others():
    """Worked by hand: keep 60 of 110. Parts 9 : 1 : 1 over sizes 10, 50, 50 want 90/190 * 60 = 28 of the 10; so 10 stay whole, 25 in each other."""
    shares = kept_in_proportion({"a": 9.0, "b": 1.0, "c": 1.0}, {"a": 10, "b": 50, "c": 50}, 50 / 110)
    assert shares == {"a": 0.0, "b": 0.5, "c": 0.5}
    assert kept_in_proportion({"a": 0.0, "b": 0.0}, {"a": 10, "b": 30}, 0.5) == {"a": 0.5, "b": 0.5}
    assert kept_in_proportion({"a": 0.0, "b": 1.0}, {"a": 10, "b": 30}, 0.1) == {"a": 0.4, "b": 0.0}


@pytest.mark.quick
@pytest.mark.parametrize("seed", range(20))
def test_exactly_meets_the_total_to_the_weight_within_its_bounds(seed):
    generator = torch.Generator().manual_seed(seed)
    sizes = {str(i): int(torch.randint(1, 400, (1,), generator=generator)) for i in range(9)}
    shares = {name: float(torch.rand(1, generator=generator)) for name in sizes}
    for sparsity in (0.0, 0.01, 0.37, 0.5, 0.88):
        met = exactly(shares, sizes, sparsity, 0.9)
        counts = {name: met[name] * sizes[name] for name in sizes}
        assert all(abs(count - round(count)) < 1e-9 for count in counts.values())
        drop = min(round(sparsity * sum(sizes.values())), sum(int(0.9 * size) for size in sizes.values()))
        assert sum(round(count) for count in counts.values()) == drop
        assert all(0 <= share <= 0.9 for share in met.values())
        inner = [name for name in sizes if 1 < round(counts[name]) < int(0.9 * sizes[name]) - 1]  # none that a bound holds
        shifts = [met[name] - shares[name] for name in inner]
        assert all(
            abs(a - b) <= 1 / sizes[n] + 1 / sizes[m]
            for a, n in zip(shifts, inner, strict=True)
            for b, m in zip(shifts, inner, strict=True)
        )


@pytest.mark.quick
def test_shares_that_meet_the_total_stay_as_they_are():
    assert exactly({"a": 0.25, "b": 0.75, "c": 0.0}, {"a": 8, "b": 8, "c": 4}, 0.4) == {"a": 0.25, "b": 0.75, "c": 0.0}


@pytest.mark.quick
def test_layers_with_biases_are_counted_by_their_weights():
    done = run(tiny_models.gpt2(), method="magnitude", sparsity=0.5, allocation={"method": "global", "params": {"floor": 0.0}})
    weights = sum(mask.unpack().numel() for mask in done.masks.values())
    assert removed(done) == round(0.5 * weights)
    done = run(tiny_models.gpt2(), method="magnitude", structure="2:4")
    assert removed(done) == weights // 2


@pytest.mark.quick
def test_a_solver_hears_that_its_budget_comes_from_wanda():
    watcher = Silent()
    done = run(uneven(), watcher, method="sparsegpt", sparsity=0.6, allocation="global")
    assert [said.text for said in watcher.heard if said.stage == "allocate"] == [
        "SparseGPT has no scores to compare: the budget is allocated by Wanda's."
    ]
    assert asked(done) == asked(run(uneven(), method="wanda", sparsity=0.6, allocation="global"))
    assert all(abs(row.sparsity - row.asked) < 0.02 for row in done.rows)


@pytest.mark.quick
def test_parameters_outside_their_bounds_are_refused():
    card = get("allocator", "owl").card
    with pytest.raises(Exception, match=r"between 0 and 0\.3"):
        fill(card, {"spread": 0.5})


@pytest.mark.quick
def test_block_influence_weights_equal_the_rule_written_out():
    model = tiny_models.llama(4)
    with torch.no_grad():
        for module in linears(model.model.layers[2]).values():
            module.weight.mul_(4)
    seen: dict[int, tuple] = {}
    for index, block in enumerate(model.model.layers):
        block.register_forward_hook(lambda m, args, out, index=index: seen.update({index: (args[0], out)}))
    with torch.no_grad():
        model(IDS)
    influence = torch.tensor([float(1 - torch.cosine_similarity(*seen[i], dim=-1).double().mean()) for i in range(4)]).double()
    raw = torch.sigmoid(1.5 * (influence - influence.mean()) / influence.std(correction=0))
    kept = raw / raw.mean() * 0.4  # the blocks are of one size; no block is full
    assert kept.max() < 1
    fields = {"sparsity": 0.6, "allocation": {"method": "influence_weighted", "params": {"strength": 1.5}}}
    done = run(model, method="magnitude", **fields)
    for row in done.rows:
        assert row.asked == pytest.approx(1 - float(kept[row.block]), abs=1e-6 + 1.01 / row.parameters)
    assert removed(done) == round(0.6 * sum(row.parameters for row in done.rows))
    assert max(float(kept[i]) for i in range(4)) == float(kept[2])


@pytest.mark.quick
@pytest.mark.parametrize("structure", ["neurons", "heads"])
@pytest.mark.parametrize("rule", ["ShortGPT", "CFSP", "Adapt-Pruner"])
def test_block_influence_spreads_neurons_and_heads_by_each_papers_rule(rule, structure):
    model, seen = tiny_models.llama(4, num_attention_heads=8, num_key_value_heads=8), {}
    with torch.no_grad():
        for module in linears(model.model.layers[2]).values():
            module.weight.mul_(4)
    handles = [
        block.register_forward_hook(lambda m, args, out, index=index: seen.update({index: (args[0], out)}))
        for index, block in enumerate(model.model.layers)
    ]
    with torch.no_grad():
        model(IDS)
    for handle in handles:
        handle.remove()
    cosines = [torch.cosine_similarity(*seen[index], dim=-1).double() for index in range(4)]
    figures = torch.stack([(c.clamp(-1, 1).arccos() / torch.pi).mean() if rule == "CFSP" else 1 - c.mean() for c in cosines])
    apart = figures - figures.mean()
    if rule == "Adapt-Pruner":
        shares = 0.5 - 0.2 * apart / apart.abs().max()  # they add up to 4 * 0.5 as they are
    else:
        raw = torch.sigmoid(apart / figures.std(correction=0))
        shares = 1 - raw / raw.mean() * 0.5
        assert shares.min() > 0
    params = {"rule": rule, "strength": 1.0, "amplitude": 0.2}
    allocation = {"method": "influence_weighted", "params": params}
    done = run(
        model, method="cfsp" if structure == "neurons" else "magnitude", structure=structure, sparsity=0.5, allocation=allocation
    )
    units = done.cuts[0].group.units
    for row in done.rows:
        assert row.asked == pytest.approx(float(shares[row.block]), abs=1.01 / units)  # in whole units, to which the total is met
    assert sum(row.asked for row in done.rows) == pytest.approx(2.0) and len({row.asked for row in done.rows}) > 1
    assert min(done.rows, key=lambda row: row.asked).block == 2


@pytest.mark.quick
def test_a_hand_case_of_each_rule():
    """Influences 0.1, 0.3: the mean is 0.2, z is -1 and 1. Adapt-Pruner at amplitude 0.1: 0.5 + 0.1 and 0.5 - 0.1. ShortGPT at strength 1: parts
    1 / (1 + e) = 0.269 and 0.731, so of 0.5 in all the blocks keep 0.269 and 0.731. CFSP reads the angles, which say the opposite here."""
    given = {"sizes": {"a": 1000, "b": 1000}, "blocks": {"a": "a", "b": "b"}, "sparsity": 0.5}
    given |= {"influence": {"a": 0.1, "b": 0.3}, "angle": {"a": 0.4, "b": 0.2}}
    method = get("allocator", "influence_weighted")
    assert method(given, {"rule": "Adapt-Pruner", "amplitude": 0.1}) == {"a": 0.6, "b": 0.4}
    assert method(given, {"rule": "ShortGPT", "strength": 1.0}) == {"a": 0.731, "b": 0.269}
    assert method(given, {"rule": "CFSP", "strength": 1.0}) == {"a": 0.269, "b": 0.731}


@pytest.mark.quick
@pytest.mark.parametrize(
    "fields, reached",
    [
        ({"method": "magnitude", "sparsity": 0.9, "allocation": {"method": "global", "params": {"floor": 0.5}}}, "0.5"),
        ({"method": "magnitude", "structure": "neurons", "sparsity": 0.9,
          "allocation": {"method": "knapsack", "params": {"floor": 0.5}}}, "0.5"),
        ({"method": "magnitude", "structure": "heads", "sparsity": 1.0}, "0.5"),  # 2 key-value groups a block, of which one stays
    ],
)  # fmt: skip
def test_a_sparsity_that_cannot_be_met_is_refused_and_names_what_can(fields, reached):
    model = tiny_models.llama(3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(RecipeError, match=rf"Ask for at most {reached}"):
        run(model, **fields)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    run(model, **{**fields, "sparsity": 0.5})  # and that much goes


@pytest.mark.quick
def test_the_pq_index_equals_its_definition_and_has_hand_values():
    """All equal: 0. One of four: 1 - 4^-1 * 1 / 1 = 0.75 (p = 1/2, q = 1: d^(1/q - 1/p) = 1/4, both norms 1)."""
    from core.allocate.pq_index import _index

    assert _index(torch.full((2, 2), -3.0), 0.5) == 0.0
    assert _index(torch.tensor([[0.0, 0.0], [7.0, 0.0]]), 0.5) == pytest.approx(0.75)
    assert _index(torch.zeros(2, 2), 0.5) == 1.0
    weight = torch.randn(9, 11, generator=torch.Generator().manual_seed(1))
    for p in (0.3, 0.5, 0.8):
        norm = lambda power: float(weight.double().abs().pow(power).sum() ** (1 / power))  # noqa: E731
        assert _index(weight, p) == pytest.approx(1 - weight.numel() ** (1 - 1 / p) * norm(p) / norm(1))
        assert _index(weight * 1e-20, p) == pytest.approx(_index(weight, p))


@pytest.mark.quick
def test_pq_index_takes_more_from_layers_that_are_nearly_sparse():
    done = run(uneven(), method="magnitude", sparsity=0.5, allocation="pq_index")
    shares = asked(done)
    assert shares["blocks.1.mlp.up_proj"] > shares["blocks.2.mlp.up_proj"] > shares["blocks.0.mlp.up_proj"]
    assert removed(done) == round(0.5 * sum(row.parameters for row in done.rows))


@pytest.mark.quick
@pytest.mark.parametrize("seed", range(30))
def test_the_cheapest_levels_equal_brute_force(seed):
    rng = np.random.default_rng(seed)
    items, levels = int(rng.integers(1, 5)), int(rng.integers(1, 6))
    costs, weights = rng.random((items, levels)).round(1), rng.integers(0, 7, (items, levels))
    for target in range(int(weights.max(axis=1).sum()) + 1):
        choices = [
            c for c in itertools.product(range(levels), repeat=items) if sum(weights[i, k] for i, k in enumerate(c)) >= target
        ]
        least = min(sum(costs[i, k] for i, k in enumerate(c)) for c in choices)
        found = cheapest(costs, weights, target)
        assert sum(weights[i, k] for i, k in enumerate(found)) >= target
        assert sum(costs[i, k] for i, k in enumerate(found)) == pytest.approx(least)
    with pytest.raises(ValueError, match="no choice weighs"):
        cheapest(costs, weights, target + 1)


@pytest.mark.quick
def test_a_levels_cost_must_be_a_number():
    with pytest.raises(ValueError, match="finite"):
        cheapest(np.array([[np.nan]]), np.array([[1]]), 1)


@pytest.mark.quick
@pytest.mark.parametrize("method", ["wanda", "magnitude"])
def test_rate_distortion_finds_the_budget_that_brute_force_finds(method):
    """Curves measured by whole-model forwards with each layer alone pruned, then every budget on a grid of 10 % tried."""
    model, only = uneven(), ["blocks.1.mlp"]
    inputs = dense_inputs(model)
    sizes, curves = {}, {}
    for name in ("gate_proj", "up_proj", "down_proj"):
        path = f"model.layers.1.mlp.{name}"
        weight, seen = model.get_submodule(path).weight.detach(), inputs[path].flatten(0, 1)
        norm = inputs[path].pow(2).sum(dim=(0, 1)).div(len(IDS)).sqrt()
        score, sizes[name], curves[name] = weight.abs() * norm if method == "wanda" else weight.abs(), weight.numel(), [0.0]
        for level in range(1, 10):
            pruned = weight.clone()
            rows = score if method == "wanda" else score.reshape(1, -1)
            drop = int(level / 10 * rows.shape[1] + 0.5 + 1e-9)
            lowest = rows.argsort(dim=1, stable=True)[:, :drop]
            pruned.view(rows.shape).scatter_(1, lowest, 0.0)
            curves[name].append(float((seen @ (weight - pruned).T).square().sum() / (seen @ weight.T).square().sum()))
    total = sum(sizes.values())
    best = min(
        (sum(curves[n][k] for n, k in zip(sizes, levels, strict=True)), levels)
        for levels in itertools.product(range(10), repeat=3)
        if sum(sizes[n] * k / 10 for n, k in zip(sizes, levels, strict=True)) >= 0.6 * total - 1e-9
    )
    done = run(model, method=method, sparsity=0.6, only=only, allocation="rate_distortion")
    shares = {name.rpartition(".")[2]: share for name, share in asked(done).items()}
    found = sum(float(np.interp(shares[n] * 10, range(10), curves[n])) for n in sizes)
    assert found <= best[0] + 1e-3  # on a finer grid it can only be better
    assert found == pytest.approx(best[0], rel=0.1)
    uniform = sum(curves[n][6] for n in sizes)
    assert found < uniform
    assert sum(row.asked * row.parameters for row in done.rows) == pytest.approx(round(0.6 * total), abs=1e-6)


@pytest.mark.quick
def test_rate_distortion_by_hand():
    """Two equal layers, one ten times as costly, straight curves: all from the cheap one up to its limit, the rest from the other."""
    given = {"sizes": {"cheap": 1000, "dear": 1000}, "curves": {"cheap": {0.0: 0.0, 1.0: 0.1}, "dear": {0.0: 0.0, 1.0: 1.0}}}
    given |= {"blocks": {"cheap": "blocks.0", "dear": "blocks.0"}, "influence": {"blocks.0": 0.2, "blocks.1": 0.01}}
    allocate = get("allocator", "rate_distortion")
    assert allocate({**given, "sparsity": 0.4}) == {"cheap": 0.8, "dear": 0.0}
    assert allocate({**given, "sparsity": 0.6}) == {"cheap": 0.9, "dear": 0.3}
    assert allocate({**given, "sparsity": 0.95}) == {"cheap": 0.95, "dear": 0.95}
    turned = {
        **given,
        "blocks": {"cheap": "blocks.0", "dear": "blocks.1"},
    }  # 0.1 * 0.2 against 1 * 0.01: now the other costs half
    assert allocate({**turned, "sparsity": 0.4}) == {"cheap": 0.0, "dear": 0.8}


@pytest.mark.quick
def test_a_solver_allocated_by_curves_needs_one_dense_pass_and_meets_them():
    watcher = Silent()
    done = run(uneven(), watcher, method="sparsegpt", sparsity=0.5, allocation="rate_distortion")
    assert (
        len({said.stage for said in watcher.heard}) == 3
        and sum(said.stage == "observe" and said.done == 0 for said in watcher.heard) == 1
    )
    assert all(abs(row.sparsity - row.asked) < 0.03 for row in done.rows)


@pytest.mark.quick
@pytest.mark.parametrize("allocation", ["owl", "influence_weighted", "rate_distortion"])
def test_a_module_without_blocks_is_refused_before_anything_changes(allocation):
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(ModelError, match="no chain of blocks"):
        run(model, method="magnitude", sparsity=0.5, allocation=allocation)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    done = run(model, method="magnitude", sparsity=0.5, allocation="pq_index")
    assert removed(done) == 48
