"""Data scores against plain references and values worked by hand, and what they say to rows they cannot score."""

import json
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from core import catalogue, recipe
from core.data import dynamics as training
from core.data.clusters import Clusters, spherical_kmeans, unit
from core.data.dataset import Dataset
from core.data.draws import generator
from core.data.dynamics import Dynamics, record
from core.data.evidence import Beside, Evidence
from core.data.neighbours import nearest
from core.data.selection import decide
from core.errors import DataError, ModelError, RecipeError, Stopped
from core.events import Silent
from core.method import get
from core.recipe import Embedding, Select
from core.select import min_hash as hashing
from core.select.aum import aum
from core.select.density import density
from core.select.el2n import el2n
from core.select.entropy import entropy
from core.select.forgetting import forgetting
from core.select.grand_last_layer import grand_last_layer
from core.select.label_noise import label_noise
from core.select.loss_weight import loss_weight
from core.select.margin import margin
from core.select.min_hash import min_hash
from core.select.near_duplicates import near_duplicates
from core.select.quality import quality
from core.select.tarot import sinkhorn_distance, whitened
from core.select.typicality import typicality

RNG = np.random.default_rng
ALL_BUT_KEEP = {"recipe": 1, "name": "d", "data": {"source": "builtin:digits"}}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNARIUM_CACHE", str(tmp_path / "cache"))


def by_hand(*epochs, labels=(0, 0, 1), seeds=1, lengths=1.0):
    """dynamics() that answers with these probabilities of class 0, one row of numbers an epoch."""
    answers = np.array([[[[p, 1 - p] for p in epoch] for epoch in epochs]] * seeds, dtype=np.float32)
    made = Dynamics(answers, np.full(answers.shape[:3], lengths, np.float32), np.array(labels))
    return lambda learner, seeds, epochs: made


def scored(name, dataset, vectors, params=(), beside=None, clusters=None):
    method = get("data_score", name)
    filled = catalogue.fill(method.card, dict(params))
    clusters = clusters or spherical_kmeans(np.nan_to_num(vectors), min(4, len(vectors)), 0)
    return method(Evidence(dataset, vectors, clusters, 0, name, method, filled, beside), filled)


def rows_of(texts=None, labels=None, count=None, **columns):
    count = count or len(texts if texts is not None else labels)
    frame = pd.DataFrame({"row": np.arange(count) + 10, **columns})
    names = () if labels is None else tuple(str(one) for one in range(int(np.max(labels)) + 1))
    return Dataset("rows", frame, texts, None, None if labels is None else np.array(labels), names)


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


def blobs(rows=90, groups=3, seed=0, wide=0.3):
    random = RNG(seed)
    labels = np.arange(rows) % groups
    return (np.eye(groups, 6)[labels] + random.normal(scale=wide, size=(rows, 6))).astype(np.float32), labels


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


# duplicates ---------------------------------------------------------------------------------------------------------------------------


def one_cluster(rows):
    return np.zeros(rows, np.int32)


def chain(links=18, step_degrees=15):
    """Unit vectors each alike only to the next: cos 15 degrees is 0.966, cos 30 is 0.866."""
    angle = np.deg2rad(step_degrees * np.arange(links))
    return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def test_of_a_chain_of_eighteen_the_leader_rule_keeps_nine_and_the_published_rule_one_for_each_farthest():
    rows = chain()
    leader = near_duplicates(rows, one_cluster(18), rows[:1], Silent())
    assert np.flatnonzero(leader >= 0).tolist() == list(range(0, 18, 2))
    assert np.allclose(leader[1], 0.95 - np.cos(np.deg2rad(15)), atol=1e-6)
    angle = np.deg2rad(15 * np.arange(6))
    few = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    published = near_duplicates(few, one_cluster(6), few[:1], Silent(), rule="published")
    assert np.flatnonzero(published >= 0).tolist() == [
        5
    ]  # the farthest from the centroid stays, and each other resembles the one before it


