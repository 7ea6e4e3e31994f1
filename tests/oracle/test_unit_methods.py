"""KCM, greedy output approximation, Mini-GPTs and SEAP against plain references: whole-model forwards, loops over single units."""

from __future__ import annotations

import copy
import math
import statistics

import pytest
import torch

from core.catalogue import load as cards
from core.catalogue import resolve
from core.errors import ModelError, RecipeError
from core.events import Silent
from core.method import get
from core.model.loading import from_module
from core.model.pruning.step import prune
from core.recipe import parse
from tests.oracle.test_units import HEAD, IDS, kept, readings, run
from tests.tiny_models import llama

pytestmark = pytest.mark.quick
PER_UNIT = {"neurons": 1, "heads": 2 * HEAD}


def recipe(**fields):
    return parse({"recipe": 1, "name": "x", "model": {"source": "x"}, "steps": [{"prune": fields}]})


def reader_of(model, index: int, structure: str):
    block = model.model.layers[index]
    return block.mlp.down_proj if structure == "neurons" else block.self_attn.o_proj


def path_of(index: int, structure: str) -> str:
    return f"model.layers.{index}." + ("mlp.down_proj" if structure == "neurons" else "self_attn.o_proj")


def name_of(index: int, structure: str) -> str:
    return f"blocks.{index}." + ("mlp" if structure == "neurons" else "attention")


# --- KCM


def plain_kcm(weight, values, width: float, until: float) -> list[float]:
    """Multiplicative updates entry by entry."""
    columns = weight.detach().double().T
    n = len(columns)
    distance = [[math.dist(columns[i].tolist(), columns[j].tolist()) for j in range(n)] for i in range(n)]
    apart = sorted(distance[i][j] for i in range(n) for j in range(n) if i != j)
    scale = width * apart[(len(apart) - 1) // 2]
    kernel = [[math.exp(-((distance[i][j] / scale) ** 2)) for j in range(n)] for i in range(n)]
    made = [[1 / n] * n for _ in range(n)]
    while True:
        old = sum(map(sum, made))
        product = (torch.tensor(kernel, dtype=torch.float64) @ torch.tensor(made, dtype=torch.float64)).tolist()
        made = [[made[i][j] * math.sqrt(kernel[i][j] / product[i][j]) for j in range(n)] for i in range(n)]
        if abs(sum(map(sum, made)) - old) / old < until:
            break
    sizes = [float(values[:, :, unit].abs().mean()) for unit in range(n)]
    return [made[unit][unit] * sizes[unit] / sum(sizes) for unit in range(n)]


@pytest.mark.parametrize(("width", "until"), [(1.0, 0.01), (0.5, 0.001), (3.0, 0.01)])
def test_kcm_ranks_representatives_that_are_active(width, until):
    model = llama(1)
    expected = plain_kcm(reader_of(model, 0, "neurons").weight, readings(model, path_of(0, "neurons")), width, until)
    done = run(model, method="kcm", structure="neurons", sparsity=0.25, params={"width": width, "until": until})
    assert torch.allclose(done.scores["blocks.0.mlp.neurons"].double(), torch.tensor(expected).double(), rtol=1e-3)
    gone = sorted(range(48), key=lambda unit: (expected[unit], unit))[:12]
    assert kept(done)["blocks.0.mlp"] == [unit for unit in range(48) if unit not in gone]


def test_a_neuron_inside_the_cloud_is_made_by_its_neighbours():
    corners = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0], [0.0, 0.0]])
    scores = get("score", "kcm")({"out_of": corners, "input_mean_size": torch.ones(5, 1)}, {"until": 1e-6})
    assert int(scores.argmin()) == 4
    alone = get("score", "kcm")({"out_of": torch.ones(1, 2), "input_mean_size": torch.ones(1, 1)})
    same = get("score", "kcm")({"out_of": torch.ones(3, 2), "input_mean_size": torch.zeros(3, 1)})
    assert alone.tolist() == [1.0] and same.tolist() == [0.0, 0.0, 0.0]  # no distances, and nothing active


# --- greedy output approximation


