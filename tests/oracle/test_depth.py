"""Depth pruning against plain references: a deep copy of the model without those blocks, whole forwards, nothing cached."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import BloomConfig, BloomForCausalLM

from core.errors import ModelError, RecipeError, Stopped
from core.events import Silent
from core.method import METHODS, search
from core.model import blocks
from core.model.depth.bypass import block_units, bypassed
from core.model.depth.surgery import remove_blocks
from core.model.depth.trials import open_trials
from core.model.loading import from_module
from core.model.pruning.step import prune
from core.recipe import parse
from tests import tiny_models
from tests.model_folders import tiny

pytestmark = pytest.mark.quick
IDS = torch.randint(0, 97, (11, 16), generator=torch.Generator().manual_seed(3))  # 11: the last batch is smaller than the others


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    """Four sequences a batch, so that states wait in more than one."""
    monkeypatch.setattr(blocks, "BATCH_TOKENS", 64)


def llama(layers: int = 5):
    """A tiny Llama whose blocks differ in what they do: each one's output is scaled by its own factor."""
    model = tiny_models.llama(layers)
    for index, block in enumerate(model.model.layers):
        block.mlp.down_proj.weight.data *= (40, 3, 15, 1, 25, 8)[index % 6]
        block.self_attn.o_proj.weight.data *= (5, 30, 1, 12, 20, 3)[index % 6]
    return model


def step(**fields):
    return parse({"recipe": 1, "name": "x", "model": {"source": "x"}, "steps": [{"prune": fields}]}).steps[0].prune


def run(model, ids=IDS, watcher=None, **fields):
    return prune(from_module(model, "tiny"), step(**fields), lambda: ids, 0, watcher or Silent())


def plain_loss(model, ids=IDS) -> float:
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits
    return float(cross_entropy(logits[:, :-1].flatten(0, 1).double(), ids[:, 1:].flatten()))


def without_blocks(model, gone):
    shallow = copy.deepcopy(model)
    shallow.model.layers = torch.nn.ModuleList([block for i, block in enumerate(shallow.model.layers) if i not in gone])
    shallow.config.num_hidden_layers = len(shallow.model.layers)
    return shallow


def plain_sleb(model, count: int, may_go) -> tuple[list[int], list[float]]:
    """SLEB as the paper says it: in each round every block that is left is deleted from a copy, and the copy reads all the text."""
    gone, losses = [], []
    for _ in range(count):
        tried = {index: plain_loss(without_blocks(model, {*gone, index})) for index in may_go if index not in gone}
        best = min(tried, key=tried.__getitem__)
        gone.append(best)
        losses.append(tried[best])
    return gone, losses


def unchanged(model, before) -> bool:
    """The same weights, and no module answers in another's place."""
    state = model.state_dict()
    return state.keys() == before.keys() and all(torch.equal(before[n], v) for n, v in state.items()) and not any(
        "forward" in vars(module) or module._forward_pre_hooks or module._forward_hooks for module in model.modules()
    )  # fmt: skip


@pytest.mark.parametrize("count", [1, 3, 4])
def test_sleb_takes_the_blocks_that_a_plain_search_takes_in_its_order(count):
    model = llama()
    order, losses = plain_sleb(model, count, range(5))
    done = run(model, method="sleb", structure="blocks", sparsity=count / 5)
    assert done.said["removed_in_order"] == [f"blocks.{index}" for index in order]
    assert done.said["loss_after_each"] == pytest.approx(losses, abs=1e-5)
    assert done.removed == tuple(sorted(order)) and model.config.num_hidden_layers == 5 - count
    assert plain_loss(model) == pytest.approx(losses[-1], abs=1e-5)
    assert done.said["evaluations"] == 1 + sum(5 - taken for taken in range(count))


def test_sleb_keeps_what_is_protected_and_one_block_at_least():
    model = llama()
    order, _ = plain_sleb(model, 2, [1, 3, 4])
    done = run(copy.deepcopy(model), method="sleb", structure="blocks", sparsity=0.4, protect=["blocks.0", "blocks.2"])
    assert done.said["removed_in_order"] == [f"blocks.{index}" for index in order]
    done = run(copy.deepcopy(model), method="sleb", structure="blocks", sparsity=0.4, only=["blocks.[13]"])
    assert sorted(done.removed) == [1, 3]
    done = run(model, method="sleb", structure="blocks", sparsity=1.0)
    assert len(done.removed) == 4 and len(done.loaded.anatomy.blocks) == 1


