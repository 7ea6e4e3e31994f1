"""Learners and the job around them: the same figures again, taken up where it stopped, stopped at once, refused with a remedy."""

import json
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from core import catalogue, folder, recipe
from core.data.dataset import Dataset
from core.data.learners import Task, Teacher, linear, train
from core.data.loading import load
from core.data.proof_arms import schedule
from core.data.prove import check, facts, hold_out, prove
from core.errors import DataError, RecipeError, Stopped
from core.events import Silent
from core.recipe import Data, Prove
from core.recipe_prove import shares_of

ROWS = 200


@pytest.fixture(scope="module")
def digits():
    whole = load(Data(source="builtin:digits"))
    part = whole.part(np.arange(ROWS))
    return part, part.images.reshape(ROWS, -1)


def asked(proving, **changes):
    whole = {"recipe": 1, "name": "d", "data": {"source": "builtin:digits"}, "select": {"method": "prototypes", "keep": 0.3}}
    return catalogue.resolve(recipe.parse({**whole, "clusters": {"count": 6}, "prove": proving, **changes}))


def task(dataset, inputs, epochs=6, **changes):
    pool, test = hold_out(dataset.labels, 0)
    return Task(inputs, dataset.labels, 10, [pool] * epochs, test, 0, Silent(), **changes)


def untimed(lines):
    return [{key: value for key, value in line.items() if "seconds" not in key and key != "history"} for line in lines]


def test_the_linear_probe_is_logistic_regression(digits):
    """The oracle: scikit-learn's, on ten classes and on two."""
    from sklearn.linear_model import LogisticRegression

    dataset, vectors = digits
    for mine in (np.arange(ROWS), np.flatnonzero(dataset.labels < 2)):
        features = linear.scaling(vectors[mine])(vectors[mine])
        solved = linear.solve(features, dataset.labels[mine], 10)
        model = LogisticRegression(C=1.0, max_iter=1000, tol=1e-6).fit(features, dataset.labels[mine])
        shown = linear.softmax(features @ solved[:-1] + solved[-1])[:, model.classes_]
        assert np.allclose(shown, model.predict_proba(features), atol=2e-3)


def test_a_soft_target_that_is_the_hard_one_changes_nothing_and_a_teacher_is_followed(digits):
    dataset, vectors = digits
    features = linear.scaling(vectors)(vectors)
    hard = linear.mixed(dataset.labels, 10)
    plain, soft = (linear.solve(features, dataset.labels, 10, None, *how) for how in ((), (hard, 0.7, 1.0)))
    assert np.allclose(features @ plain[:-1] + plain[-1], features @ soft[:-1] + soft[-1], atol=0.05)
    wrong = (dataset.labels + 1) % 10
    taught = linear.solve(features, dataset.labels, 10, None, linear.mixed(wrong, 10), 1.0, 1.0)
    assert np.mean((features @ taught[:-1] + taught[-1]).argmax(axis=1) == wrong) > 0.95


@pytest.mark.quick
def test_the_loss_of_distillation_by_hand():
    """One row, two classes, own logits (0, 0), teacher's (2, 0), T = 2, a = 0.5, target 0.

    CE = ln 2. Teacher at T: softmax(1, 0) = (0.731059, 0.268941), own (0.5, 0.5): KL = ln 2 - H(0.731059) = 0.693147 - 0.582203 = 0.110944.
    Loss = 0.5 * 0.693147 + 0.5 * 4 * 0.110944 = 0.568461.
    """
    import torch

    from core.data.learners.descent import taught

    teacher = Teacher(lambda batch: torch.tensor([[2.0, 0.0]]), 0.5, 2.0)
    assert taught(torch.zeros(1, 2), torch.tensor([0]), teacher, None).item() == pytest.approx(0.568461, abs=1e-5)


@pytest.mark.parametrize("learner", ["mlp", "cnn"])
def test_a_learner_learns_repeats_itself_bit_for_bit_and_follows_a_teacher(digits, learner):
    dataset, vectors = digits
    whole = task(dataset, vectors if learner == "mlp" else dataset.images, 6, batch=16)
    first, again = train(learner, whole), train(learner, whole)
    assert [at[2] for at in first.history] == [at[2] for at in again.history] and len(first.history) == 20
    assert first.history[-1][2] > 0.5 and first.history[-1][0] == 6  # ten classes: chance is 0.1
    assert first.history[-1][2] == np.mean(first.predict(whole.test) == dataset.labels[whole.test])
    other = train(learner, replace(whole, seed=1))
    assert not np.array_equal(first.predict(whole.schedule[0]), other.predict(whole.schedule[0]))
    wrong = replace(whole, labels=(dataset.labels + 1) % 10, teacher=Teacher(first.logits, 1.0, 1.0))
    same = train(learner, wrong).predict(whole.test) == first.predict(whole.test)
    assert same.mean() > 0.6  # all of the loss is the teacher's: what the labels say is not heard


