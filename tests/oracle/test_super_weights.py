"""Super weights: found where they were planted, and kept by a prune step that is told to."""

from __future__ import annotations

import copy

import pytest
import torch

from core.errors import ModelError, RecipeError
from core.events import Silent
from core.model.loading import from_module
from core.model.looking.super_weights import find_super_weights
from core.model.pruning.step import prune
from core.recipe import parse
from tests import tiny_models

pytestmark = pytest.mark.quick
IDS = torch.randint(0, 300, (9, 16), generator=torch.Generator().manual_seed(3))
LAYER, PATH = "blocks.1.mlp.down_proj", "model.layers.1.mlp.down_proj"


def planted(*places: tuple[int, int]) -> torch.nn.Module:
    """A tiny Llama in whose second block inputs of the down projection spike to 200, and single weights carry them into single outputs."""
    model, seen = tiny_models.llama(3), []
    mlp = model.model.layers[1].mlp
    handle = mlp.down_proj.register_forward_pre_hook(lambda m, args: seen.append(args[0].abs().flatten(0, 1).max(0).values))
    with torch.no_grad():
        model(IDS)
        handle.remove()
        for number, (row, column) in enumerate(places):
            mlp.up_proj.weight[column] *= 200 / seen[0][column]
            mlp.down_proj.weight[row, column] = 5.0 + number
    return model


def run(model, watcher=None, **fields):
    step = parse({"recipe": 1, "name": "x", "model": {"source": "x"}, "steps": [{"prune": fields}]}).steps[0].prune
    return prune(from_module(model, "tiny"), step, lambda: IDS, 0, watcher or Silent())


@pytest.mark.parametrize("places", [[(7, 11)], [(7, 11), (20, 40)]])
def test_a_planted_weight_is_found_with_its_spikes(places):
    model = planted(*places)
    seen = []
    model.get_submodule(PATH).register_forward_hook(lambda m, args, out: seen.append((args[0], out)))
    with torch.no_grad():
        model(IDS)
    inputs, outputs = seen[0]
    threshold = 50.0
    found = find_super_weights(from_module(model, "tiny"), IDS)
    assert {(spike.row, spike.column) for spike in found} == set(places) and {spike.layer for spike in found} == {LAYER}
    for spike in found:
        token = outputs[..., spike.row].abs().flatten().argmax()
        assert spike.output == pytest.approx(float(outputs[..., spike.row].flatten()[token]), rel=1e-4)
        assert spike.input == pytest.approx(float(inputs[..., spike.column].flatten()[token]), rel=1e-4)
        assert abs(spike.output) > threshold and abs(spike.input) > threshold
        parts = (model.get_submodule(PATH).weight[spike.row] * inputs.flatten(0, 1)[token]).abs()
        assert int(parts.argmax()) == spike.column
    sizes = [abs(spike.output) for spike in found]
    assert sizes == sorted(sizes, reverse=True)


def test_a_model_without_spikes_has_none_and_a_higher_threshold_finds_fewer():
    assert find_super_weights(from_module(tiny_models.llama(3), "tiny"), IDS) == ()
    loaded = from_module(planted((7, 11)), "tiny")
    counts = [len(find_super_weights(loaded, IDS, threshold)) for threshold in (2.0, 50.0, 1e9)]
    assert counts[0] > counts[1] == 1 and counts[2] == 0


@pytest.mark.parametrize("fields", [{"method": "random", "sparsity": 0.99}, {"method": "random", "sparsity": 1.0}, {"method": "random", "structure": "1:8"},
                                    {"method": "wanda", "sparsity": 0.5}])  # fmt: skip
def test_protected_super_weights_stay_and_others_go_in_their_place(fields):
    loaded = from_module(planted((7, 11), (20, 40)), "tiny")
    spikes = find_super_weights(loaded, IDS[:8])
    assert {(7, 11), (20, 40)} == {(spike.row, spike.column) for spike in spikes}
    watcher = Silent()
    plain, kept = run(copy.deepcopy(loaded.model), **fields), run(loaded.model, watcher, protect=["super_weights"], **fields)
    before, after = plain.masks[PATH].unpack(), kept.masks[PATH].unpack()
    for spike in spikes:
        assert after[spike.row, spike.column]
        assert float(loaded.module(PATH).weight.detach()[spike.row, spike.column]) == spike.weight
    if fields["method"] == "random":
        assert not before[7, 11] or not before[20, 40]
    if fields.get("sparsity") != 1.0:
        assert before.sum() == after.sum()  # the share is met all the same
    assert (
        all(torch.equal(plain.masks[name].unpack(), kept.masks[name].unpack()) for name in plain.masks if name != PATH)
        or fields["method"] == "wanda"
    )
    said = next(said.text for said in watcher.heard if said.kind == "note")
    assert said.startswith("Super weights kept: ") and f"{LAYER}[7, 11]" in said


def test_protection_goes_together_with_names_and_says_when_there_is_nothing_to_keep():
    watcher = Silent()
    done = run(tiny_models.llama(3), watcher, method="magnitude", sparsity=0.5, protect=["super_weights", "blocks.0"])
    assert {row.name.split(".")[1] for row in done.rows} == {"1", "2"}
    assert "No super weight was found" in next(said.text for said in watcher.heard if said.kind == "note")


def test_where_it_cannot_be_it_is_refused_before_anything_changes():
    model = planted((7, 11))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RecipeError, match="cannot be protected from it"):
        run(model, method="sparsegpt", sparsity=0.5, protect=["super_weights"])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    with pytest.raises(ModelError, match="No layer that leads out of an MLP"):
        find_super_weights(from_module(tiny_models.resnet(), "tiny"), torch.randn(2, 1, 8, 8))
