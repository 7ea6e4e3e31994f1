"""The steps of a model run: what is refused before anything changes, what is kept when a later step fails, what the report adds up to."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from core import folder
from core.errors import ModelError, Stopped
from core.events import Silent
from core.model import blocks
from core.model.loading import from_module, load
from core.model.steps import run_model
from core.recipe import parse
from core.run import Clock

from . import tiny_models

CALIBRATION = {"samples": 2, "tokens": 16}


def recipe(*steps, **more):
    return parse({"recipe": 1, "name": "x", "model": {"source": "x"}, "calibration": CALIBRATION, "steps": list(steps), **more})


def loaded(model=None, tokenizer=True):
    out = from_module(model or tiny_models.llama(), "tiny")
    out.tokenizer = tiny_models.tokenizer() if tokenizer else None
    return out


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 40)
    return {"calibration": {**CALIBRATION, "source": str(path)}}


def run(model, asked, tmp_path, watcher=None):
    path = folder.create(tmp_path / "run")
    return run_model(asked, path, watcher or Silent(), model, Clock()), path


@pytest.mark.quick
def test_recovery_without_a_tokenizer_is_refused_before_a_weight_is_pruned(tmp_path):
    model = loaded(tokenizer=False)
    before = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    asked = recipe({"prune": {"method": "magnitude", "sparsity": 0.5}}, {"recover": {"method": "lora"}})
    with pytest.raises(ModelError, match="no tokenizer"):
        run(model, asked, tmp_path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.model.state_dict().items())


class StopsIn(Silent):
    """Asks for a stop once a stage of that name has begun."""

    def __init__(self, stage: str) -> None:
        super().__init__()
        self.stage = stage

    def say(self, progress) -> None:
        super().say(progress)
        self.stop = self.stop or progress.stage == self.stage


@pytest.mark.quick
def test_a_stop_during_recovery_keeps_the_mask_of_the_prune_step(text, tmp_path):
    asked = recipe(
        {"prune": {"method": "magnitude", "sparsity": 0.5}}, {"recover": {"method": "lora", "steps": 5, "tokens": 16}}, **text
    )
    with pytest.raises(Stopped):
        run(loaded(), asked, tmp_path, StopsIn("recover"))
    masks = load_file(tmp_path / "run" / folder.MASK)
    assert len(masks) == 14 and all(abs(float(mask.float().mean()) - 0.5) < 0.02 for mask in masks.values())


@pytest.mark.quick
def test_all_parameters_counts_what_is_zero_at_the_end_of_prune_recover_prune(text, tmp_path):
    asked = recipe(
        {"prune": {"method": "magnitude", "sparsity": 0.3}},
        {"recover": {"method": "lora", "steps": 2, "batch": 1, "tokens": 16}},
        {"prune": {"method": "magnitude", "sparsity": 0.6}},
        **text,
    )
    fields, _ = run(loaded(), asked, tmp_path)
    dense, last = fields["dense"], fields["pruned"]
    assert fields["sparsity"]["all_parameters"] == 1 - last.nonzero / dense.parameters
    assert abs(fields["sparsity"]["pruned_layers"] - 0.6) < 0.02, "the second share is over all weights, the first ones included"


@pytest.mark.quick
def test_a_tokenizer_of_another_model_is_named_with_both_numbers(text, tmp_path):
    model = loaded(tiny_models.llama(vocab_size=60))
    with pytest.raises(ModelError, match="embeddings for 60 tokens only"):
        run(model, recipe({"prune": {"method": "wanda", "sparsity": 0.5}}, **text), tmp_path)


@pytest.mark.quick
def test_blocks_that_are_handed_something_of_the_text_are_refused():
    model = tiny_models.llama()
    rotary = model.model.rotary_emb.forward

    def of_the_text(hidden, *args, **kwargs):
        cos, sin = rotary(hidden, *args, **kwargs)
        return cos + hidden.mean(), sin

    model.model.rotary_emb.forward = of_the_text
    ids = torch.randint(0, 300, (3, 16), generator=torch.Generator().manual_seed(0))
    with pytest.raises(ModelError, match="depends on the text"):
        blocks.arguments(from_module(model, "tiny"), ids)


@pytest.mark.quick
def test_a_model_ruined_by_pruning_has_an_infinite_cost_and_no_error():
    from core.model.measuring.quality import _exp

    assert _exp(torch.tensor(900.0)) == float("inf") and _exp(torch.tensor(0.0)) == 1.0


def shares(**by_block):
    return {"method": "by_hand", "shares": {f"blocks.{name[1:]}": share for name, share in by_block.items()}}


@pytest.mark.quick
def test_neurons_and_heads_are_named_as_in_the_source_after_blocks_and_cuts_and_weights_before_them(text, tmp_path):
    """Weights, then neurons twice, then a block, then heads: every mask fits the model that is left, every unit has its first number."""
    asked = recipe(
        {"prune": {"method": "magnitude", "sparsity": 0.5}},
        {"prune": {"method": "magnitude", "structure": "neurons", "allocation": shares(b0=0.25, b2=0.5)}},
        {"prune": {"method": "magnitude", "structure": "neurons", "allocation": shares(b2=0.5)}},
        {"prune": {"method": "block_influence", "structure": "blocks", "allocation": shares(b0=1.0)}},
        {"prune": {"method": "flap", "structure": "heads", "allocation": shares(b1=0.5)}},
        {"recover": {"method": "lora", "steps": 2, "batch": 1, "tokens": 16}},
        save={"model": True},
        **text,
    )
    model = tiny_models.llama(layers=3)
    dense = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fields, path = run(loaded(model), asked, tmp_path)
    masks = load_file(path / folder.MASK)
    assert masks["blocks"].tolist() == [False, True, True]
    units = {name: mask for name, mask in masks.items() if name.endswith((".neurons", ".heads"))}
    assert {name: (len(mask), int(mask.sum())) for name, mask in units.items()} == {
        "blocks.1.mlp.neurons": (48, 48),
        "blocks.2.mlp.neurons": (48, 12),
        "blocks.1.attention.heads": (2, 2),
        "blocks.2.attention.heads": (2, 1),
    }
    up = model.get_submodule("model.layers.1.mlp.up_proj").weight
    mask = masks["model.layers.1.mlp.up_proj.weight"]
    assert mask.shape == up.shape == (12, 32) and (up.detach()[~mask] == 0).all()
    assert abs(float(mask.float().mean()) - 0.5) < 0.2
    left = dense["model.layers.2.mlp.down_proj.weight"][
        :, units["blocks.2.mlp.neurons"]
    ]  # block 2 of the source is the second left
    kept = masks["model.layers.1.mlp.down_proj.weight"]
    assert kept.shape == left.shape and float(left[kept].abs().min()) >= float(left[~kept].abs().max())
    assert fields["sparsity"]["neurons"] == 1 - 60 / 96 and fields["sparsity"]["heads"] == 0.25
    assert [step.get("removed_units") for step in fields["steps"]] == [None, 36, 12, None, 1, None]
    first, last = fields["dense"], fields["recovered"]
    assert all(getattr(last, name) < getattr(first, name) for name in ("parameters", "nonzero", "size_bytes", "flops_per_token"))
    rows = pd.read_parquet(path / folder.LAYERS).set_index("name")
    assert rows.loc["blocks.1.attention", ["asked", "sparsity"]].tolist() == [0.5, 0.5]
    again = load(str(path / folder.MODEL)).model
    ids = torch.arange(1, 17)[None]
    with torch.no_grad():
        assert (again(ids).logits - model(ids).logits).abs().max() <= 1e-5


@pytest.mark.quick
def test_gpt2s_turned_layers_keep_their_masks_when_neurons_go_after_weights(text, tmp_path):
    asked = recipe(
        {"prune": {"method": "magnitude", "sparsity": 0.5}},
        {"prune": {"method": "magnitude", "structure": "neurons", "sparsity": 0.5}},
    )
    model = tiny_models.gpt2()
    _, path = run(loaded(model), asked, tmp_path)
    masks = load_file(path / folder.MASK)
    for name in ("c_fc", "c_proj"):
        weight, mask = (
            model.get_submodule(f"transformer.h.0.mlp.{name}").weight.detach(),
            masks[f"transformer.h.0.mlp.{name}.weight"],
        )
        assert mask.shape == weight.shape and torch.equal(weight != 0, mask)


@pytest.mark.quick
def test_a_merged_block_forgets_the_mask_that_it_had_and_the_others_keep_theirs(text, tmp_path):
    model = loaded(tiny_models.llama(4))
    asked = recipe(
        {"prune": {"method": "magnitude", "sparsity": 0.5}},
        {"prune": {"method": "laco", "structure": "blocks", "sparsity": 0.25, "params": {"together": 2, "threshold": -1.0}}},
        {"recover": {"method": "lora", "steps": 1, "tokens": 16}},
        **text,
    )
    fields, path = run(model, asked, tmp_path)
    masks = load_file(path / folder.MASK)
    assert fields["steps"][1]["merges"][0]["into"] == 2 and fields["steps"][1]["removed_blocks"] == ["blocks.3"]
    named = {name.split(".")[2] for name in masks if name.startswith("model.layers.")}
    assert named == {"0", "1"} and masks["blocks"].tolist() == [True, True, True, False]


@pytest.mark.quick
def test_a_solver_after_another_step_then_recovery_keeps_every_zero_and_the_report_is_true(text, tmp_path):
    asked = recipe(
        {"prune": {"method": "magnitude", "sparsity": 0.5}},
        {"prune": {"method": "sparsegpt", "sparsity": 0.5}},
        {"recover": {"method": "lora", "steps": 2, "batch": 1, "tokens": 16}},
        **text,
    )
    model = loaded()
    fields, _ = run(model, asked, tmp_path)
    masks = load_file(tmp_path / "run" / folder.MASK)
    zeros = sum(int((model.model.get_parameter(name) == 0).sum()) for name in masks)
    assert fields["sparsity"]["pruned_layers"] == pytest.approx(zeros / sum(mask.numel() for mask in masks.values()), abs=1e-3)


@pytest.mark.quick
def test_sublayers_after_uneven_neurons_are_saved_and_load(text, tmp_path):
    shares = {"blocks.0.mlp": 0.5}
    asked = recipe(
        {"prune": {"method": "magnitude", "structure": "neurons", "allocation": {"method": "by_hand", "shares": shares}}},
        {
            "prune": {
                "method": "random",
                "structure": "sublayers",
                "allocation": {"method": "by_hand", "shares": {"blocks.0.mlp": 1.0}},
            }
        },
        save={"model": True},
        **text,
    )
    fields, path = run(loaded(), asked, tmp_path)
    assert fields["protocol"]["saved"]["loads_with"] == "Prunarium"
    assert (path / folder.MODEL / "config.json").exists()


@pytest.mark.quick
def test_after_the_vocabulary_went_text_is_read_with_the_new_tokenizer(text, tmp_path):
    model = load("builtin:tiny-llama")
    asked = recipe(
        {"prune": {"method": "unused_tokens", "structure": "vocabulary", "sparsity": 0.5}},
        {"prune": {"method": "wanda", "sparsity": 0.2}},
        measure={"perplexity": {"source": text["calibration"]["source"], "samples": 2, "tokens": 16}},
        **text,
    )
    fields, path = run(model, asked, tmp_path)
    assert fields["steps"][0]["rows_after"] == 2048 and fields["pruned"].parameters < fields["dense"].parameters
    assert fields["pruned"].perplexity < 10 * fields["dense"].perplexity  # old ids would name other tokens, or none
    assert len(load_file(path / folder.SCORES)["vocabulary"]) == 4096


@pytest.mark.quick
def test_memory_that_runs_out_is_told_from_other_failures():
    from core.errors import out_of_memory

    def refused() -> BaseException:
        try:
            torch.empty(2**60)
        except RuntimeError as error:
            return error
        raise AssertionError("there is no such machine")

    assert (
        out_of_memory(refused()) and out_of_memory(MemoryError()) and out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    )
    assert not out_of_memory(RuntimeError("size of tensor a (192) must match"))