def test_tiny_llama_learns_texts_from_scratch():
    from core.data.learners.tiny_llama import tokens

    texts = [f"what is the {word} of {at % 7}" for at, word in enumerate(["name", "age", "size", "home"] * 10)]
    rows = tokens([*texts, "long " * 500])
    assert len(rows[-1]) == 128 and rows[0][0] == rows[0][-1] == 0
    pool, test = np.arange(32), np.arange(32, 40)
    one = Task(rows, np.empty(0, int), 1, [pool] * 4, test, 0, Silent(), batch=8)
    first = train("tiny-llama", one)
    start, end = first.history[0][2], first.history[-1][2]
    assert end < start / 2 and end < 4096  # 4,096: knowing nothing
    losses = first.predict(test)
    assert np.exp(np.average(losses, weights=[len(rows[at]) - 1 for at in test])) == pytest.approx(end, rel=1e-5)
    assert train("tiny-llama", one).history[-1][2] == end
    taught = train("tiny-llama", replace(one, teacher=Teacher(first.logits, 0.5, 2.0)))
    assert taught.history[-1][2] < start


@pytest.mark.quick
def test_schedules_give_every_share_its_passes_or_its_steps_and_rs2_sees_all_before_any_twice():
    pool, rows = np.arange(100), np.arange(0, 100, 5)
    few = schedule(Prove(learner="mlp", epochs=4), "prototypes", rows, pool, 0)
    assert len(few) == 4 and all(np.array_equal(at, rows) for at in few)
    same = schedule(Prove(learner="mlp", epochs=4, match="steps"), "random", rows, pool, 0)
    assert sum(map(len, same)) == 400
    fresh = schedule(Prove(learner="mlp", epochs=7), "rs2", rows, pool, 0)
    assert [len(at) for at in fresh] == [20] * 7 and sorted(np.concatenate(fresh[:5])) == list(range(100))
    assert not np.array_equal(fresh[0], fresh[5]) and len(schedule(Prove(), "random", rows, pool, 0)) == 1
    assert shares_of(Prove(), 0.3) == (0.05, 0.1, 0.3, 0.4, 0.7) and shares_of(Prove(shares=(0.5, 0.2)), 0.3) == (0.2, 0.5)


def test_a_stopped_proof_is_taken_up_with_the_fits_that_are_missing_and_gives_the_same_lines(digits, tmp_path):
    dataset, vectors = digits
    proving = {"learner": "mlp", "shares": [0.2, 0.4], "seeds": 2, "epochs": 2}
    (tmp_path / "whole").mkdir(), (tmp_path / "cut").mkdir(), (tmp_path / "again").mkdir()
    whole = prove(dataset, vectors, asked(proving), Silent(), tmp_path / "whole")
    assert len(whole) == 2 * (1 + 2 * 5) and {line["selector"] for line in whole} == {
        "all", "prototypes", "opposite", "random", "rs2", "random + distillation",
    }  # fmt: skip

    class StopsAfter(Silent):
        def say(self, progress):
            super().say(progress)
            self.stop = progress.done == 4  # before the first distillation: its teacher has to be trained again

    with pytest.raises(Stopped):
        prove(dataset, vectors, asked(proving), StopsAfter(), tmp_path / "cut")
    kept = folder.read_lines(tmp_path / "cut" / folder.PROOF)
    assert len(kept) == 1 + 4 and untimed(kept[1:]) == untimed(whole[:4])
    with (tmp_path / "cut" / folder.PROOF).open("a") as file:
        file.write('{"share": 0.2, "sele')  # what a killed process leaves
    watcher = Silent()
    taken = prove(dataset, vectors, asked(proving, resume=str(tmp_path / "cut")), watcher, tmp_path / "again")
    assert untimed(taken) == untimed(whole) and taken[:4] == kept[1:]
    assert json.loads((tmp_path / "again" / folder.PROOF).read_text().splitlines()[-1]) == taken[-1]
    assert watcher.heard[0].text == "Taken up from cut: 4 of 22 fits."
    with pytest.raises(RecipeError, match="there is no run folder"):
        prove(dataset, vectors, asked(proving, resume=str(tmp_path / "none")), Silent(), None)
    with pytest.raises(RecipeError, match="another recipe or of other rows"):
        prove(dataset, vectors, asked({**proving, "epochs": 3}, resume=str(tmp_path / "cut")), Silent(), None)


