"""A step that fails half way leaves the model in memory as it was: weights, shapes, numbers of heads, config, and what it says."""

from __future__ import annotations

import copy

import pytest
import torch

from core.catalogue import load as cards
from core.catalogue import resolve
from core.errors import ModelError, Stopped
from core.events import Silent
from core.model.loading import from_module
from core.model.masks import decide
from core.model.measuring.likelihood import token_losses
from core.model.pruning.step import prune
from core.recipe import parse
from tests.oracle.test_experts import built
from tests.tiny_models import VOCABULARY, llama

IDS = torch.randint(0, VOCABULARY, (6, 16), generator=torch.Generator().manual_seed(3))


def step(**fields):
    recipe = parse({"recipe": 1, "name": "x", "model": {"source": "x"}, "steps": [{"prune": fields}]})
    return resolve(recipe, cards()).steps[0].prune


class StopsIn(Silent):
    """Asks for a stop once this block of the step is done."""

    def __init__(self, block: int) -> None:
        self.block, self.reached = block, False

    def say(self, event) -> None:
        self.reached = self.reached or (event.stage.startswith("prune") and event.done == self.block)

    def check(self) -> None:
        if self.reached:
            raise Stopped


def broken(layers: int = 4):
    """A Llama whose third block overflows on any text: finite weights, infinite activations."""
    model = llama(layers)
    with torch.no_grad():
        model.model.layers[2].post_attention_layernorm.weight.fill_(1e30)
    return model


def state(model) -> tuple[dict, str, dict]:
    numbers = {
        (path, name): value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, int)
    }
    return copy.deepcopy(model.state_dict()), model.config.to_json_string(), numbers


def same(model, before) -> bool:
    weights, config, numbers = state(model)
    alike = weights.keys() == before[0].keys() and all(torch.equal(weights[name], before[0][name]) for name in weights)
    return alike and (config, numbers) == before[1:]


@pytest.mark.parametrize(
    "fields",
    [
        {"method": "sparsegpt", "sparsity": 0.5},
        {"method": "wanda", "structure": "2:4"},
        {"method": "flap", "structure": "neurons", "sparsity": 0.5},
        {"method": "flap", "structure": "heads", "sparsity": 0.5},
        {"method": "greedy_output", "structure": "neurons", "sparsity": 0.5},
    ],
)
def test_activations_that_overflow_in_the_third_block_leave_those_before_it_whole(fields):
    model = broken()
    before = state(model)
    with pytest.raises(ModelError) as told:
        prune(from_module(model, "x"), step(**fields), lambda: IDS, 0, Silent())
    assert "blocks." in told.value.problem or "Gram" in told.value.problem
    assert same(model, before)


@pytest.mark.parametrize(
    "model, fields",
    [
        (lambda: llama(4), {"method": "wanda", "sparsity": 0.5}),
        (lambda: llama(4), {"method": "magnitude", "structure": "heads", "sparsity": 0.5}),
        (lambda: llama(4), {"method": "flap", "structure": "neurons", "sparsity": 0.5}),
        (built, {"method": "reap", "structure": "experts", "sparsity": 0.5}),
        (built, {"method": "moe_pruner", "sparsity": 0.5}),
    ],
)
def test_a_stop_after_the_first_block_leaves_it_whole(model, fields):
    model = model()
    before, loss = state(model), token_losses(model, IDS % 96)
    with pytest.raises(Stopped):
        prune(from_module(model, "x"), step(**fields), lambda: IDS % 96, 0, StopsIn(1))
    assert same(model, before)
    assert torch.equal(token_losses(model, IDS % 96), loss)
    done = prune(from_module(model, "x"), step(**fields), lambda: IDS % 96, 0, Silent())  # and it can be pruned after that
    assert done.rows and not same(model, before)


def test_infinite_scores_are_refused_and_say_where():
    """W = (1, 2, 3, 4) on inputs of norm infinity: every score is infinite, none is lower, and ties would drop 1 and 2 whatever they are."""
    for scores in (torch.tensor([[1.0, 2.0, 3.0, 4.0]]) * torch.inf, torch.tensor([[1.0, -torch.inf, 3.0, 4.0]])):
        for structure in ("unstructured", "2:4", "tiles:2"):
            with pytest.raises(ModelError, match=r"scores of blocks\.1\.up are not all finite"):
                decide(scores, structure, 0.5, "row", "blocks.1.up")
    spared = (torch.tensor([0]), torch.tensor([0]))  # protected entries are no such score: 1 stays, and 2 and 3 go
    assert decide(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), "unstructured", 0.5, "row", "x", spared).tolist() == [
        [True, False, False, True]
    ]


def test_without_putting_back_a_stop_leaves_what_was_done():
    model = llama(4)
    before = state(model)
    with pytest.raises(Stopped):
        prune(from_module(model, "x"), step(method="wanda", sparsity=0.5), lambda: IDS, 0, StopsIn(1), put_back=False)
    assert not same(model, before)


def test_where_a_copy_does_not_fit_a_note_says_so(monkeypatch):
    monkeypatch.setenv("PRUNARIUM_MEMORY_GB", "0.00001")
    heard = []
    watcher = Silent()
    watcher.say = lambda event: heard.append(event.text)
    prune(from_module(llama(2), "x"), step(method="magnitude", sparsity=0.5), lambda: IDS, 0, watcher)
    assert any("part pruned" in text for text in heard)
