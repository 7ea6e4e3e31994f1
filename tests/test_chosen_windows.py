"""Calibration windows chosen by a selector: windows of the text, as many as asked, the same again; and what that changes in the masks can be seen."""

import numpy as np
import pytest
import torch

from core import compare, recipe, sweep
from core.catalogue import resolve, resolved_choice
from core.data.chosen_windows import chosen_windows
from core.errors import DataError, ModelError, PrunariumError, RecipeError
from core.events import Silent
from core.model.inputs.text import token_ids
from core.model.loading import load
from core.model.steps import calibration_inputs
from core.recipe import Choose, Text
from core.run import run
from studio.charts import compare as charts
from studio.rooms.compare import sweeping

TEXT = "The {0} of the north was {1} in the year {2} . It {3} the river and the old {0} again .\n"


@pytest.fixture(scope="module")
def llama():
    return load("builtin:tiny-llama")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """400 lines that are nearly alike, and seven of another kind."""
    lines = [TEXT.format("king", "born", at, "saw") for at in range(400)]
    lines[50::50] = [f"Protein number {at} binds to the receptor of cells .\n" for at in range(len(lines[50::50]))]
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("".join(lines))
    return str(file)


def asked(source, method, **more):
    return Text(source=source, samples=6, tokens=16, choose=Choose(method=method, **more))


def test_they_are_windows_of_the_text_as_many_as_asked_and_the_same_again(llama, written):
    ids = np.asarray(token_ids(written, llama.tokenizer))
    every = {tuple(ids[at : at + 16]) for at in range(len(ids) - 15)}
    found = {}
    for method in ("random", "k_center", "herding", "typicality"):
        found[method] = calibration_inputs(llama, asked(written, method), 0)
        assert found[method].shape == (6, 16) and all(tuple(row.tolist()) in every for row in found[method])
        assert torch.equal(found[method], calibration_inputs(llama, asked(written, method), 0))
    assert not torch.equal(found["random"], found["k_center"])
    assert not torch.equal(found["k_center"], calibration_inputs(llama, asked(written, "k_center"), 1))
    assert calibration_inputs(llama, Text(source=written, samples=6, tokens=16), 0).shape == (
        6,
        16,
    )  # chance as ever, where nothing is said


def test_two_choices_are_laid_over_each_other_in_compare(tmp_path, written):
    sides = []
    for method in ("random", "k_center"):
        whole = {
            "recipe": 1, "name": method, "model": {"source": "builtin:tiny-llama"},
            "calibration": {"source": written, "samples": 4, "tokens": 16, "choose": {"method": method}},
            "steps": [{"prune": {"method": "wanda", "sparsity": 0.5}}],
        }  # fmt: skip
        run(recipe.parse(whole), tmp_path / method, Silent())
        sides.append(compare.side(tmp_path / method, method))
    picture = charts.overlap(sides)
    assert picture.finding.startswith("A and B share ") and "chance would give 33 %" in picture.finding
    assert 0.4 < np.mean([float(row[2]) for row in picture.rows]) < 1


@pytest.mark.quick
def test_the_form_sweeps_over_who_chooses():
    text = sweeping.form_yaml("builtin:tiny-llama", ["wanda"], "50", "decoder", ["random", "k_center"])
    cells = sweep.from_yaml(text).cells
    assert [cell.recipe.calibration.choose.method for cell in cells] == ["random", "k_center"]
    assert "choose" not in sweeping.form_yaml("builtin:tiny-llama", ["wanda"], "50", "decoder")


@pytest.mark.quick
@pytest.mark.parametrize(("choose", "sentence"), [
    ({"method": "k_centre"}, "Did you mean 'k_center'"),
    ({"method": "el2n"}, "windows of a text have none"),
    ({"method": "damage"}, "sets a pruned model beside"),
    ({"method": "k_center", "embedding": "tfdif"}, "tfdif"),
    ({"method": "k_center", "params": {"nope": 1}}, "no parameter 'nope'"),
])  # fmt: skip
def test_a_choice_that_cannot_be_is_refused_before_the_run(choose, sentence):
    step = {"prune": {"method": "wanda", "sparsity": 0.5}}
    whole = {
        "recipe": 1,
        "name": "c",
        "model": {"source": "builtin:tiny-llama"},
        "calibration": {"choose": choose},
        "steps": [step],
    }
    with pytest.raises(RecipeError, match=sentence) as raised:
        resolve(recipe.parse(whole))
    assert raised.value.remedy


def test_a_text_too_short_and_a_model_of_images_are_told_so(llama, tmp_path):
    (tmp_path / "short.txt").write_text("one two three")
    with pytest.raises(DataError, match="places for a window") as raised:
        chosen_windows(asked(str(tmp_path / "short.txt"), "k_center"), llama, 0)
    assert raised.value.remedy
    with pytest.raises(ModelError, match="drawn by chance"):
        calibration_inputs(load("builtin:tiny-cnn"), asked("builtin:mnist5k/train", "k_center"), 0)
    whole = {
        "recipe": 1,
        "name": "c",
        "model": {"source": "builtin:tiny-llama"},
        "steps": [{"recover": {"method": "lora", "data": {"choose": {"method": "random"}}}}],
    }
    with pytest.raises(PrunariumError, match="nothing to choose"):
        resolve(recipe.parse(whole))
    assert resolved_choice(Choose(method="k_center")).selector == "k_center"
