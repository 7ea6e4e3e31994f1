"""LLM-Pruner's group Taylor against a plain reference: gradients of the whole model, loops over single units."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch

from core.errors import ModelError
from core.method import get
from tests.model_folders import inputs, tiny
from tests.oracle.test_unit_methods import name_of
from tests.oracle.test_units import HEAD, IDS, kept, run
from tests.tiny_models import llama

pytestmark = pytest.mark.quick


def gradients(model) -> tuple[dict, dict]:
    """{parameter: mean gradient}, {parameter: mean squared gradient} of one sequence's loss at a time."""
    model = copy.deepcopy(model).requires_grad_(True)
    first, second = {}, {}
    for row in IDS:
        model.zero_grad()
        model(row[None], labels=row[None]).loss.backward()
        for name, parameter in model.named_parameters():
            first[name] = first.get(name, 0) + parameter.grad.double() / len(IDS)
            second[name] = second.get(name, 0) + parameter.grad.double() ** 2 / len(IDS)
    return first, second


def plain_group_taylor(model, structure: str, estimate: str, together: str) -> dict[str, list[float]]:
    """The importance of a group as LLM-Pruner's code has it: a number a channel of each coupled layer, layers aligned by folding, then channels added."""
    first, second = gradients(model)
    found = {}
    for index in range(len(model.model.layers)):
        stem = f"model.layers.{index}."
        if structure == "neurons":
            layers = [
                (stem + "mlp.gate_proj.weight", 0, 1),
                (stem + "mlp.up_proj.weight", 0, 1),
                (stem + "mlp.down_proj.weight", 1, 1),
            ]
        else:
            layers = [
                (stem + f"self_attn.{name}_proj.weight", 0, per) for name, per in (("q", 2 * HEAD), ("k", HEAD), ("v", HEAD))
            ]
            layers.append((stem + "self_attn.o_proj.weight", 1, 2 * HEAD))
        units = 48 if structure == "neurons" else 2
        scores = []
        for unit in range(units):
            aligned = []
            for name, axis, per in layers:
                weight = dict(model.named_parameters())[name].detach().double()
                channels = []
                for entry in range(unit * per, (unit + 1) * per):
                    w, g, f = (value[entry] if axis == 0 else value[:, entry] for value in (weight, first[name], second[name]))
                    channels.append(
                        {
                            "vector": abs(float((w * g).sum())),
                            "first order": float((w * g).abs().sum()),
                            "second order": float((w * f * w).abs().sum()),
                            "mixed": float((w * g - 0.5 * w * f * w).abs().sum()),
                        }[estimate]
                    )
                least = 1 if structure == "neurons" else HEAD
                aligned.append([sum(channels[at::least]) for at in range(least)])
            joined = {"sum": sum, "max": max, "product": math.prod, "last": lambda values: list(values)[-1]}[together]
            scores.append(sum(joined(values) for values in zip(*aligned, strict=True)))
        found[name_of(index, structure)] = scores
    return found


@pytest.mark.parametrize("structure", ["neurons", "heads"])
@pytest.mark.parametrize(
    ("estimate", "together"),
    [
        *itertools.product(["vector", "first order", "second order", "mixed"], ["sum"]),
        *itertools.product(["mixed"], ["max", "product", "last"]),
    ],
)
def test_group_taylor_ranks_units_as_the_reference_does(structure, estimate, together):
    model = llama(2)
    scores = plain_group_taylor(model, structure, estimate, together)
    share = 0.25 if structure == "neurons" else 0.5
    done = run(
        model, method="llm_pruner", structure=structure, sparsity=share, params={"estimate": estimate, "together": together}
    )
    for name, expected in scores.items():
        found = done.scores[f"{name}.{structure}"].double()
        wanted = torch.tensor(expected, dtype=torch.float64)
        assert torch.allclose(found / found.sum(), wanted / wanted.sum(), rtol=1e-3)
        count = int(share * len(expected))
        gone = sorted(sorted(range(len(expected)), key=lambda unit: (expected[unit], unit))[:count])
        assert kept(done)[name] == [unit for unit in range(len(expected)) if unit not in gone]


def test_only_first_order_added_up_is_what_taylor_gives_units():
    same = run(llama(), method="taylor", structure="heads", sparsity=0.5).scores
    found = run(llama(), method="llm_pruner", structure="heads", sparsity=0.5, params={"estimate": "first order"}).scores
    other = run(llama(), method="llm_pruner", structure="heads", sparsity=0.5).scores
    assert all(torch.allclose(found[name], same[name], rtol=1e-4) for name in same)
    assert not any(torch.allclose(other[name], same[name], rtol=1e-6) for name in same)


def test_fused_layers_and_shared_keys_have_a_group_importance_too():
    """Phi-3 has query, key and value in one layer, whose rows are not a multiple of the output's columns."""
    for family in ("phi3", "gpt2", "mistral"):
        ids = inputs(family)
        done = run(tiny(family), calibration=ids, method="llm_pruner", structure="heads", sparsity=0.5)
        assert all(0 < int(cut.keep.sum()) < len(cut.keep) for cut in done.cuts)


def test_a_model_without_a_loss_has_no_group_taylor():
    model = tiny("bert")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ModelError, match=r"no next token|no gradient") as error:
        run(model, calibration=inputs("bert"), method="llm_pruner", structure="neurons", sparsity=0.25)
    assert error.value.remedy and all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in before.items())


def test_group_taylor_by_hand():
    """Two neurons of one weight a layer: w g = 2 and -1, 3 and 1: sums 3 and 4, products 2 and 3, largest 2 and 3, the last 1 and 1.

    Second order: w^2 F = 4 * 1 and 1 * 1, 9 * 0 and 1 * 2 -> 5 and 2. Mixed: |2 - 2| + |-1 - 0.5| = 1.5; |3 - 0| + |1 - 1| = 3.
    """

    def part(weight, gradient, square):
        return {
            name: torch.tensor(value).reshape(2, 1, 1)
            for name, value in (("weight", weight), ("gradient", gradient), ("gradient_square", square))
        }

    parts = (part([2.0, 3.0], [1.0, 1.0], [1.0, 0.0]), part([1.0, 1.0], [-1.0, 1.0], [1.0, 2.0]))
    method = get("score", "llm_pruner")
    for params, expected in (
        ({"estimate": "first order"}, [3, 4]),
        ({"estimate": "first order", "together": "max"}, [2, 3]),
        ({"estimate": "first order", "together": "last"}, [1, 1]),
        ({"estimate": "second order"}, [5, 2]),
        ({}, [1.5, 3]),
    ):
        assert method({"parts": parts}, params).tolist() == expected
    product = method({"parts": parts}, {"estimate": "first order", "together": "product"})
    assert float(product[0] / product[1]) == pytest.approx(2 / 3)
    assert method.needed({"estimate": "vector"}) == {"gradient"} and method.needed({"estimate": "second order"}) == {
        "gradient_square"
    }
