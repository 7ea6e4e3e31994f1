"""Many recipes as one job: what a grid comes to, what is refused, and a sweep that is killed and goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from core import folder, sweep
from core.errors import RecipeError, ResourceError
from core.sweep_run import prepare
from core.watch import CHECKOUT
from studio import jobs
from studio.rooms.compare import sweeping

BASE = {
    "recipe": 1,
    "name": "grid",
    "model": {"source": "builtin:tiny-llama"},
    "calibration": {"source": "builtin:wikitext2/valid", "samples": 2, "tokens": 16},
    "steps": [{"prune": {"method": "magnitude", "sparsity": 0.5}}],
}
QUICK = pytest.mark.quick


def grid(**fields):
    return sweep.made({**BASE, "sweep": fields})


@QUICK
def test_a_grid_is_every_combination_and_each_cell_is_a_recipe_of_its_own():
    found = grid(**{"steps.0.prune.method": ["magnitude", "wanda"], "steps.0.prune.sparsity": [0.3, 0.5], "seed": [7]})
    assert [cell.name for cell in found.cells] == [
        "001-magnitude-0.3-7",
        "002-magnitude-0.5-7",
        "003-wanda-0.3-7",
        "004-wanda-0.5-7",
    ]
    last = found.cells[-1].recipe
    assert (last.steps[0].prune.method, last.steps[0].prune.sparsity, last.seed) == ("wanda", 0.5, 7)
    assert last.name == "grid-004-wanda-0.5-7"
    assert BASE["steps"][0]["prune"] == {"method": "magnitude", "sparsity": 0.5}
    assert sweep.from_yaml(sweep.to_yaml(found.whole)) == found


@QUICK
def test_a_bad_cell_says_its_sentence_and_the_rest_stand():
    found = grid(**{"steps.0.prune.sparsity": [0.5, 1.7], "steps.0.prune.method": ["magnitude", "wandaa"]})
    assert [cell.recipe is not None for cell in found.cells] == [True, False, False, False]
    assert "wanda" in found.cells[1].remedy and "less than or equal to 1" in found.cells[2].problem
    assert sweeping.words(found).startswith("1 run, one after another") and "3 cells cannot run" in sweeping.words(found)


@QUICK
@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "no cell"),
        ({"steps.0.prune.sparsity": []}, "is empty"),
        ({"recipes": []}, "is empty"),
        ({"seed": list(range(100)), "calibration.samples": list(range(1, 101))}, "10,000 cells"),
        ({"steps.4.prune.sparsity": [0.5]}, "leads nowhere"),
        ({"seed.more": [1]}, "No cell of the sweep can run"),
        ({"steps.0.prune.sparsity": [2, 3]}, "No cell of the sweep can run"),
        ({"recipes": ["nowhere.yaml"]}, "There is no recipe"),
        ({"recipes": [1], "seed": [1]}, "not both"),
    ],
)
def test_a_sweep_that_cannot_be_is_one_sentence_with_a_remedy(tmp_path, asked, said):
    with pytest.raises(RecipeError, match=said) as caught:
        sweep.made({**BASE, "sweep": asked}, tmp_path)
    assert caught.value.problem.endswith(".") and caught.value.remedy.endswith(".")


@QUICK
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sweep: {seed: [&a [1, *a]]}", "contains itself"),
        ("sweep: {seed: [&a {more: *a}]}", "contains itself"),
        ("steps: &all [{prune: *all}]\nsweep: {seed: [1, 2]}", "contains itself"),
        ("sweep: {seed: [" + "[" * 5000 + "]" * 5000 + "]}", "nested too deep"),
        # each line has the one before ten times: 10 ** 9 values once written out
        ("a: &a0 [1]\n" + "".join(f"b{n}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]\n" for n in range(9)) + "sweep: {seed: [1]}",
         "once its aliases are written out"),
    ],
)  # fmt: skip
def test_a_sweep_whose_anchors_hold_themselves_or_too_much_is_one_sentence(text, said):
    with pytest.raises(RecipeError, match=said) as caught:
        sweep.from_yaml(f"recipe: 1\nname: round\n{text}\n")
    assert caught.value.problem.startswith("The sweep") and caught.value.remedy.endswith(".")
    assert sweep.from_yaml("{recipe: 1, name: twice, model: {source: 'builtin:tiny-llama'}, steps: [{prune: {method: magnitude, sparsity: &half 0.5}}],"
                           " sweep: {steps.0.prune.sparsity: [*half, 0.6]}}").cells[0].recipe is not None  # fmt: skip


@QUICK
def test_a_list_of_recipe_files_is_a_sweep_that_carries_them_inside(tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(sweep.to_yaml({**BASE, "name": name}))
    file = tmp_path / "list.yaml"
    file.write_text("{recipe: 1, name: both, sweep: {recipes: [one.yaml, two.yaml]}}")
    found = sweep.read(file)
    assert [cell.name for cell in found.cells] == ["001-one", "002-two"]
    assert sweep.from_yaml(sweep.to_yaml(found.whole)) == found
    with pytest.raises(RecipeError, match="reads no recipe files"):
        sweep.from_yaml(file.read_text())


@QUICK
def test_a_file_that_is_no_recipe_is_a_failed_cell_and_stays_one(tmp_path):
    (tmp_path / "one.yaml").write_text(sweep.to_yaml({**BASE, "name": "one"}))
    (tmp_path / "notes.txt").write_text("bread and butter")
    (tmp_path / "list.yaml").write_text("{recipe: 1, name: both, sweep: {recipes: [one.yaml, notes.txt]}}")
    found = sweep.read(tmp_path / "list.yaml")
    assert [cell.recipe is not None for cell in found.cells] == [True, False] and found.cells[1].remedy
    assert sweep.from_yaml(sweep.to_yaml(found.whole)) == found  # read again from the sweep's own folder
    with pytest.raises(RecipeError, match="leads nowhere"):
        grid(**{"steps.².prune.sparsity": [0.5]})


@QUICK
def test_two_sweeps_never_share_a_folder(tmp_path):
    one, two = grid(seed=[1, 2]), grid(seed=[1, 3])
    prepare(one, tmp_path / "out")
    (tmp_path / "out" / sweep.FILE).write_text(sweep.to_yaml(one.whole))
    prepare(one, tmp_path / "out")
    with pytest.raises(ResourceError, match="already holds another sweep"):
        prepare(two, tmp_path / "out")
    run = folder.create(tmp_path / "run")
    (run / folder.RECIPE).touch()
    with pytest.raises(ResourceError, match="already holds a run"):
        prepare(one, run)


@QUICK
def test_the_form_writes_a_sweep_and_what_it_names_must_be_open_to_the_page():
    made = sweep.from_yaml(sweeping.form_yaml("builtin:tiny-llama", ["wanda", "magnitude"], "30, 50"))
    assert len(made.cells) == 4 and all(cell.recipe for cell in made.cells)
    for wrong in ("", "many", "30, 0", "120"):
        with pytest.raises(RecipeError, match="no share between"):
            sweeping.form_yaml("builtin:tiny-llama", ["wanda"], wrong)
    told = {
        "model": {"source": "/etc/m"},
        "steps": [{"prune": {"params": {"base": "x", "expression": "W / X"}}}],
        "measure": {"generate": ["a/b"]},
    }
    assert sweeping.places(told) == ["/etc/m", "x"]
    assert sweeping.places({"calibration": {"source": "auto"}, "model": {"source": "builtin:a/b"}}) == []


@QUICK
def test_the_cells_of_a_sweep_read_the_very_places_that_were_admitted(tmp_path):
    for name in ("one", "two"):
        (tmp_path / "open" / "models" / name).mkdir(parents=True)
    page = SimpleNamespace(admit=lambda source: jobs.admit(source, (tmp_path / "open",)))
    asked = {
        **BASE,
        "model": {"source": "models/one"},
        "sweep": {"model.source": ["models/one", "models/two", "builtin:tiny-vit"]},
    }
    whole = sweep.from_yaml(sweep.to_yaml(sweeping._admitted(page, sweep.to_yaml(asked)).whole))
    there = str((tmp_path / "open" / "models").resolve())
    assert [cell.recipe.model.source for cell in whole.cells] == [f"{there}/one", f"{there}/two", "builtin:tiny-vit"]
    listed = sweep.to_yaml({"sweep": {"recipes": [{**BASE, "model": {"source": "models/one"}}]}})
    assert sweeping._admitted(page, listed).cells[0].recipe.model.source == f"{there}/one"
    with pytest.raises(ResourceError, match="outside the folders"):
        sweeping._admitted(page, sweep.to_yaml({**asked, "sweep": {"model.source": ["models/one", str(tmp_path)]}}))


@QUICK
def test_what_a_sweep_measures_follows_the_kind_of_the_model_and_not_its_name():
    def measured(model, kind):
        return sweep.from_yaml(sweeping.form_yaml(model, ["magnitude"], "50", kind)).cells[0].recipe.measure

    assert measured("me/convit-llm", "decoder").perplexity and measured("me/convit-llm", "decoder").accuracy is None
    assert measured("me/resnet", "image_classifier").accuracy and measured("me/resnet", "image_classifier").perplexity is None
    assert measured("me/bert", "encoder").perplexity is None


def test_a_sweep_that_is_killed_goes_on_with_what_is_left(tmp_path):
    file, out = tmp_path / "sweep.yaml", tmp_path / "out"
    file.write_text(sweep.to_yaml({**BASE, "sweep": {"steps.0.prune.sparsity": [0.3, 1.5, 0.6]}}))
    words = [sys.executable, "-m", "core.supervise", str(file), "--out", str(out)]
    around = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    first = subprocess.Popen(words, env=around, stderr=subprocess.DEVNULL, start_new_session=True)
    done = out / sweep.CELLS / "001-0.3" / folder.REPORT
    deadline = time.monotonic() + 120
    while not done.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert done.exists() and not (out / folder.REPORT).exists()
    assert folder.status(out).state == "interrupted"
    stamp = done.stat().st_mtime_ns
    second = subprocess.run([*words, "--json"], env=around, capture_output=True, text=True, timeout=200)
    assert second.returncode == 1, second.stderr  # one cell failed
    cells = json.loads(second.stdout)["sweep"]["cells"]
    assert [cell["state"] for cell in cells] == ["done", "failed", "done"]
    assert "less than or equal to 1" in cells[1]["problem"] and cells[2]["pruned"]["nonzero"] < cells[0]["pruned"]["nonzero"]
    assert done.stat().st_mtime_ns == stamp, "what was done was done again"
    assert folder.status(out).state == "done"
    third = subprocess.run(words, env=around, capture_output=True, text=True, timeout=100)
    assert third.returncode == 1 and "is finished" in third.stderr