@pytest.mark.parametrize("learner", ["linear", "mlp"])
def test_a_stop_is_heard_inside_a_fit(digits, learner):
    dataset, vectors = digits

    class StopsLater(Silent):
        checks = 0

        def check(self):
            self.checks += 1
            if self.checks == 15:
                self.heard_s = time.monotonic()
                raise Stopped

    watcher = StopsLater()
    with pytest.raises(Stopped):
        train(learner, replace(task(dataset, vectors, 1000), watcher=watcher))
    assert time.monotonic() - watcher.heard_s < 1


def test_the_report_says_how_and_what_follows(digits):
    dataset, vectors = digits
    whole = asked({"shares": [0.2, 0.4, 0.6], "seeds": 2})
    lines = prove(dataset, vectors, whole, Silent())
    told = facts(whole, dataset, lines)
    assert "RS2 is left out" in told["protocol"] and "temperature 2" in told["protocol"]
    found = told["proof"]
    assert found["chosen"] == "prototypes" and len(found["summary"]) == 1 + 3 * 4 and found["half_life"] is None
    assert set(found["power_laws"]) == {"prototypes", "random", "opposite"} and found["regime"]
    assert found["power_laws"]["random"]["words"] and json.loads(json.dumps(folder.finite(found)))
    whole = next(line for line in lines if line["selector"] == "all")
    assert whole["test_rows"] == len(hold_out(dataset.labels, 0)[1]) and whole["training_seconds"] > 0
    chosen = next(line for line in lines if line["selector"] == "prototypes")
    assert chosen["selection_seconds"] > 0 and chosen["teacher_seconds"] == 0


def texts(rows=40, labels=None):
    frame = pd.DataFrame({"row": np.arange(rows), "text": ["a b"] * rows})
    names = ("x", "y", "z")[: 0 if labels is None else len(set(labels))]
    return Dataset("t", frame, ["a b"] * rows, None, labels, names)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("dataset", "proving", "says"),
    [
        (texts(), {"learner": "mlp"}, "has no labels, and the proof needs them"),
        (texts(labels=np.zeros(40, int)), {}, "at least two classes, and these labels have one"),
        (texts(labels=np.repeat([0, 1], [37, 3])), {}, "Only one class has the 5 rows"),
        (texts(labels=np.arange(40) % 2), {"learner": "cnn"}, "The cnn learns from images, and t has none. Choose linear or mlp"),
        (texts(8), {"learner": "tiny-llama"}, "8 rows are too few to hold some out"),
        (
            texts(labels=np.arange(40) % 3),
            {"shares": [0.05, 0.5]},
            "A share of 0.05 is 2 of the 34 rows that may be chosen, and there are 3",
        ),
    ],
)
def test_what_cannot_be_proven_is_refused_before_any_work(dataset, proving, says):
    with pytest.raises(DataError, match=says):
        check(dataset, asked(proving))


def test_tiny_llama_on_images_and_an_opposite_without_a_score_are_refused(digits):
    with pytest.raises(DataError, match="tiny-llama learns from texts"):
        check(digits[0], asked({"learner": "tiny-llama"}))
    with pytest.raises(DataError, match="this selection has none"):
        check(digits[0], asked({"baselines": ["opposite"]}, select={"selector": "random", "keep": 0.5}))


@pytest.mark.quick
@pytest.mark.parametrize(
    ("proving", "says"),
    [
        ({"learner": "forest"}, "linear"),
        ({"epoch": 3}, "Did you mean 'epochs'"),
        ({"baselines": ["rs2"]}, "the linear probe has no epochs"),
        ({"epochs": 5}, "solved to its optimum"),
        ({"shares": [0.0]}, "greater than 0"),
        ({"alpha": 1.5}, "less than or equal to 1"),
    ],
)
def test_a_recipe_that_says_what_a_proof_cannot_do_is_refused(proving, says):
    with pytest.raises(RecipeError, match=says):
        asked(proving)


@pytest.mark.quick
def test_training_that_goes_to_infinity_is_said(digits):
    dataset, _ = digits
    with pytest.raises(DataError, match="went to infinity"):
        train("cnn", task(dataset, np.full_like(dataset.images, np.inf), 1))