def plain_greedy(model, structure: str, drop: int, ridge: float | None) -> tuple[dict[str, list[int]], object]:
    """Block after block: try every unit, measure what the layer's output on all tokens loses, silence the best; then least squares on the tokens."""
    model, found = copy.deepcopy(model), {}
    for index in range(len(model.model.layers)):
        reader, per = reader_of(model, index, structure), PER_UNIT[structure]
        values = readings(model, path_of(index, structure)).flatten(0, 1)
        weight = reader.weight.detach().double()
        whole, gone = values @ weight.T, []
        for _ in range(drop):
            losses = {}
            for unit in range(weight.shape[1] // per):
                if unit not in gone:
                    silent = weight.clone()
                    for other in (*gone, unit):
                        silent[:, other * per : (other + 1) * per] = 0
                    losses[unit] = float((whole - values @ silent.T).square().sum())
            gone.append(min(losses, key=losses.__getitem__))
        columns = [c for c in range(weight.shape[1]) if c // per not in gone]
        new = torch.zeros_like(weight)
        new[:, columns] = weight[:, columns]
        if ridge is not None:
            given = values[:, columns]
            held = ridge * float(given.square().sum(0).mean())
            stacked = torch.cat((given, math.sqrt(held) * torch.eye(len(columns), dtype=torch.float64)))
            wanted = torch.cat((whole, math.sqrt(held) * weight[:, columns].T))
            new[:, columns] = torch.linalg.lstsq(stacked, wanted).solution.T
        reader.weight.data = new.float()
        found[name_of(index, structure)] = [unit for unit in range(weight.shape[1] // per) if unit not in gone]
    return found, model


@pytest.mark.parametrize("structure", ["neurons", "heads"])
@pytest.mark.parametrize("ridge", [None, 0.01, 1.0])
def test_the_unit_that_the_output_misses_least_goes_and_the_rest_take_over(structure, ridge):
    model, drop = llama(2, num_key_value_heads=2), 1 if structure == "heads" else 12
    expected, silenced = plain_greedy(model, structure, drop, ridge)
    params = {"refit": ridge is not None, "ridge": ridge or 0.01}
    done = run(
        model, method="greedy_output", structure=structure, sparsity=drop / (2 if structure == "heads" else 48), params=params
    )
    assert kept(done) == expected
    with torch.no_grad():
        assert torch.allclose(done.loaded.model(IDS).logits, silenced(IDS).logits, atol=2e-4)
    assert all(row.output_error is not None and 0 < row.output_error < 1 and row.score_mean is None for row in done.rows)


def test_refitting_leaves_less_of_an_error_than_cutting():
    plain, refitted = (
        run(llama(), method="greedy_output", structure="neurons", sparsity=0.5, params={"refit": refit}).rows
        for refit in (False, True)
    )
    assert refitted[0].output_error < 0.9 * plain[0].output_error


def test_two_units_that_cancel_are_seen_together_and_zeros_stay():
    """Columns 0 and 1 write the same, and are fed opposite values: once one is gone the other is dear; unit 2 goes instead."""
    weight = torch.tensor([[1.0, 1.0, 0.9], [0.0, 0.0, 0.0]])
    inputs_ = torch.tensor([[1.0, -1.0, 0.0], [1.0, -1.0, 0.0], [0.0, 0.0, 1.7]])
    given = {"weight": weight, "index": torch.arange(3)[:, None], "gram": inputs_.T @ inputs_, "watcher": Silent()}
    method = get("solver", "greedy_output")
    assert method({**given, "count": 1}, {"refit": False})[1].tolist() == [False, True, True]  # 2, 2 and 2.34
    assert method({**given, "count": 2}, {"refit": False})[1].tolist() == [False, False, True]  # then unit 1 gives 2 back
    model = llama(1)
    model.model.layers[0].mlp.down_proj.weight.data[3] = 0.0
    done = run(model, method="greedy_output", structure="neurons", sparsity=0.5)
    assert not done.loaded.model.model.layers[0].mlp.down_proj.weight[3].any()


def test_greedy_takes_a_budget_by_hand_and_a_global_one():
    done = run(
        llama(), method="greedy_output", structure="neurons", allocation={"method": "by_hand", "shares": {"blocks.1": 0.5}}
    )
    assert [row.sparsity for row in done.rows] == [0.0, 0.5]
    done = run(llama(), method="greedy_output", structure="neurons", sparsity=0.5, allocation="global")  # Wanda's scores stand in
    assert sum(len(units) for units in kept(done).values()) == 48


def test_neurons_that_are_never_on_take_nothing_over():
    given = {
        "weight": torch.ones(2, 4),
        "index": torch.arange(4)[:, None],
        "gram": torch.zeros(4, 4),
        "watcher": Silent(),
        "count": 2,
    }
    weight, keep = get("solver", "greedy_output")(given)
    assert torch.equal(weight, torch.ones(2, 4)) and keep.tolist() == [False, False, True, True]


# --- Mini-GPTs


def test_only_neurons_that_the_text_leaves_still_go():
    model = llama(2)
    sizes = [float(readings(model, path_of(0, "neurons"))[:, :, unit].abs().mean()) for unit in range(48)]
    ceiling = sorted(sizes)[4] * 1.0001  # five are at or below it
    notes = []

    class Notes(Silent):
        def say(self, progress):
            notes.append(progress.text)

    done = run(
        model,
        watcher=Notes(),
        method="contextual",
        structure="neurons",
        sparsity=0.5,
        only=["blocks.0"],
        params={"ceiling": ceiling},
    )
    lowest = sorted(range(48), key=lambda unit: (sizes[unit], unit))
    assert kept(done) == {"blocks.0.mlp": [unit for unit in range(48) if unit not in lowest[:5]]}
    assert any("5 of the 24 neurons asked for went" in note for note in notes)
    done = run(
        llama(2), method="contextual", structure="neurons", sparsity=3 / 48, only=["blocks.0"], params={"ceiling": ceiling}
    )
    assert kept(done) == {"blocks.0.mlp": [unit for unit in range(48) if unit not in lowest[:3]]}  # the share is a limit, too


def test_where_every_neuron_is_used_none_goes_and_the_model_is_as_it_was():
    model = llama()
    before = copy.deepcopy(model.state_dict())
    done = run(model, method="contextual", structure="neurons", sparsity=0.5, params={"ceiling": 0.0})
    assert [row.sparsity for row in done.rows] == [0.0, 0.0]
    assert all(torch.equal(tensor, done.loaded.model.state_dict()[name]) for name, tensor in before.items())


# --- SEAP


@pytest.mark.parametrize("structure", ["neurons", "heads"])
@pytest.mark.parametrize("measure", ["variance", "norm"])
@pytest.mark.parametrize("standardise", [False, True])
def test_task_activation_is_its_variance_times_the_weights_that_read_it(structure, measure, standardise):
    model = llama(1)
    values, weight, per = (
        readings(model, path_of(0, structure)),
        reader_of(model, 0, structure).weight.detach().double(),
        PER_UNIT[structure],
    )
    scores = []
    for unit in range(weight.shape[1] // per):
        entries = []
        for column in range(unit * per, (unit + 1) * per):
            seen = values[:, :, column].flatten().tolist()
            mean = sum(seen) / len(seen)
            variance = sum((value - mean) ** 2 for value in seen) / (len(seen) - 1)
            activation = variance if measure == "variance" else math.sqrt(mean**2 + variance)
            entries.append(activation * float(weight[:, column].square().sum()))
        scores.append(sum(entries) / len(entries))
    if standardise:
        low, _, high = statistics.quantiles(scores, n=4, method="inclusive")
        middle = sorted(scores)[(len(scores) - 1) // 2]
        scores = [max(-3.0, min(3.0, (value - middle) / (high - low + 1e-9))) for value in scores]
    params = {"measure": measure, "standardise": standardise}
    done = run(model, method="seap", structure=structure, sparsity=0.5, params=params)
    assert torch.allclose(next(iter(done.scores.values())).double(), torch.tensor(scores).double(), rtol=1e-3, atol=1e-5)


def test_shares_rise_with_depth_along_the_curve_and_meet_the_total():
    sizes = {f"blocks.{index}.mlp": 1000 for index in range(5)}
    shares = get("allocator", "logistic_depth")({"sizes": sizes, "sparsity": 0.4})
    curve = [1 / (1 + math.exp(-1.2 * (index / 4 - 0.3))) for index in range(5)]
    assert list(shares.values()) == pytest.approx([0.4 * value / (sum(curve) / 5) for value in curve], abs=1e-3)
    even = get("allocator", "logistic_depth")({"sizes": sizes, "sparsity": 0.4}, {"steepness": 0.0})
    assert list(even.values()) == pytest.approx([0.4] * 5)
    done = run(llama(3), method="seap", structure="neurons", sparsity=0.5, allocation="logistic_depth")
    assert [row.sparsity for row in done.rows] == sorted(row.sparsity for row in done.rows)
    assert sum(len(units) for units in kept(done).values()) == 72


# --- bad input


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"method": "kcm", "structure": "heads", "sparsity": 0.5}, "does not work on heads"),
        ({"method": "greedy_output", "structure": "unstructured", "sparsity": 0.5}, "does not work on unstructured"),
        ({"method": "contextual", "structure": "heads", "sparsity": 0.5}, "does not work on heads"),
        (
            {"method": "llm_pruner", "structure": "neurons", "sparsity": 0.5, "params": {"estimate": "third order"}},
            "must be one of",
        ),
        ({"method": "greedy_output", "structure": "neurons", "sparsity": 0.5, "params": {"ridge": 0.0}}, "must lie between"),
        ({"method": "kcm", "structure": "neurons", "sparsity": 0.5, "params": {"width": 0.0}}, "must lie between"),
        ({"method": "wanda", "structure": "unstructured", "sparsity": 0.5, "allocation": "logistic_depth"}, "does not apply"),
    ],
)
def test_what_does_not_fit_is_a_sentence(fields, said):
    with pytest.raises(RecipeError, match=said) as error:
        resolve(recipe(**fields), cards())
    assert error.value.remedy


@pytest.mark.parametrize("method", ["kcm", "greedy_output", "contextual", "seap"])
def test_text_that_makes_no_numbers_is_refused_before_any_cut(method):
    model = llama(1)
    model.model.layers[0].mlp.gate_proj.weight.data[0, 0] = torch.nan
    with pytest.raises(ModelError) as error:
        prune(
            from_module(model, "tiny"),
            recipe(method=method, structure="neurons", sparsity=0.5).steps[0].prune,
            lambda: IDS,
            0,
            Silent(),
        )
    assert error.value.remedy and model.model.layers[0].mlp.gate_proj.weight.shape == (48, 32)
