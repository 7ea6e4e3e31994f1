"""Rows and weights pruned together: cells by hand, weights that stay gone, a job taken up where it stopped, a picture with a finding."""

import numpy as np
import pytest
import torch

from core import catalogue, crossing, folder, recipe
from core.data.cross import check, prunable, pruned
from core.data.cross import cross as carry_out
from core.data.learners import Task, train
from core.data.loading import load
from core.errors import DataError, RecipeError, Stopped
from core.events import Silent
from core.recipe import Data
from studio.charts import crossing as charts
from studio.rooms.data import crossing as room
from studio.rooms.data.dataplan import Choice

ROWS = 200


@pytest.fixture(scope="module")
def digits():
    part = load(Data(source="builtin:digits")).part(np.arange(ROWS))
    return part, part.images.reshape(ROWS, -1)


def asked(**cross):
    whole = {
        "recipe": 1,
        "name": "c",
        "data": {"source": "builtin:digits"},
        "select": {"method": "random"},
        "clusters": {"count": 4},
    }
    return catalogue.resolve(
        recipe.parse({**whole, "cross": {"epochs": 4, "retrain": 1, "seeds": 2, "rows": [0.3], "weights": [0.1], **cross}})
    )


def lines(**cells):
    """One line a seed: lines(r50_w100=[0.9, 0.8])."""
    out = []
    for name, values in cells.items():
        rows, weights = (int(part[1:]) / 100 for part in name.split("_"))
        out += [{"rows": rows, "weights": weights, "seed": seed, "accuracy": value} for seed, value in enumerate(values)]
    return out


@pytest.mark.quick
def test_cells_and_the_smallest_that_is_not_worse_by_hand():
    # seeds 0.96 and 0.98: mean 0.97, deviation 0.01414, t for one degree of freedom 12.706: +- 12.706 x 0.01414 / sqrt 2 = 0.12706
    found = crossing.cells(lines(r100_w100=[0.96, 0.98], r50_w100=[0.95, 0.97], r100_w10=[0.955, 0.985], r50_w10=[0.8, 0.82]))
    at = {(cell["rows"], cell["weights"]): cell for cell in found}
    assert at[1, 1]["mean"] == pytest.approx(0.97) and at[1, 1]["high"] == pytest.approx(0.97 + 0.12706, abs=1e-4)
    assert at[1, 1]["difference"] is None and crossing.held(at[1, 1])
    assert at[0.5, 1]["difference"] == pytest.approx(-0.01) and at[0.5, 1]["difference_high"] == pytest.approx(
        -0.01
    )  # both seeds lose 0.01: worse
    assert not crossing.held(at[0.5, 1]) and crossing.held(at[1, 0.1]) and not crossing.held(at[0.5, 0.1])
    assert crossing.smallest(found) == at[1, 0.1]
    # the fewest weights cost 0.96 - 0.81 with half of the rows and nothing with all
    assert crossing.price(found) == (pytest.approx(0.15), pytest.approx(0.0))
    assert crossing.smallest(crossing.cells(lines(r100_w100=[0.9, 0.9], r50_w100=[0.5, 0.5]))) is None
    assert crossing.price(crossing.cells(lines(r100_w100=[0.9]))) is None


@pytest.mark.parametrize("learner", ["mlp", "cnn"])
def test_as_many_weights_stay_as_asked_the_largest_and_training_brings_none_back(digits, learner):
    dataset, vectors = digits
    one = Task(
        dataset.images if learner == "cnn" else vectors, dataset.labels, 10, [np.arange(150)], np.arange(150, ROWS), 0, Silent()
    )
    dense = train(learner, one)
    before = [layer.weight.detach().clone() for layer in prunable(dense.model)]
    model = pruned(dense.model, 0.2, "magnitude", 0)
    for layer, weight in zip(prunable(model), before, strict=True):
        kept = layer.weight_mask.bool()
        assert abs(int(kept.sum()) - 0.2 * weight.numel()) <= 0.5
        assert weight[kept].abs().min() >= weight[~kept].abs().max()
    again = train(
        learner,
        Task(
            *[getattr(one, name) for name in ("inputs", "labels", "classes", "schedule", "test", "seed", "watcher")], start=model
        ),
    )
    for layer in prunable(again.model):
        assert torch.equal(layer.weight != 0, layer.weight_mask.bool()) or (layer.weight[~layer.weight_mask.bool()] == 0).all()
    assert all(torch.equal(layer.weight, weight) for layer, weight in zip(prunable(dense.model), before, strict=True))
    chance = pruned(dense.model, 0.2, "random", 0)
    assert not torch.equal(prunable(chance)[0].weight_mask, prunable(model)[0].weight_mask)