def test_trying_gives_the_loss_of_the_model_without_those_blocks_and_leaves_it_as_it_was():
    model = llama()
    before, loaded = copy.deepcopy(model.state_dict()), from_module(model, "tiny")
    trials = open_trials(loaded, block_units(loaded), IDS, Silent())
    assert trials.evaluate(frozenset()) == pytest.approx(plain_loss(model), abs=1e-6)
    for gone in ({0}, {4}, {0, 1, 3}):
        found = trials.evaluate(frozenset(f"blocks.{index}" for index in gone))
        assert found == pytest.approx(plain_loss(without_blocks(model, gone)), abs=1e-6)
    each = dict(trials.evaluate_each(frozenset({"blocks.0", "blocks.2"}), ["blocks.4", "blocks.1"]))
    assert list(each) == ["blocks.1", "blocks.4"]
    for name, loss in each.items():
        assert loss == pytest.approx(plain_loss(without_blocks(model, {0, 2, int(name[-1])})), abs=1e-6)
    assert unchanged(model, before)


@pytest.mark.parametrize(
    "family", ["gpt2", "gemma2", "opt", "falcon", "phi3", "bloom"]
)  # falcon's and bloom's blocks answer in tuples
def test_trying_fits_what_really_removing_gives_in(family):
    def made():
        torch.manual_seed(0)
        return (
            BloomForCausalLM(BloomConfig(hidden_size=32, n_layer=3, n_head=4, vocab_size=96)).eval()
            if family == "bloom"
            else tiny(family, **three)
        )

    three = {"n_layer": 3} if family == "gpt2" else {"num_hidden_layers": 3}
    ids, loaded = IDS % 96, from_module(made(), "tiny")
    trials = open_trials(loaded, block_units(loaded), ids, Silent())
    for gone in (frozenset(), frozenset({"blocks.1"})):
        for name, loss in trials.evaluate_each(gone, set(trials.units) - gone):
            shallow = remove_blocks(from_module(made(), "tiny"), sorted(int(block[-1]) for block in {*gone, name})).model
            assert loss == pytest.approx(plain_loss(shallow, ids), abs=1e-5), (gone, name)


def test_a_search_that_finds_what_may_not_go_is_a_fault_of_the_search():
    @search("astray", label="Astray")
    def astray(units: tuple[str, ...]) -> list[str]:
        """Keep nothing in particular. When it lies: always."""
        return found

    model = llama()
    before = copy.deepcopy(model.state_dict())
    try:
        for found in (["blocks.1", "blocks.1"], ["blocks.9"], ["blocks.0"], [f"blocks.{index}" for index in range(5)]):
            with pytest.raises(ModelError, match="fault of the search"):
                run(
                    model,
                    method="astray",
                    structure="blocks",
                    sparsity=0.2,
                    protect=["blocks.0"] if found == ["blocks.0"] else [],
                )
    finally:
        METHODS.pop(("search", "astray"))
    assert unchanged(model, before)


