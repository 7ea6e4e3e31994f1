"""A stopped run taken up again comes to the same files, bit for bit, and says what it repeats."""

import json

import pytest
import torch

from core import folder
from core.errors import RecipeError, ResourceError, Stopped
from core.events import Silent
from core.model import resuming
from core.model.circumstances import differences
from core.model.loading import load
from core.recipe import parse, read
from core.run import run

RECIPE = {
    "recipe": 1,
    "name": "stopped",
    "model": {"source": "builtin:tiny-llama"},
    "calibration": {"source": "builtin:wikitext2/valid", "samples": 4, "tokens": 32},
    "steps": [
        {"prune": {"method": "wanda", "sparsity": 0.4}},
        {"recover": {"method": "norms_and_biases", "steps": 3, "batch": 1, "tokens": 32}},
        {"prune": {"method": "sparsegpt", "sparsity": 0.6}},
        {"recover": {"method": "lora", "steps": 4, "batch": 1, "tokens": 32}},
    ],
    "measure": {"perplexity": {"source": "builtin:wikitext2/valid", "samples": 2, "tokens": 32}, "generate": ["The city"]},
}


class StopsAt(Silent):
    """Stops at an item of a stage, counted over all of its kind."""

    def __init__(self, stage, item):
        super().__init__()
        self.stage, self.item = stage, item

    def check(self):
        if sum(told.stage.startswith(self.stage) for told in self.heard) >= self.item:
            raise Stopped