@pytest.mark.parametrize("rule", ["leader", "published"])
def test_duplicates_equal_a_plain_double_loop(rule, monkeypatch):
    from core.select import near_duplicates as module

    monkeypatch.setattr(module, "_BLOCK", 7)
    monkeypatch.setattr(module, "_AT_ONCE", 5)
    base = RNG(4).normal(size=(30, 6))
    vectors = (base[RNG(5).integers(0, 30, 80)] + RNG(6).normal(scale=0.15, size=(80, 6))).astype(np.float32)
    clusters = spherical_kmeans(vectors, 4, 0)
    points, staying = unit(vectors), []
    order = range(80)
    if rule == "published":
        to_centre = (points * clusters.centroids[clusters.assignment]).sum(1)
        order = sorted(range(80), key=lambda i: (to_centre[i], i))
    expected = np.zeros(80)
    for place, i in enumerate(order):
        before = (
            [j for j in list(order)[:place] if clusters.assignment[j] == clusters.assignment[i]]
            if rule == "published"
            else staying
        )
        expected[i] = 0.9 - max((float(points[i] @ points[j]) for j in before), default=-1.0)
        if expected[i] >= 0:
            staying.append(i)
    found = near_duplicates(vectors, clusters.assignment, clusters.centroids, Silent(), rule=rule, threshold=0.9)
    assert np.allclose(found, expected, atol=1e-5) and 0 < (found < 0).sum() < 80


def test_planted_duplicates_are_found_with_precision_and_recall_of_99_percent():
    base = RNG(7).normal(size=(1000, 48)).astype(np.float32)
    which = RNG(8).permutation(1000)[:300]
    planted = base[which] * RNG(9).uniform(0.5, 2, (300, 1)) + RNG(10).normal(scale=0.05, size=(300, 48))
    vectors = np.concatenate([base, planted]).astype(np.float32)
    dataset = rows_of(labels=np.arange(1300) % 2)
    clusters = spherical_kmeans(vectors, 8, 0)
    kept = decide(dataset, vectors, clusters, Select(score="near_duplicates"), 0)
    gone = ~kept.kept
    assert gone[1000:].mean() >= 0.99 and gone[1000:].sum() / gone.sum() >= 0.99 and kept.share == pytest.approx(kept.kept.mean())


def texts_of(count, seed, words=30):
    random = RNG(seed)
    return [" ".join(f"w{word}" for word in random.integers(0, 5000, words)) for _ in range(count)]


def test_planted_copies_of_texts_are_found_with_precision_and_recall_of_99_percent():
    base = texts_of(400, 0)
    copies = [text.upper() + " and more" for text in base[:150]]
    found = min_hash([*base, *copies], RNG(0), Silent())
    gone = found < 0
    assert gone[400:].mean() >= 0.99 and gone[400:].sum() / gone.sum() >= 0.99


def test_min_hash_scores_are_the_threshold_minus_the_exact_jaccard():
    # words in a row: 2. "a b c d" -> ab bc cd; "a b c e" -> ab bc ce: 2 in both of 4. an equal text: 1. a short text is one sequence of its own
    found = min_hash(["a b c d", "a b c d", "A, b? c d!", "x y z", "q"], RNG(0), Silent(), words=2)
    assert (
        np.allclose(found[1:3], 0.72 - 1.0, atol=1e-6) and (found[[0, 3, 4]] >= 0.72).all() and (found[[0, 3, 4]] < 0.7211).all()
    )
    sequences = hashing._sequences(["a b c d", "a b c e"], 2)
    assert hashing._jaccard(*map(np.unique, sequences)) == 0.5


def test_texts_meet_as_often_as_the_bands_say():
    # J of one half: meet with 1 - (1 - 0.5^8)^14 = 0.053; J of 0.9: 0.9997
    random = RNG(3)
    for shared, low, high in ((133, 0.01, 0.11), (190, 0.99, 1.0)):
        met = 0
        for _ in range(200):
            both, a, b = np.split(random.integers(0, 2**63, 200 * 2 - shared, dtype=np.uint64), [shared, 200])
            signature = hashing._minima([np.concatenate([both, a]), np.concatenate([both, b])], random)
            met += bool((signature[0] == signature[1]).all(axis=1).any())
        assert low <= met / 200 <= high


# texts, targets, columns --------------------------------------------------------------------------------------------------------------


def written(tmp_path, name, lines):
    file = tmp_path / name
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(file)


