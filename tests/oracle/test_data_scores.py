"""Data scores against plain references and values worked by hand."""

import numpy as np
import pytest

from core.data import dynamics as training
from core.data.draws import generator
from core.data.dynamics import Dynamics, record
from core.data.neighbours import nearest
from core.data.selection import seconds_to_score
from core.errors import DataError, Stopped
from core.events import Silent
from core.recipe import Select
from core.select.aum import aum
from core.select.density import density
from core.select.el2n import el2n
from core.select.entropy import entropy
from core.select.forgetting import forgetting
from core.select.grand_last_layer import grand_last_layer
from core.select.label_noise import label_noise
from core.select.loss_weight import loss_weight
from core.select.margin import margin
from core.select.typicality import typicality
from tests.oracle.data_rows import RNG, blobs, rows_of, scored


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNARIUM_CACHE", str(tmp_path / "cache"))


def by_hand(*epochs, labels=(0, 0, 1), seeds=1, lengths=1.0):
    """dynamics() that answers with these probabilities of class 0, one row of numbers an epoch."""
    answers = np.array([[[[p, 1 - p] for p in epoch] for epoch in epochs]] * seeds, dtype=np.float32)
    made = Dynamics(answers, np.full(answers.shape[:3], lengths, np.float32), np.array(labels))
    return lambda learner, seeds, epochs: made


# what is read off a training record ---------------------------------------------------------------------------------------------------


def test_scores_of_a_training_record_have_the_values_worked_by_hand():
    # p of class 0 after the last epoch: 0.8, 0.4, 0.3; labels 0, 0, 1. errors p - y: (-0.2, 0.2), (-0.6, 0.6), (0.3, -0.3): lengths sqrt 2 times them
    told, labels = by_hand([0.9, 0.6, 0.6], [0.8, 0.4, 0.3], lengths=2.0), np.array([0, 0, 1])
    root = np.sqrt(2)
    assert np.allclose(el2n(told, labels, seeds=1, epochs=2), [0.2 * root, 0.6 * root, 0.3 * root], atol=1e-6)
    assert np.allclose(el2n(told, labels, prefer="easy", seeds=1, epochs=2), [-0.2 * root, -0.6 * root, -0.3 * root], atol=1e-6)
    assert np.allclose(grand_last_layer(told, labels, seeds=1, epochs=2), [0.4 * root, 1.2 * root, 0.6 * root], atol=1e-6)
    # margins p(own) - p(other): 0.8, 0.2, -0.2 and 0.6, -0.2, 0.4; summed 1.4, 0.0, 0.2: low = hard
    assert np.allclose(aum(told, labels, seeds=1, epochs=2), [-1.4, 0.0, -0.2], atol=1e-6)
    assert np.allclose(aum(told, labels, prefer="easy", seeds=1, epochs=2), [1.4, 0.0, 0.2], atol=1e-6)
    assert np.allclose(margin(told, labels, seeds=1, epochs=2), [-0.6, -0.2, -0.4], atol=1e-6)
    assert np.allclose(entropy(told, labels, seeds=1, epochs=2)[0], -(0.8 * np.log(0.8) + 0.2 * np.log(0.2)), atol=1e-6)


def test_forgetting_counts_right_to_wrong_and_never_learnt_is_hardest():
    # labels 0 0 0 0; right where p > 0.5. row 0 stays right: 0. row 1 right wrong right wrong: 2. row 2 wrong wrong right right: 0. row 3 never: 4 epochs
    told = by_hand([0.9, 0.9, 0.1, 0.5], [0.9, 0.1, 0.2, 0.5], [0.9, 0.9, 0.8, 0.1], [0.9, 0.1, 0.9, 0.2], labels=(0, 0, 0, 0))
    found = forgetting(told, np.zeros(4, int), RNG(0), seeds=1, epochs=4)
    assert np.floor(found).tolist() == [0, 2, 0, 4] and (found - np.floor(found) < 0.5).all()
    assert found[0] != found[2]  # equals are ordered by chance, not by their place in the file
    assert np.argsort(forgetting(told, np.zeros(4, int), RNG(0), prefer="easy", seeds=1, epochs=4))[0] == 3


