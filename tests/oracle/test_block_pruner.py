"""BlockPruner and other ways to choose sub-layers, against a plain search over copies; runs of several steps with sub-layers gone."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import BloomConfig, BloomForCausalLM

from core import folder
from core.errors import ModelError, RecipeError, Stopped
from core.events import Silent
from core.model import blocks
from core.model.depth.gone import Gone
from core.model.depth.sublayers import sublayer_units
from core.model.files.export import save
from core.model.loading import from_module, load
from core.model.measuring.counts import flops_per_token
from core.model.pruning.step import prune
from core.model.steps import run_model
from core.recipe import parse
from core.run import Clock
from tests import tiny_models
from tests.model_folders import tiny
from tests.oracle.test_sublayers import logits, zeroed

pytestmark = pytest.mark.quick
IDS = torch.randint(0, 96, (7, 12), generator=torch.Generator().manual_seed(3))


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(blocks, "BATCH_TOKENS", 36)


def step(**fields):
    fields = {"structure": "sublayers", **fields}
    return parse({"recipe": 1, "name": "x", "model": {"source": "x"}, "steps": [{"prune": fields}]}).steps[0].prune


def run(model, ids=IDS, watcher=None, **fields):
    return prune(from_module(model, "tiny"), step(**fields), lambda: ids, 0, watcher or Silent())


def unlike(layers: int = 3):
    """A Llama whose sub-layers matter differently."""
    model = tiny_models.llama(layers)
    for index, block in enumerate(model.model.layers):
        block.mlp.down_proj.weight.data *= (40, 3, 15, 1)[index]
        block.self_attn.o_proj.weight.data *= (5, 60, 1, 12)[index]
    return model


def plain_loss(model) -> float:
    with torch.no_grad():
        found = model(input_ids=IDS, use_cache=False).logits
    return float(cross_entropy(found[:, :-1].flatten(0, 1).double(), IDS[:, 1:].flatten()))


def plain_block_pruner(model, share: float, may_go) -> tuple[list[str], list[float]]:
    """Each round, every sub-layer that brings the parameters removed nearer to the share is zeroed in a copy that reads all the text."""
    sizes = {}
    for index, block in enumerate(model.model.layers):
        parts = (("attention", block.self_attn, block.input_layernorm), ("mlp", block.mlp, block.post_attention_layernorm))
        sizes |= {f"blocks.{index}.{name}": sum(p.numel() for m in modules for p in m.parameters()) for name, *modules in parts}
    target, gone, losses = share * sum(sizes.values()), [], []
    while len(gone) < len(sizes) - 1:
        removed = sum(sizes[name] for name in gone)
        tried = {}
        for name in may_go:
            if name not in gone and abs(removed + sizes[name] - target) < abs(removed - target):
                tried[name] = plain_loss(zeroed(model, "llama", [*gone, name]))
        if not tried:
            break
        gone.append(min(tried, key=tried.__getitem__))
        losses.append(tried[gone[-1]])
    return gone, losses


ALL = [f"blocks.{index}.{part}" for index in range(3) for part in ("attention", "mlp")]


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 1.0])
def test_block_pruner_equals_a_plain_search(share):
    model = unlike()
    order, losses = plain_block_pruner(model, share, ALL)
    done = run(model, method="block_pruner", sparsity=share)
    assert done.said["removed_in_order"] == order and order
    assert done.said["loss_after_each"] == pytest.approx(losses, abs=1e-5)
    assert plain_loss(model) == pytest.approx(losses[-1], abs=1e-5)
    assert len(order) == 5 if share == 1.0 else len(order) < 5
    removed = sum(row.parameters for row in done.rows if row.sparsity)
    assert abs(removed / sum(row.parameters for row in done.rows) - share) < (0.11 if share < 1 else 0.21)
    assert [row.name for row in done.rows] == ALL


def test_only_and_protect_choose_sublayers():
    order, _ = plain_block_pruner(unlike(), 0.4, [name for name in ALL if name.endswith("mlp")])
    assert run(unlike(), method="block_pruner", sparsity=0.4, only=["*.mlp"]).said["removed_in_order"] == order
    order, _ = plain_block_pruner(unlike(), 0.4, [name for name in ALL if not name.startswith("blocks.1")])
    assert run(unlike(), method="block_pruner", sparsity=0.4, protect=["blocks.1"]).said["removed_in_order"] == order
    for path in ("model.layers.1", "model.layers.1.*"):
        assert run(unlike(), method="block_pruner", sparsity=0.4, protect=[path]).said["removed_in_order"] == order
    with pytest.raises(RecipeError, match="sub-layer"):
        run(unlike(), method="block_pruner", sparsity=0.4, only=["blocks.7"])


def test_one_shot_and_random_and_by_hand_take_sublayers():
    model = unlike()
    alone = {name: plain_loss(zeroed(model, "llama", [name])) for name in ALL}
    done = run(model, method="one_shot_loss", sparsity=0.5)
    assert done.said["removed_in_order"] == sorted(ALL, key=alone.__getitem__)[:3]
    drawn = [run(unlike(), ids=None, method="random", sparsity=0.34).said["removed_in_order"] for _ in range(2)]
    assert drawn[0] == drawn[1] and len(drawn[0]) == 2
    by_hand = {"method": "by_hand", "shares": {"blocks.1": 1.0, "blocks.1.mlp": 0.0, "blocks.2.mlp": 1.0}}
    done = run(unlike(), ids=None, method="block_pruner", allocation=by_hand)
    assert done.said["removed_in_order"] == ["blocks.1.attention", "blocks.2.mlp"]
    with pytest.raises(ModelError, match="All 6 sublayers"):
        everything = {"method": "by_hand", "shares": dict.fromkeys(ALL, 1.0)}
        run(unlike(), ids=None, method="block_pruner", allocation=everything)


def test_a_stop_between_two_evaluations_leaves_the_model_as_it_was():
    class Soon(Silent):
        def say(self, progress):
            super().say(progress)
            self.stop = progress.done == 3

    model = unlike()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(Stopped):
        run(model, watcher=Soon(), method="block_pruner", sparsity=0.5)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any("forward" in vars(module) or isinstance(module, Gone) for module in model.modules())


def test_a_second_step_finds_what_is_left_and_blocks_keep_their_numbers(tmp_path):
    model = unlike(4)
    first = run(
        model, method="random", allocation={"method": "by_hand", "shares": {"blocks.1.attention": 1.0, "blocks.2.mlp": 1.0}}
    )
    left = sublayer_units(first.loaded)
    assert [name for name in left if name[7] in "12"] == ["blocks.1.mlp", "blocks.2.attention"] and len(left) == 6
    second = prune(
        first.loaded, step(method="sleb", structure="blocks", sparsity=0.25, only=["blocks.0"]), lambda: IDS, 0, Silent()
    )
    assert second.removed == (0,)
    assert set(model.config.prunarium["without"]) == {"model.layers.0.self_attn", "model.layers.0.input_layernorm", "model.layers.1.mlp",
                                                      "model.layers.1.post_attention_layernorm"}  # fmt: skip
    save(second.loaded, tmp_path / "model")
    assert torch.equal(logits(load(str(tmp_path / "model")).model, IDS), logits(model, IDS))
    third = prune(
        second.loaded, step(method="sleb", structure="blocks", sparsity=0.67, protect=["blocks.2"]), lambda: IDS, 0, Silent()
    )
    assert third.removed == (0, 1) and not hasattr(model.config, "prunarium")
    save(third.loaded, tmp_path / "whole")
    transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "whole")  # nothing is missing any more


def test_a_run_with_masks_before_and_recovery_after(tmp_path):
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 40)
    calibration = {"samples": 2, "tokens": 16, "source": str(tmp_path / "text.txt")}
    parts = {"method": "block_pruner", "structure": "sublayers", "sparsity": 0.3, "protect": ["blocks.0"]}
    steps = [{"prune": {"method": "magnitude", "sparsity": 0.5}}, {"prune": parts},
             {"prune": {"method": "sleb", "structure": "blocks", "sparsity": 0.34, "only": ["blocks.0"]}},
             {"recover": {"method": "lora", "steps": 2, "batch": 1, "tokens": 16}}]  # fmt: skip
    asked = parse(
        {"recipe": 1, "name": "x", "model": {"source": "x"}, "calibration": calibration, "steps": steps, "save": {"model": True}}
    )
    loaded = from_module(unlike(), "tiny")
    loaded.tokenizer, path = tiny_models.tokenizer(), folder.create(tmp_path / "run")
    dense_flops = flops_per_token(loaded)
    fields = run_model(asked, path, Silent(), loaded, Clock())
    masks = load_file(path / folder.MASK)
    gone = fields["steps"][1]["removed_in_order"]
    assert masks["blocks"].tolist() == [False, True, True]
    for name in ALL:
        if f"blocks.{name.rpartition('.')[2]}" in masks:
            assert bool(masks[f"blocks.{name.rpartition('.')[2]}"][int(name[7])]) == (name not in gone)
    assert gone and fields["sparsity"]["sublayers"] == len(gone) / 6
    again = load(str(path / folder.MODEL))
    weights = {f"{layer.path}.weight" for layer in again.anatomy.layers}
    assert {name for name in masks if not name.startswith("blocks")} == weights
    assert flops_per_token(again) < dense_flops and fields["recovered"].parameters < fields["dense"].parameters
    assert "loads with Prunarium" in (path / folder.MODEL / "README.md").read_text()


def test_families_whose_sublayers_cannot_be_told_are_refused():
    bloom = BloomForCausalLM(BloomConfig(hidden_size=32, n_layer=2, n_head=4, vocab_size=96)).eval()
    for model in (bloom, tiny("mixtral")):  # Bloom adds the residual inside; Mixtral's experts are one tensor
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(ModelError, match="not a part that can be taken out"):
            run(model, method="random", sparsity=0.5)
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    with pytest.raises(ModelError, match="width and resolution"):
        run(tiny("resnet"), method="random", sparsity=0.5)