def test_only_the_rest_of_the_model_runs_for_a_candidate(monkeypatch):
    model, calls = llama(), []
    for index, block in enumerate(model.model.layers):
        block.mlp.register_forward_hook(lambda *_, index=index: calls.append(index))
    loaded = from_module(model, "tiny")
    trials = open_trials(loaded, block_units(loaded), IDS, Silent())
    calls.clear()
    list(trials.evaluate_each(frozenset(), trials.units))
    batches = -(-len(IDS) // 4)
    advanced = 4  # blocks that the text moves through once, to wait at the next one
    assert len(calls) == batches * (advanced + sum(4 - index for index in range(5)))


class _StopsAfter(Silent):
    """Stops at the n-th check."""

    def __init__(self, checks: int):
        super().__init__()
        self.left = checks

    def check(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Stopped


@pytest.mark.parametrize("checks", [0, 2, 7, 20])
def test_a_stop_is_obeyed_between_two_batches_and_leaves_the_model_as_it_was(checks):
    model = llama()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(Stopped):
        run(model, watcher=_StopsAfter(checks), method="sleb", structure="blocks", sparsity=0.4)
    assert unchanged(model, before) and model.config.num_hidden_layers == 5


def test_progress_counts_the_evaluations():
    watcher = Silent()
    run(llama(), watcher=watcher, method="sleb", structure="blocks", sparsity=0.4)
    said = [progress for progress in watcher.heard if progress.stage == "prune: sleb"]
    assert [progress.done for progress in said] == list(range(10)) and {progress.total for progress in said} == {9}
    assert all(later.done == earlier.done + 1 for earlier, later in pairwise(said))


def test_what_predicts_no_next_token_has_no_loss_to_search_by():
    ids = torch.randint(0, 300, (3, 8))
    with pytest.raises(ModelError, match="loss to search by"):
        run(tiny_models.bert(), ids, method="sleb", structure="blocks", sparsity=0.5)


def test_a_model_whose_loss_is_no_number_is_refused():
    model = llama()
    model.model.norm.weight.data.fill_(float("inf"))
    with pytest.raises(ModelError, match="not a number"):
        run(model, method="sleb", structure="blocks", sparsity=0.2)


def test_blocks_named_by_hand_go_without_a_search():
    model, shares = llama(), {"blocks.1": 1.0, "blocks.3": 1.0, "blocks.0": 0.0}
    done = prune(from_module(model, "tiny"), step(method="sleb", structure="blocks", allocation={"method": "by_hand", "shares": shares}),
                 lambda: pytest.fail("asked for text"), 0, Silent())  # fmt: skip
    assert done.removed == (1, 3)
    for shares in ({"blocks.9": 1.0}, {"blocks.1": 0.5}):
        with pytest.raises(RecipeError):
            run(llama(), method="sleb", structure="blocks", allocation={"method": "by_hand", "shares": shares})


def test_bypassing_lies_in_bypassing():
    model = llama()
    before, loaded = copy.deepcopy(model.state_dict()), from_module(model, "tiny")
    units = block_units(loaded)
    with bypassed(loaded, [units["blocks.1"]]):
        with bypassed(loaded, [units["blocks.1"], units["blocks.2"]]):
            assert plain_loss(model) == pytest.approx(plain_loss_of(before, {1, 2}), abs=1e-6)
        assert plain_loss(model) == pytest.approx(plain_loss_of(before, {1}), abs=1e-6)
    assert unchanged(model, before)


def plain_loss_of(state, gone) -> float:
    model = llama()
    model.load_state_dict(state)
    return plain_loss(without_blocks(model, gone))


@pytest.mark.parametrize("count", [1, 3])
def test_one_shot_takes_the_blocks_with_the_lowest_loss_alone(count):
    model = llama()
    alone = [plain_loss(without_blocks(model, {index})) for index in range(5)]
    done = run(model, method="one_shot_loss", structure="blocks", sparsity=count / 5)
    order = sorted(range(5), key=alone.__getitem__)[:count]
    assert done.said["removed_in_order"] == [f"blocks.{index}" for index in order]
    assert [row.score_mean for row in done.rows] == pytest.approx(alone, abs=1e-5)
    assert done.said["loss_after_each"][0] == pytest.approx(alone[order[0]], abs=1e-5)
    assert done.said["loss_after_each"][1:] == [None] * (count - 1)  # not measured, so not said
    assert done.said["evaluations"] == 6


def plain_angles(model, count: int) -> list[float]:
    """arccos(cos) / pi between the last tokens' states before block l and before block l + count, by one whole forward with hooks."""
    seen = []
    handles = [block.register_forward_hook(lambda m, args, out: seen.append((args[0], out))) for block in model.model.layers]
    with torch.no_grad():
        model(IDS)
    for handle in handles:
        handle.remove()
    at = [before for before, _ in seen] + [seen[-1][1]]
    out = []
    for start in range(len(at) - count):
        angles = []
        for one, other in zip(at[start][:, -1].double(), at[start + count][:, -1].double(), strict=True):
            angles.append(float(torch.arccos((one @ other) / one.norm() / other.norm())) / torch.pi)
        out.append(sum(angles) / len(angles))
    return out


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_run_of_blocks_with_the_smallest_angle_goes(count):
    model, watcher = llama(), Silent()
    angles = plain_angles(model, count)
    start = angles.index(min(angles))
    done = run(model, watcher=watcher, method="angular_distance", structure="blocks", sparsity=count / 5)
    assert done.removed == tuple(range(start, start + count))
    assert any(f"{min(angles):.4f}; the most: {max(angles):.4f}" in said.text for said in watcher.heard)


def test_a_protected_block_breaks_the_runs_through_it():
    angles = plain_angles(llama(), 2)
    starts = [start for start in range(4) if start not in (1, 2)]
    done = run(llama(), method="angular_distance", structure="blocks", sparsity=0.4, protect=["blocks.2"])
    assert done.removed[0] == min(starts, key=angles.__getitem__)
    with pytest.raises(RecipeError, match="neighbouring"):
        run(llama(), method="angular_distance", structure="blocks", sparsity=0.6, protect=["blocks.2"])


def test_angles_worked_by_hand():
    from core.method import get

    turned = [(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (-1.0, 1e-3), (0.0, -1.0)]  # turns of 90, 90, hardly any, 90 degrees
    states, watcher = torch.tensor(turned)[:, None], Silent()
    sizes = {f"blocks.{index}": 1 for index in range(4)}
    given = {"units": tuple(sizes), "sizes": sizes, "count": 1, "last_states": lambda: states, "watcher": watcher}
    assert get("search", "angular_distance")(given) == ["blocks.2"]
    assert "0.0003; the most: 0.5" in watcher.heard[-1].text
    assert get("search", "angular_distance")(given | {"count": 0}) == []
    assert get("search", "angular_distance")(given | {"count": 4}) == list(sizes)
