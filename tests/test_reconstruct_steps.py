"""Reconstruct steps of a run: from a folder to the saved model, what the report says, and what is refused before anything is measured."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from core import folder
from core.errors import ModelError, PrunariumError
from core.events import Silent
from core.model.loading import from_module, load
from core.recipe import parse
from core.run import run
from tests import tiny_models

pytestmark = pytest.mark.quick
WANDA = {"prune": {"method": "wanda", "sparsity": 0.5}}
NEURONS = {"prune": {"method": "magnitude", "structure": "neurons", "sparsity": 0.25}}


def refit(method, **params):
    return {"reconstruct": {"method": method, "params": params}}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    place = tmp_path_factory.mktemp("model")
    tiny_models.llama().save_pretrained(place / "llama")
    tiny_models.tokenizer().save_pretrained(place / "llama")
    (place / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 60)
    return place


def carried_out(source, tmp_path, *steps, name="run", save=True, model="llama"):
    text = {"source": str(source / "text.txt"), "samples": 4, "tokens": 16}
    asked = parse({"recipe": 1, "name": "x", "model": {"source": str(source / model)}, "calibration": text, "steps": list(steps),
                   "measure": {"perplexity": text | {"samples": 2}}, "save": {"model": save}})  # fmt: skip
    return run(asked, tmp_path / name, Silent()), tmp_path / name


def test_dsnot_then_admm_leave_the_mask_that_the_file_says_and_the_same_bits_again(source, tmp_path):
    steps = (WANDA, refit("dsnot", threshold=0.0), refit("admm"))
    report, place = carried_out(source, tmp_path, *steps)
    _, again = carried_out(source, tmp_path, *steps, name="again")
    saved = load(str(place / folder.MODEL)).model
    masks = load_file(place / folder.MASK)
    assert masks and all(torch.equal(saved.get_parameter(name) != 0, mask) for name, mask in masks.items())
    assert [step["nonzero_after"] for step in report.steps] == [report.steps[0]["nonzero_after"]] * 3
    assert report.steps[2]["output_error_after"] < report.steps[2]["output_error_before"]
    assert len(report.steps[2]["refitted"]) == 14
    assert (place / folder.MODEL / "model.safetensors").read_bytes() == (again / folder.MODEL / "model.safetensors").read_bytes()
    assert (place / folder.MASK).read_bytes() == (again / folder.MASK).read_bytes()


def test_after_neurons_went_least_squares_loads_natively_and_with_biases_with_prunarium(source, tmp_path):
    report, place = carried_out(source, tmp_path, NEURONS, refit("least_squares"))
    assert report.protocol["saved"]["loads_with"] == "from_pretrained"
    report, place = carried_out(source, tmp_path, NEURONS, refit("least_squares", intercept=True), name="biased")
    assert report.steps[1]["biases_added"] == 4 and report.protocol["saved"]["loads_with"] == "Prunarium"
    assert load(str(place / folder.MODEL)).model.model.layers[0].mlp.down_proj.bias is not None


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ((refit("admm"), WANDA), "no step before it leaves one"),
        ((NEURONS, refit("dsnot")), "no step before it leaves one"),
        (({"prune": {"method": "wanda", "structure": "2:4", "sparsity": 0.5}}, refit("dsnot")), "would break the pattern"),
        (
            ({"prune": {"method": "unused_tokens", "structure": "vocabulary", "sparsity": 0.2}}, refit("least_squares")),
            "reads other ids",
        ),
        (({"prune": {"method": "magnitude", "structure": "slices", "sparsity": 0.2}}, refit("least_squares")), "slices"),
        ((WANDA, refit("bias_compensation"), refit("admm")), "begins at the dense weights"),
        (
            (WANDA, {"recover": {"method": "lora", "steps": 1, "batch": 1, "tokens": 16}}, refit("dsnot")),
            "begins at the dense weights",
        ),
        ((WANDA, refit("admn")), "admn"),
        ((WANDA, refit("admm", rounds=0)), "rounds must lie between 1 and 200"),
        ((WANDA, {"reconstruct": {"method": "admm"}, "recover": {"method": "lora"}}), "exactly one of"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_measured(source, tmp_path, steps, told):
    with pytest.raises(PrunariumError) as failed:
        carried_out(source, tmp_path, *steps, save=False)
    assert told in str(failed.value) and not (tmp_path / "run" / folder.MASK).exists()


def test_a_module_in_memory_has_no_dense_model_to_compare_with(source):
    from core.model.reconstructing.step import opener

    with pytest.raises(ModelError, match="must be in a folder"):
        opener(from_module(tiny_models.llama(), "here"))()