def test_loss_weights_have_the_shape_asked_for():
    # losses -log p: p = 1, e^-1, e^-2 -> 0, 1, 2 -> h = -1, 0, 1
    told = by_hand([1.0, np.exp(-1), np.exp(-2)], labels=(0, 0, 0))
    for shape, f in (("high losses", [-1, 0, 0.5]), ("middle losses", [0, 1, 0]), ("extreme losses", [1, 0, 1])):
        expected = np.exp(f) / np.exp(f).mean()
        assert np.allclose(loss_weight(told, np.zeros(3, int), RNG(0), shape=shape, seeds=1, epochs=1), expected, atol=1e-5)


def plain_softmax_regression(inputs, labels, epochs, draw):
    """Adam on minibatches of 64, written down once more in float64 without any of the learner's code."""
    w, b = np.zeros((inputs.shape[1], labels.max() + 1)), np.zeros(labels.max() + 1)
    moments, step = [np.zeros_like(w), np.zeros_like(w), np.zeros_like(b), np.zeros_like(b)], 0
    for _ in range(epochs):
        order = draw.permutation(len(inputs))
        for start in range(0, len(order), 64):
            rows = order[start : start + 64]
            z = inputs[rows] @ w + b
            p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
            p[np.arange(len(rows)), labels[rows]] -= 1
            step += 1
            for value, gradient, at in ((w, inputs[rows].T @ p / len(rows), 0), (b, p.mean(0), 2)):
                moments[at] = 0.9 * moments[at] + 0.1 * gradient
                moments[at + 1] = 0.999 * moments[at + 1] + 0.001 * gradient**2
                if at == 0:
                    value *= 1 - 3e-3 * 1e-4
                value -= 3e-3 * np.sqrt(1 - 0.999**step) / (1 - 0.9**step) * moments[at] / (np.sqrt(moments[at + 1]) + 1e-8)
    z = inputs @ w + b
    return np.exp(z) / np.exp(z).sum(1, keepdims=True)


def test_the_linear_learner_trains_as_a_plain_loop_does():
    vectors, labels = blobs()
    made = record(vectors, labels, "linear", 2, 4, 7, Silent())
    inputs = (vectors - vectors.mean(0)) / vectors.std(0)
    for seed in range(2):
        expected = plain_softmax_regression(inputs.astype(np.float64), labels, 4, generator(7, f"dynamics {seed}"))
        assert np.allclose(made.at(seed, -1), expected, atol=1e-4)
        assert np.allclose(made.lengths[seed, -1], np.sqrt((inputs**2).sum(1) + 1), atol=1e-4)


def test_a_mlp_record_learns_repeats_to_the_bit_and_comes_from_the_cache(monkeypatch):
    vectors, labels = blobs()
    first = record(vectors, labels, "mlp", 2, 40, 0, Silent())
    assert first.probabilities.shape == (2, 40, 90, 3) and first.probabilities.dtype == np.float32
    assert first.right(0, -1).mean() > 0.95 > first.right(0, 0).mean() and np.allclose(first.at(0, 0).sum(1), 1, atol=1e-5)
    watcher = Silent()
    record(vectors, labels, "mlp", 2, 40, 0, watcher)
    assert watcher.heard == []  # nothing was trained again
    monkeypatch.setattr(training, "VERSION", 2)
    assert np.array_equal(first.probabilities, record(vectors, labels, "mlp", 2, 40, 0, watcher).probabilities)
    assert [heard.done for heard in watcher.heard] == [0, 1, 2]
    assert not np.array_equal(first.probabilities, record(vectors, labels, "mlp", 2, 40, 1, Silent()).probabilities)


def test_a_stopped_record_leaves_nothing(tmp_path):
    vectors, labels = blobs()
    with pytest.raises(Stopped):
        record(vectors, labels, "mlp", 2, 2, 0, Silent(stop=True))
    assert list((tmp_path / "cache" / "dynamics").iterdir()) == []


def test_large_records_are_half_as_precise_and_too_large_ones_refused(monkeypatch):
    vectors, labels = blobs()
    whole = record(vectors, labels, "linear", 1, 2, 0, Silent()).probabilities
    monkeypatch.setattr(training, "VERSION", 3)
    monkeypatch.setattr(training, "_FLOAT32_BYTES", 100)
    half = record(vectors, labels, "linear", 1, 2, 0, Silent()).probabilities
    assert half.dtype == np.float16 and np.allclose(whole, half, atol=6e-4)
    monkeypatch.setattr(training, "_MOST_BYTES", 100)
    with pytest.raises(DataError, match="training record of 90 rows, 3 classes, 1 seeds and 2 epochs passes 4 GB"):
        record(vectors, labels, "linear", 1, 2, 0, Silent())