def figures(path):
    report = json.loads((path / folder.REPORT).read_text())
    return {name: value for name, value in report.items() if name not in ("seconds", "peak_rss_mb", "name")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "run"
    run(parse(RECIPE), path, Silent())
    return path


@pytest.mark.parametrize(
    ("stage", "item", "taken"),
    [
        ("recover", 9, "3 of 4 steps"),
        ("recover", 2, "1 of 4 steps"),
        ("prune: wanda", 2, "the dense measurement."),
        ("dense: ", 1, "finished nothing"),
    ],
)
def test_a_run_stopped_anywhere_comes_to_the_same_bits_once_it_is_taken_up(whole, tmp_path, stage, item, taken):
    with pytest.raises(Stopped):
        run(parse(RECIPE), tmp_path / "first", StopsAt(stage, item))
    watcher = Silent()
    run(parse({**RECIPE, "resume": str(tmp_path / "first")}), tmp_path / "second", watcher)
    said = [told.text for told in watcher.heard if told.kind == "note"]
    assert any(taken in words for words in said), said
    assert figures(tmp_path / "second") == figures(whole)
    for name in (folder.MASK, folder.SCORES):
        assert (tmp_path / "second" / name).read_bytes() == (whole / name).read_bytes(), name
    assert not (tmp_path / "second" / folder.RESUME).exists()


def test_another_recipe_is_not_taken_up(whole, tmp_path):
    with pytest.raises(Stopped):
        run(parse(RECIPE), tmp_path / "first", StopsAt("prune: wanda", 1))
    other = {**RECIPE, "seed": 1, "resume": str(tmp_path / "first")}
    with pytest.raises(RecipeError, match="another recipe"):
        run(parse(other), tmp_path / "second", Silent())
    (tmp_path / "first" / folder.RESUME).write_bytes(b"torn")
    with pytest.raises(RecipeError, match="damaged"):
        run(parse({**RECIPE, "resume": str(tmp_path / "first")}), tmp_path / "third", Silent())
    with pytest.raises(RecipeError, match="no run folder"):
        run(parse({**RECIPE, "resume": str(tmp_path / "nowhere")}), tmp_path / "fourth", Silent())


def test_a_run_begun_otherwise_is_not_taken_up(tmp_path):
    """Other threads, another library, another text under the same name: each would end in other bits, and is said."""
    text = tmp_path / "mine.txt"
    text.write_text("The city was founded in the north, where the rivers meet. " * 40)
    recipe = parse({**RECIPE, "calibration": {"source": str(text), "samples": 2, "tokens": 16}, "steps": RECIPE["steps"][:2]})
    with pytest.raises(Stopped):
        run(recipe, tmp_path / "first", StopsAt("recover", 2))
    again = read(tmp_path / "first" / folder.RECIPE).model_copy(update={"resume": str(tmp_path / "first")})
    model = load("builtin:tiny-llama")
    assert resuming.take_up(again, model).steps_done == 1
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with pytest.raises(RecipeError, match=rf"begun otherwise.*threads {threads} then and {threads + 1} now") as caught:
            resuming.take_up(again, model)
    finally:
        torch.set_num_threads(threads)
    assert "leave resume out" in caught.value.remedy
    text.write_text(text.read_text().replace("north", "south"))
    with pytest.raises(RecipeError, match=r"begun otherwise.*: the content of .*mine\.txt\."):
        resuming.take_up(again, model)
    assert differences({"torch": "2.9.0", "numpy": "2"}, {"torch": "2.9.1", "numpy": "2"}) == ["torch 2.9.0 then and 2.9.1 now"]


def test_a_model_whose_shapes_have_changed_is_taken_up_from_before_they_did(tmp_path):
    steps = [
        {"prune": {"method": "slicegpt", "structure": "slices", "sparsity": 0.2}},
        {"recover": {"method": "norms_and_biases", "steps": 2, "batch": 1, "tokens": 32}},
    ]
    recipe = {**RECIPE, "steps": steps, "measure": {}}
    with pytest.raises(Stopped):
        run(parse(recipe), tmp_path / "first", StopsAt("recover", 1))
    watcher = Silent()
    report = run(parse({**recipe, "resume": str(tmp_path / "first")}), tmp_path / "second", watcher)
    assert any("the dense measurement." in told.text for told in watcher.heard if told.kind == "note")
    assert [step["kind"] for step in report.steps] == [
        "prune",
        "recover",
    ] and report.recovered.parameters != report.dense.parameters


def test_a_model_that_is_read_block_by_block_is_begun_anew(tmp_path):
    with pytest.raises(Stopped):
        run(parse(RECIPE), tmp_path / "first", StopsAt("recover", 2))
    recipe = read(tmp_path / "first" / folder.RECIPE).model_copy(update={"resume": str(tmp_path / "first")})
    assert resuming.take_up(recipe, load("builtin:tiny-llama")) is not None
    assert resuming.take_up(recipe, load("builtin:tiny-llama", lazy=True)) is None


def test_a_model_that_cannot_be_saved_leaves_its_figures_and_going_on_only_saves_it(tmp_path, monkeypatch):
    asked = {**RECIPE, "steps": RECIPE["steps"][:1], "save": {"model": True}}

    def full(*_):
        raise ResourceError("The disk is too full.", "Free some space.")

    with monkeypatch.context() as patched, pytest.raises(ResourceError, match="too full"):
        patched.setattr("core.model.files.export.save", full)
        run(parse(asked), tmp_path / "first", Silent())
    at, report = folder.status(tmp_path / "first"), json.loads((tmp_path / "first" / folder.REPORT).read_text())
    assert (at.state, at.problem) == ("failed", "The disk is too full.")
    assert report["pruned"]["nonzero"] < report["dense"]["nonzero"] and "too full" in report["protocol"]["not_saved"]
    watcher = Silent()
    run(parse({**asked, "resume": str(tmp_path / "first")}), tmp_path / "second", watcher)
    assert {told.stage for told in watcher.heard if told.kind == "progress"} == {"load", "save"}
    assert (tmp_path / "second" / folder.MODEL / "model.safetensors").is_file()
    again = json.loads((tmp_path / "second" / folder.REPORT).read_text())
    assert again["pruned"]["perplexity"] == report["pruned"]["perplexity"] and "not_saved" not in again["protocol"]
