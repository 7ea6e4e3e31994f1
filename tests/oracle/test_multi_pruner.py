"""MultiPruner against a plain search: every candidate silenced in a copy of the whole model, losses by whole forwards."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from core import folder
from core.catalogue import load as cards
from core.catalogue import resolve
from core.errors import ModelError, RecipeError
from core.events import Silent
from core.model import blocks
from core.model.files.export import save
from core.model.loading import from_module, load
from core.model.pruning.step import prune
from core.model.steps import run_model
from core.recipe import parse
from core.run import Clock
from tests import tiny_models
from tests.model_folders import inputs, tiny
from tests.oracle.test_block_pruner import unlike

pytestmark = pytest.mark.quick
IDS = torch.randint(0, 300, (7, 12), generator=torch.Generator().manual_seed(3))
HEAD = 8


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(blocks, "BATCH_TOKENS", 36)


def recipe(**fields):
    prune_ = {"method": "multi_pruner", "structure": "mixed", **fields}
    return parse({"recipe": 1, "name": "x", "model": {"source": "x"}, "steps": [{"prune": prune_}]})


def run(model, ids=IDS, watcher=None, **fields):
    return prune(from_module(model, "tiny"), recipe(**fields).steps[0].prune, lambda: ids, 0, watcher or Silent())


def plain_loss(model) -> float:
    with torch.no_grad():
        logits = model(input_ids=IDS, use_cache=False).logits
    return float(cross_entropy(logits[:, :-1].flatten(0, 1).double(), IDS[:, 1:].flatten()))


def silence(model, name: str, bites: dict[str, list[int]]) -> None:
    """Zeros where the sub-layer, neurons or heads are read."""
    _, index, part, *rest = name.split(".")
    block = model.model.layers[int(index)]
    reader = block.mlp.down_proj if part == "mlp" else block.self_attn.o_proj
    if not rest:
        reader.weight.data.zero_()
    for unit in bites.get(name, []):
        width = 1 if part == "mlp" else 2 * HEAD
        reader.weight.data[:, unit * width : (unit + 1) * width] = 0


def plain_bites(model, size: int) -> tuple[dict[str, list[int]], dict[str, int]]:
    """({bite: units}, {sub-layer or bite: parameters})."""
    bites, sizes = {}, {}
    for index, block in enumerate(model.model.layers):
        attention, mlp = block.self_attn, block.mlp
        worth = [
            float((mlp.gate_proj.weight[unit].abs().sum() + mlp.up_proj.weight[unit].abs().sum()).detach()) for unit in range(48)
        ]
        order = sorted(range(48), key=lambda unit: worth[unit])
        for number in range(48 // size - (48 % size == 0)):
            bites[f"blocks.{index}.mlp.neurons.{number}"] = order[number * size : (number + 1) * size]
            sizes[f"blocks.{index}.mlp.neurons.{number}"] = size * 3 * 32
        worth = []
        for unit in range(2):
            rows = [attention.q_proj.weight[unit * 16 : (unit + 1) * 16], attention.k_proj.weight[unit * 8 : (unit + 1) * 8]]
            rows.append(attention.v_proj.weight[unit * 8 : (unit + 1) * 8])
            worth.append(sum(float(part.abs().sum(1).mean()) for part in rows))
        bites[f"blocks.{index}.attention.heads.0"] = [0 if worth[0] <= worth[1] else 1]
        sizes[f"blocks.{index}.attention.heads.0"] = 2 * 16 * 32 + 2 * 8 * 32
        sizes[f"blocks.{index}.attention"] = 2 * 32 * 32 + 2 * 16 * 32 + 32  # and the norm that nothing else reads
        sizes[f"blocks.{index}.mlp"] = 3 * 48 * 32 + 32
    return bites, sizes


def plain_search(model, share: float, parts: tuple[float, float], size: int) -> list[str]:
    bites, sizes = plain_bites(model, size)
    total, gone = sum(parameter.numel() for parameter in model.parameters()), []
    layers = range(len(model.model.layers))
    for kind, limit in (("sublayers", parts[0]), ("neurons", parts[0] + parts[1]), ("heads", 1.0)):
        while sum(sizes[name] for name in gone) < limit * share * total:
            if kind == "sublayers":
                candidates = [f"blocks.{index}.{part}" for part in ("attention", "mlp") for index in layers]
                candidates = [name for name in candidates if name not in gone]
            else:
                part = "mlp" if kind == "neurons" else "attention"
                candidates = []
                for index in layers:
                    left = [name for name in bites if name.startswith(f"blocks.{index}.{part}.") and name not in gone]
                    if f"blocks.{index}.{part}" not in gone and left:
                        candidates.append(left[0])
            if not candidates:
                break
            losses = []
            for name in candidates:
                tried = copy.deepcopy(model)
                for other in (*gone, name):
                    silence(tried, other, bites)
                losses.append(plain_loss(tried))
            gone.append(candidates[losses.index(min(losses))])
    return gone


@pytest.mark.parametrize(
    ("share", "parts", "bite", "size"),
    [
        (0.3, (0.44, 0.52), 0.1, 5),
        (0.25, (0.1, 0.3), 0.25, 12),
        (0.3, (0.0, 0.5), 0.5, 24),
        (0.2, (0.0, 0.0), 0.1, 5),
        (0.3, (1.0, 0.0), 0.1, 5),
    ],
)
def test_what_goes_and_in_which_order_is_what_a_plain_search_finds(share, parts, bite, size):
    model = unlike()
    expected = plain_search(model, share, parts, size)
    bites, _ = plain_bites(model, size)
    silenced = copy.deepcopy(model)
    for name in expected:
        silence(silenced, name, bites)
    done = run(model, sparsity=share, params={"of_sublayers": parts[0], "of_neurons": parts[1], "bite": bite})
    assert done.said["removed_in_order"] == expected and expected
    with torch.no_grad():
        assert torch.allclose(done.loaded.model(IDS).logits, silenced(IDS).logits, atol=1e-4)
    assert done.said["loss_after_each"][-1] == pytest.approx(plain_loss(silenced), abs=1e-5)
    left = sum(parameter.numel() for parameter in done.loaded.model.parameters())
    assert done.said["sparsity"] == pytest.approx(1 - left / sum(parameter.numel() for parameter in unlike().parameters()))


def test_it_saves_loads_and_reports(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("a line of some text, and another. " * 200)
    step = {
        "prune": {
            "method": "multi_pruner",
            "structure": "mixed",
            "sparsity": 0.35,
            "params": {"of_sublayers": 0.3, "of_neurons": 0.4},
        }
    }
    asked = {"recipe": 1, "name": "x", "model": {"source": "x"}, "calibration": {"source": str(text), "samples": 4, "tokens": 16},
             "steps": [{"prune": {"method": "magnitude", "sparsity": 0.3}}, step], "save": {"model": True}}  # fmt: skip
    loaded = from_module(unlike(), "tiny")
    loaded.tokenizer = tiny_models.tokenizer()
    found = run_model(resolve(parse(asked), cards()), tmp_path, Silent(), loaded, Clock())
    masks = load_file(tmp_path / folder.MASK)
    assert {"neurons", "heads", "sublayers"} <= found["sparsity"].keys()
    assert any(name.endswith("mlp.neurons") for name in masks) and any(name.endswith("attention.heads") for name in masks)
    again = load(str(tmp_path / folder.MODEL))
    for name, mask in masks.items():
        if name.startswith("model."):
            assert again.model.get_parameter(name).shape == mask.shape
    dense = sum(parameter.numel() for parameter in unlike().parameters())
    assert found["steps"][1]["sparsity"] == pytest.approx(1 - again.anatomy.parameters / dense)
    assert save(again, tmp_path / "more")["difference"] == 0


def test_a_share_that_cannot_be_met_takes_all_there_is_and_says_so():
    notes = []

    class Notes(Silent):
        def say(self, progress):
            notes.append(progress.text)

    done = run(tiny_models.llama(1), sparsity=0.9, watcher=Notes(), params={"of_sublayers": 0.0, "bite": 0.5})
    assert any("there is nothing left to try" in note for note in notes)
    assert [int(cut.keep.sum()) for cut in done.cuts] == [24, 1]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"params": {"of_sublayers": 0.7, "of_neurons": 0.5}}, "more than the whole share"),
        ({"allocation": {"method": "by_hand", "shares": {"blocks.0": 0.5}}}, "takes no allocation"),
        ({"protect": ["blocks.0"]}, "no part can be chosen"),
    ],
)
def test_what_does_not_fit_is_a_sentence_and_nothing_changed(fields, said):
    model = unlike()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RecipeError, match=said) as error:
        run(model, sparsity=0.3, **fields)
    assert error.value.remedy and all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in before.items())


@pytest.mark.parametrize("family", ["bert", "vit", "resnet", "mixtral", "bart"])
def test_a_model_without_a_loss_or_such_parts_is_refused(family):
    model = tiny(family)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ModelError) as error:
        run(model, ids=inputs(family), sparsity=0.3)
    assert error.value.problem.endswith(".") and error.value.remedy
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in before.items())