def test_swapped_labels_come_last_by_noise_and_first_by_error():
    vectors, labels = blobs(300, wide=0.15)
    wrong = np.arange(0, 300, 20)
    labels[wrong] = (labels[wrong] + 1) % 3
    found = label_noise(vectors, labels, np.arange(300), RNG(0))
    assert set(np.flatnonzero(found < 0)) <= set(wrong) and (found[wrong] < 0).mean() > 0.8
    assert set(np.argsort(found)[: len(wrong)]) == set(wrong)
    error = scored("el2n", rows_of(labels=labels), vectors, {"seeds": 2, "epochs": 10})
    assert set(np.argsort(-error)[: len(wrong)]) == set(wrong)


def test_confident_learning_suspects_what_its_definition_says():
    # without a learner: the definition, row by row, over the out-of-fold probabilities the method itself would take
    vectors, labels = blobs(60, wide=0.6, seed=3)
    labels[::7] = (labels[::7] + 1) % 3
    from core.select import label_noise as module

    p = module._out_of_fold(training.standardised(vectors), labels, 5, RNG(0))
    usual = [np.mean([p[i, k] for i in range(60) if labels[i] == k]) for k in range(3)]
    expected = []
    for i in range(60):
        named = [k for k in range(3) if p[i, k] >= usual[k]]
        best = max(named, key=lambda k: p[i, k], default=labels[i])
        expected.append(best != labels[i] and int(np.argmax(p[i])) != labels[i])
    found = label_noise(vectors, labels, np.arange(60), RNG(0)) < 0
    assert found.tolist() == expected and 0 < found.sum() < 60


# neighbours ---------------------------------------------------------------------------------------------------------------------------


def test_density_and_typicality_equal_a_plain_mean_over_sorted_distances():
    vectors = RNG(1).normal(size=(40, 5)).astype(np.float32)
    points = vectors.astype(np.float64) / np.linalg.norm(vectors, axis=1, keepdims=True)
    apart = 1 - points @ points.T
    np.fill_diagonal(apart, 9)
    near = np.sort(apart, axis=1)[:, :7]

    def ask(count, distinct=False):
        return nearest(vectors, count, distinct=distinct)

    assert np.allclose(density(ask, count=7), near.mean(1), atol=1e-5)
    assert np.allclose(density(ask, prefer="dense", count=7), -near.mean(1), atol=1e-5)
    assert np.allclose(typicality(ask, count=7), 1 / np.sqrt(2 * near).mean(1), rtol=1e-4)
    assert np.allclose(density(ask, count=200), np.sort(apart, axis=1)[:, :39].mean(1), atol=1e-5)  # no more than there are


def test_copies_of_a_row_share_its_typicality_and_make_it_no_higher():
    vectors = RNG(2).normal(size=(30, 4)).astype(np.float32)
    alone = typicality(lambda count, distinct: nearest(vectors, count, distinct=distinct), count=5)
    copied = np.concatenate([vectors, np.repeat(vectors[:1], 25, axis=0)])
    found = typicality(lambda count, distinct: nearest(copied, count, distinct=distinct), count=5)
    assert np.allclose(found[:30], alone) and np.allclose(found[30:], alone[0]) and found.max() < 100


def test_near_copies_have_a_bounded_typicality():
    vectors = np.repeat(RNG(2).normal(size=(1, 4)), 30, axis=0) + RNG(3).normal(scale=1e-7, size=(30, 4))
    found = typicality(lambda count, distinct: nearest(vectors.astype(np.float32), count, distinct=distinct))
    assert np.isfinite(found).all() and found.max() <= 1000


def test_what_is_trained_is_foretold_until_it_lies_in_the_cache_and_cheap_scores_train_nothing(tmp_path):
    vectors, labels = blobs()
    dataset, params = rows_of(labels=labels), {"learner": "mlp", "seeds": 2, "epochs": 3}
    asked = Select(score="el2n", params=params)
    assert 0 < seconds_to_score(dataset, vectors, asked, 0) < 10
    scored("density", dataset, vectors)
    assert not (tmp_path / "cache" / "dynamics").exists() and seconds_to_score(dataset, vectors, Select(score="density"), 0) == 0
    scored("el2n", dataset, vectors, params)
    assert seconds_to_score(dataset, vectors, asked, 0) == 0 < seconds_to_score(dataset, vectors, asked, 1)