def test_dsir_equals_a_plain_count_of_words_and_pairs_and_raises_the_targets_share(tmp_path):
    cat, dog = [f"the cat sat on mat {i}" for i in range(20)], [f"a dog ran off far {i}" for i in range(80)]
    texts = [*dog, *cat]
    source = written(tmp_path, "t.jsonl", [{"text": "the cat sat"}, {"text": "on the mat the cat"}])
    beside = Beside(None, Embedding(source="tfidf"))
    vectors = np.eye(100, dtype=np.float32)
    found = scored("dsir", rows_of(texts), vectors, {"target": source}, beside)
    assert (np.argsort(-found)[:20] >= 80).all()  # 20 % kept: all of the target's kind, against 20 % by chance

    from sklearn.utils import murmurhash3_32

    def grams(text):
        words = text.split()
        return [abs(murmurhash3_32(gram, 0)) % 10_000 for gram in [*words, *(f"{a} {b}" for a, b in pairwise(words))]]

    def log_share(many):
        counts = np.ones(10_000)
        for text in many:
            np.add.at(counts, grams(text), 1)
        return np.log(counts / counts.sum())

    gain = log_share(["the cat sat", "on the mat the cat"]) - log_share(texts)
    assert found[85] == pytest.approx(np.mean([gain[g] for g in grams(texts[85])]), abs=1e-5)
    noisy = scored("dsir", rows_of(texts), vectors, {"target": source, "noise": 1.0}, beside)
    assert not np.array_equal(np.argsort(noisy), np.argsort(found))


def test_whitening_gives_the_rows_the_covariance_one_before_they_are_scaled():
    rows = RNG(0).normal(size=(500, 4)) @ RNG(1).normal(size=(4, 4))
    aimed = RNG(2).normal(size=(5, 4))
    lower = np.linalg.cholesky(np.cov(rows.T) + 1e-5 * np.eye(4))
    expected = (np.linalg.inv(lower) @ (aimed - rows.mean(0)).T).T
    assert np.allclose(whitened(rows, aimed)[1], expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5)


def test_the_sinkhorn_distance_equals_plain_scaling():
    one, other = unit(RNG(0).normal(size=(6, 3))), unit(RNG(1).normal(size=(9, 3)))
    cost = np.linalg.norm(one[:, None].astype(np.float64) - other[None], axis=2)
    kernel, v = np.exp(-cost / 0.05), np.ones(9)
    for _ in range(5000):
        u = 1 / 6 / (kernel @ v)
        v = 1 / 9 / (kernel.T @ u)
    assert sinkhorn_distance(one, other) == pytest.approx(float((u[:, None] * kernel * v * cost).sum()), abs=1e-4)


def test_tarot_takes_the_targets_neighbours_first_and_stops_when_it_moves_away(tmp_path):
    random = RNG(0)
    inside = random.normal(size=(15, 3)) * 0.1 + [3, 0, 0]
    vectors = np.concatenate([random.normal(size=(85, 3)), inside]).astype(np.float32)
    source = written(tmp_path, "t.jsonl", [{"v": list(map(float, one))} for one in random.normal(size=(5, 3)) * 0.1 + [3, 0, 0]])
    beside = Beside(None, Embedding(source="column:v"))
    dataset = rows_of(labels=np.arange(100) % 2)
    found = scored("tarot", dataset, vectors, {"target": source}, beside)
    assert (np.argsort(-found)[:10] >= 85).all() and 1 <= (found >= 0).sum() <= 15
    rows, aimed = whitened(
        vectors, np.array([json.loads(line)["v"] for line in Path(source).read_text().splitlines()], dtype=np.float32)
    )
    assert set(np.argmax(aimed @ rows.T, axis=1)) <= set(np.flatnonzero(found >= 0))


def test_a_target_is_embedded_with_the_rows_where_the_embedding_fits_itself(tmp_path):
    texts = [f"{('red fox', 'blue whale')[i % 2]} story number {i}" for i in range(30)]
    source = written(tmp_path, "t.jsonl", [{"text": f"red fox tale {i}"} for i in range(6)])
    found = scored(
        "tarot", rows_of(texts), np.eye(30, dtype=np.float32), {"target": source}, Beside(None, Embedding(source="tfidf"))
    )
    assert np.isfinite(found).all() and (np.argmax(found) % 2) == 0


