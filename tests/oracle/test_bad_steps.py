"""What a prune step may be asked that cannot be: each ends in a sentence with a remedy, and the model in memory is as it was, bit for bit."""

from __future__ import annotations

import pytest

from core.errors import PrunariumError
from core.events import Silent
from core.model.loading import from_module
from core.model.pruning.step import prune
from tests.model_folders import tiny
from tests.oracle.test_put_back import IDS, broken, same, state, step
from tests.tiny_models import llama, resnet

HALF, NEAREST = {"sparsity": 0.5}, "nearest that can be reached"


@pytest.mark.quick
@pytest.mark.parametrize(
    ("make", "fields", "says", "remedy"),
    [
        # a structure that the family lacks
        (resnet, {"method": "magnitude", "structure": "heads", **HALF}, "query, key, value and output", "structure"),
        (llama, {"method": "reap", "structure": "experts", **HALF}, "not a mixture of experts", "structure"),
        (lambda: tiny("bert"), {"method": "slicegpt", "structure": "slices", **HALF}, "not a decoder", "structure"),
        (lambda: tiny("gpt2"), {"method": "wanda", "structure": "query_heads", **HALF}, "a key and value head of its own", "structure"),
        # N:M on a width that it does not divide
        (llama, {"method": "wanda", "structure": "3:7"}, "needs a multiple of 7", ""),
        (lambda: tiny("llama", intermediate_size=60), {"method": "sparsegpt", "structure": "4:8"}, "needs a multiple of 8", ""),
        # a budget below a floor, or above what heads, or neurons, allow
        (llama, {"method": "magnitude", "sparsity": 0.9, "allocation": {"method": "global", "params": {"floor": 0.3}}}, "the most that goes", "at most 0.6996"),
        (llama, {"method": "magnitude", "structure": "heads", "budget": {"cost": "kv_bytes", "remove": 0.9}}, NEAREST, "no more"),
        (llama, {"method": "wanda", "structure": "query_heads", "sparsity": 0.9, "allocation": "global"}, "the most that goes", "at most"),
        (llama, {"method": "flap", "structure": "heads_and_neurons", "sparsity": 0.99, "allocation": "global"}, NEAREST, "no more"),
        (llama, {"method": "magnitude", "structure": "neurons", "budget": {"cost": "parameters", "at_most": 5}}, NEAREST, "no more"),
        # a Hessian that is not positive definite, whatever the damping (where damping helps, test_sparsegpt says that it is said)
        (broken, {"method": "sparsegpt", **HALF}, "Gram|not all numbers|not all finite", "calibration"),
        # an expression that divides by zero
        (llama, {"method": "formula", **HALF, "params": {"expression": "W / (X - X)"}}, "divides by zero", ""),
    ],
)  # fmt: skip
def test_each_ends_in_a_sentence_with_a_remedy_and_the_model_is_as_it_was(make, fields, says, remedy):
    model = make()
    before = state(model)
    with pytest.raises(PrunariumError, match=says) as told:
        prune(from_module(model, "x"), step(**fields), lambda: IDS % 96, 0, Silent())
    assert told.value.problem.endswith((".", ":")) and told.value.remedy and remedy in told.value.remedy
    assert same(model, before)


@pytest.mark.quick
@pytest.mark.parametrize("method", ["taylor", "gblm", "fisher"])
def test_gradients_that_memory_does_not_allow_are_refused_with_a_way_out(method, monkeypatch):
    model = llama(2)
    before = state(model)
    monkeypatch.setenv("PRUNARIUM_MEMORY_GB", "0.0001")
    with pytest.raises(PrunariumError, match=r"has 0\.1 MB left") as told:
        prune(from_module(model, "x"), step(method=method, **HALF), lambda: IDS, 0, Silent())
    assert told.value.remedy and same(model, before)
