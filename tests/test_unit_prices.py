"""What neurons and heads give back, as the Budget room is told it: against the real counts of models cut by as many."""

from __future__ import annotations

import copy

import pytest
import torch

from core.events import Silent
from core.model.loading import from_module
from core.model.looking.unit_prices import TOKENS, unit_prices
from core.model.measuring.counts import counts, flops_per_token, kv_bytes
from core.model.pruning.step import prune
from core.recipe import Allocation, Prune
from tests import tiny_models
from tests.oracle.test_experts import built

IDS = torch.randint(0, 300, (4, 16), generator=torch.Generator().manual_seed(3))
pytestmark = pytest.mark.quick


@pytest.mark.parametrize("structure", ["neurons", "heads"])
def test_prices_say_what_a_cut_of_one_block_takes_off(structure):
    model = tiny_models.llama(2)
    loaded = from_module(copy.deepcopy(model), "tiny")
    told = unit_prices(loaded, Silent())
    group = told[structure]["groups"][1]
    assert group["block"] == "blocks.1" and group["most"] == group["units"] - 1
    step = Prune(method="magnitude", structure=structure, allocation=Allocation(method="by_hand", shares={"blocks.1": 0.5}))
    done = prune(from_module(model, "tiny"), step, lambda: IDS, 0, Silent()).loaded
    gone = group["units"] // 2

    def fell(figure):
        return figure(loaded) - figure(done)

    assert gone * group["each"]["parameters"] == fell(lambda m: counts(m.model).parameters)
    assert gone * group["each"]["flops"] == pytest.approx(fell(lambda m: flops_per_token(m, context=TOKENS)))
    if structure == "heads":
        assert gone * group["each"]["kv_bytes"] == fell(lambda m: kv_bytes(m, TOKENS))
    assert told["latency"]["ms"] > 0 and group["at"][0] == 0.0 and group["at"][-1] == group["units"]
    assert group["off"] == sorted(group["off"]) and len(group["off"]) == len(group["at"])


def test_a_model_without_such_units_says_why_and_keeps_the_rest():
    loaded = from_module(built("mixtral"), "tiny")  # its MLPs are experts
    told = unit_prices(loaded, Silent())
    assert told["neurons"]["refused"] and told["heads"]["groups"]