def test_perplexity_is_the_models_own_loss_of_each_text_alone_and_bands_order_by_it():
    import torch

    from core.model.loading import load

    loaded = load("builtin:tiny-llama")
    texts = ["The game was played in the city .", "zq xv zq xv", "The", "In 1998 the album was released by the band ."]
    dataset, vectors = rows_of(texts), np.eye(4, dtype=np.float32)
    high = scored("perplexity", dataset, vectors, {"band": "high"}, Beside(loaded=loaded))
    lead = loaded.tokenizer.bos_token_id
    lead = loaded.tokenizer.eos_token_id if lead is None else lead
    for at, text in enumerate(texts):
        ids = torch.tensor([[lead, *loaded.tokenizer(text, add_special_tokens=False)["input_ids"]]])
        with torch.no_grad():
            logits = loaded.model(input_ids=ids).logits.float().log_softmax(-1)[0, :-1]
        assert high[at] == pytest.approx(-logits.gather(1, ids[0, 1:, None]).mean().item(), abs=2e-2)
    assert high[1] > max(high[0], high[3])
    assert np.array_equal(scored("perplexity", dataset, vectors, {"band": "low"}, Beside(loaded=loaded)), -high)
    middle = scored("perplexity", dataset, vectors, {}, Beside(loaded=loaded))
    assert middle[np.argsort(high)].tolist() == [-0.375, -0.125, -0.125, -0.375]


def test_quality_orders_inside_the_range_and_drops_what_is_outside():
    frame = pd.DataFrame({"row": [0, 1, 2, 3], "text": list("abcd"), "worth": [1.0, 2.0, 3.0, 4.0]})
    assert quality(frame, frame["row"].to_numpy()).tolist() == [0.0, 0.25, 0.5, 0.75]
    assert quality(frame, frame["row"].to_numpy(), prefer="low").tolist() == [0.75, 0.5, 0.25, 0.0]
    found = quality(frame, frame["row"].to_numpy(), column="worth", low=2.0, high=3.0)
    assert np.flatnonzero(found >= 0).tolist() == [1, 2] and found[0] == pytest.approx(-1 - 1 / np.std([1, 2, 3, 4]))


# what cannot be scored is said in a sentence ------------------------------------------------------------------------------------------