class StopsAfter(Silent):
    """Stops when so many cells are done."""

    def __init__(self, cells):
        super().__init__()
        self.cells = cells

    def check(self):
        if sum(at.stage == "cross" and bool(at.values) for at in self.heard) >= self.cells:
            raise Stopped


def test_a_stopped_job_goes_on_and_ends_with_the_same_figures(digits, tmp_path):
    dataset, vectors = digits
    found = carry_out(dataset, vectors, asked(), Silent(), None)
    figures = [(line["rows"], line["weights"], line["seed"], line["accuracy"]) for line in found["lines"]]
    assert len(figures) == 2 * 2 * 2 and len({line["kept_weights"] for line in found["lines"]}) == 2
    assert [cell["seeds"] for cell in found["cells"]] == [2] * 4 and "kept by magnitude" in found["protocol"]
    first = tmp_path / "first"
    first.mkdir()
    with pytest.raises(Stopped):
        carry_out(dataset, vectors, asked(), StopsAfter(3), first)
    done = folder.read_lines(first / folder.CROSSING)
    assert len(done) == 4  # what it is, and three cells
    second = tmp_path / "second"
    second.mkdir()
    again = carry_out(dataset, vectors, asked().model_copy(update={"resume": str(first)}), Silent(), second)
    assert [(line["rows"], line["weights"], line["seed"], line["accuracy"]) for line in again["lines"]] == figures
    assert folder.read_lines(second / folder.CROSSING)[:4] == done
    with pytest.raises(RecipeError, match="another recipe"):
        carry_out(dataset, vectors, asked(epochs=5).model_copy(update={"resume": str(first)}), Silent(), None)


@pytest.mark.quick
def test_the_title_is_a_finding_and_every_cell_is_in_the_table():
    found = crossing.cells(
        lines(r100_w100=[0.97, 0.97, 0.98], r20_w100=[0.96, 0.975, 0.98], r100_w10=[0.9, 0.91, 0.9], r20_w10=[0.7, 0.6, 0.7])
    )
    picture = charts.heat_map(found)
    assert picture.finding.startswith("20 % of the rows with all weights do as well as all of both (-0.2 points, ")
    assert len(picture.rows) == 4 and all(len(row) == len(picture.headers) for row in picture.rows)
    assert len(picture.figure.layout.shapes) == 1 and len(picture.figure.layout.annotations) == 4
    assert charts.together(found) == "Keeping 10 % of the weights costs 30.5 points with 20 % of the rows, and 7.0 with all rows."
    none = crossing.cells(lines(r100_w100=[0.97, 0.97], r20_w100=[0.8, 0.81], r100_w10=[0.9, 0.91], r20_w10=[0.7, 0.6]))
    assert charts.finding(none).startswith("Nothing can go unpaid: all rows with 10 % of the weights lose least")


@pytest.mark.quick
def test_the_controls_make_the_recipe_that_they_say():
    made = room.recipe_of(Choice(), "images", True, ("mlp", "10, 50", "5 20", 2))
    assert made.cross.rows == (0.1, 0.5, 1.0) and made.cross.weights == (0.05, 0.2, 1.0) and made.cross.seeds == 2
    assert made.select.score == "prototypes" and made.prove is None


@pytest.mark.quick
@pytest.mark.parametrize(("changes", "sentence"), [
    ({"select": None}, "cross needs data and select"),
    ({"prove": {}}, "leave prove"),
    ({"cross": {"rows": [0.0]}}, "greater than 0"),
    ({"cross": {"method": "wanda"}}, "magnitude"),
])  # fmt: skip
def test_a_recipe_that_cannot_be_is_refused(changes, sentence):
    whole = {
        "recipe": 1,
        "name": "c",
        "data": {"source": "builtin:digits"},
        "select": {"method": "random", "keep": 0.5},
        "cross": {},
        **changes,
    }
    with pytest.raises(RecipeError, match=sentence) as raised:
        recipe.parse({key: value for key, value in whole.items() if value is not None})
    assert raised.value.remedy


@pytest.mark.quick
def test_rows_that_cannot_be_learned_from_are_refused_before_anything_is_trained(digits):
    dataset, _ = digits
    with pytest.raises(DataError, match="fewer than the 10 classes"):
        check(dataset, asked(rows=[0.01]))
    trec = load(Data(source="builtin:trec")).part(np.arange(50))
    with pytest.raises(DataError, match="cnn learns from images"):
        check(trec, asked(learner="cnn"))