LABELLED, EYE = rows_of(labels=[0, 1, 0, 1, 0, 1]), np.eye(6, dtype=np.float32)
NAN = np.where(np.arange(36).reshape(6, 6) == 15, np.nan, EYE).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "dataset", "vectors", "params", "says"),
    [
        ("el2n", rows_of(count=6), EYE, {}, "rows has no labels, and EL2N needs them"),
        ("aum", rows_of(labels=[0] * 6), EYE, {}, "All rows have the same label, so there is nothing to learn"),
        ("label_noise", rows_of(labels=[0] * 6), EYE, {}, "All rows have the same label, so none can be doubted"),
        ("label_noise", rows_of(labels=[0, 0, 0, 0, 0, 1]), EYE, {}, r"1 rows are the only one of their class.*row numbers 15"),
        ("min_hash", rows_of(["a", "", "c", " "]), EYE[:4], {}, r"2 rows of rows have an empty text \(row numbers 11, 13\)"),
        ("min_hash", LABELLED, EYE, {}, "rows has no text, and Repeated wording .* reads it"),
        ("density", LABELLED, NAN, {}, r"vectors of 1 rows hold NaN or infinity \(row numbers 12\)"),
        ("el2n", LABELLED, NAN, {}, r"row numbers 12"),
        ("typicality", LABELLED, np.ones((6, 3), np.float32), {}, "All rows are equal, so no row has a neighbour"),
        ("density", rows_of(labels=[0]), EYE[:1], {}, "There is one row, so no row has a neighbour"),
        ("quality", rows_of(count=3, worth=[1.0, np.nan, 2.0]), EYE[:3], {}, r"1 rows have no number in 'worth' \(row numbers 11\)"),
        ("quality", rows_of(count=3, worth=[1.0, 1.0, 1.0]), EYE[:3], {}, "Every row has the same value in 'worth'"),
        ("quality", rows_of(count=3, worth=[1.0, 2.0, 3.0]), EYE[:3], {"low": 5.0}, "its values are 1 to 3"),
        ("quality", rows_of(count=3), EYE[:3], {}, "The data has no column of numbers"),
        ("quality", rows_of(count=3, a=[1, 2, 3], b=[1, 2, 3]), EYE[:3], {"column": "c"}, "no column 'c'.*numbers: a, b"),
        ("dsir", rows_of(["a b", "c d"]), EYE[:2], {"target": " "}, "aims at a target, and none is named"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_scored_are_named_in_a_sentence(name, dataset, vectors, params, says):
    with pytest.raises(DataError, match=says):
        scored(name, dataset, vectors, params)


def test_a_target_without_overlap_is_refused(tmp_path):
    foreign = written(tmp_path, "t.jsonl", [{"text": "zzz qqq"}])
    with pytest.raises(DataError, match=r"No word of the target .* occurs in the data"):
        scored("dsir", rows_of(["a b", "c d"]), EYE[:2], {"target": foreign}, Beside(None, Embedding(source="tfidf")))
    opposite = written(tmp_path, "o.jsonl", [{"v": [-5.0, 0.0]}])
    rows = np.array([[1, 0.1], [1, -0.1], [1, 0.0], [0.9, 0.05]], dtype=np.float32)
    wide = written(tmp_path, "w.jsonl", [{"v": [1.0, 0.0, 2.0]}])
    beside = Beside(None, Embedding(source="column:v"))
    assert np.isfinite(scored("tarot", rows_of(count=4), rows, {"target": opposite}, beside)).all()
    with pytest.raises(DataError, match="vectors of 3 numbers, the rows have 2"):
        scored("tarot", rows_of(count=4), rows, {"target": wide}, beside)
    centre = written(tmp_path, "c.jsonl", [{"v": rows.mean(0).tolist()}])
    with pytest.raises(DataError, match="No row points the way of any row of the target"):
        scored("tarot", rows_of(count=4), np.full((4, 2), 0.5, np.float32), {"target": centre}, beside)


def test_a_score_by_a_model_without_one_is_refused():
    with pytest.raises(ModelError, match="Perplexity reads the rows with a model, and none is open"):
        scored("perplexity", rows_of(["a b", "c d"]), EYE[:2])
    with pytest.raises(RecipeError, match="perplexity reads the rows with a model, and the recipe names none"):
        catalogue.resolve(recipe.parse({**ALL_BUT_KEEP, "select": {"method": "perplexity", "keep": 0.5}}))


@pytest.mark.parametrize("name", ["el2n", "forgetting", "aum", "density", "typicality", "label_noise"])
def test_constant_columns_change_nothing(name):
    vectors, labels = blobs(40)
    constant = np.concatenate([vectors, np.zeros((40, 2), np.float32)], axis=1)
    dataset = rows_of(labels=labels)
    first, second = (scored(name, dataset, one, clusters=_clusters(one)) for one in (vectors, constant))
    if name in ("density", "typicality", "label_noise"):
        assert np.allclose(first, second, atol=1e-3)
    assert np.isfinite(second).all()


def _clusters(vectors):
    return Clusters(np.zeros(len(vectors), np.int32), unit(vectors[:1]), np.array([len(vectors)]))


# what may be left out of a recipe -----------------------------------------------------------------------------------------------------


def test_keep_may_be_left_out_where_the_score_decides_and_only_there():
    free = catalogue.resolve(recipe.parse({**ALL_BUT_KEEP, "select": {"method": "near_duplicates"}}))
    assert (
        free.select.keep is None and free.select.selector is None and free.select.params == {"rule": "leader", "threshold": 0.95}
    )
    assert catalogue.resolve(free) == free and recipe.from_yaml(recipe.to_yaml(free)) == free
    shared = catalogue.resolve(recipe.parse({**ALL_BUT_KEEP, "select": {"method": "near_duplicates", "keep": 0.5}}))
    assert shared.select.selector == "top"
    for select in ({"method": "el2n"}, {"score": "near_duplicates", "selector": "top"}):
        with pytest.raises(RecipeError, match="does not say what share to keep"):
            catalogue.resolve(recipe.parse({**ALL_BUT_KEEP, "select": select}))
    with pytest.raises(RecipeError, match="dsir aims at a second data set, and target does not say which"):
        catalogue.resolve(recipe.parse({**ALL_BUT_KEEP, "select": {"method": "dsir", "keep": 0.5}}))


def test_equal_rows_are_one_row_when_duplicates_go():
    dataset, vectors = rows_of(labels=[0, 1] * 50), np.ones((100, 3), np.float32)
    kept = decide(dataset, vectors, spherical_kmeans(vectors, 2, 0), Select(score="near_duplicates"), 0)
    assert np.flatnonzero(kept.kept).tolist() == [0] and kept.share == 0.01


def test_random_numbers_of_one_purpose_never_change_with_another():
    assert generator(3, "a").random() == np.random.default_rng([3, zlib.crc32(b"a")]).random() != generator(3, "b").random()
