"""Scores of texts, targets and columns against plain references; and what each score says to rows it cannot score."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from core import catalogue, recipe
from core.data.clusters import Clusters, unit
from core.data.evidence import Beside
from core.data.selection import seconds_to_score
from core.errors import DataError, ModelError, RecipeError
from core.recipe import Embedding, Select
from core.select.quality import quality
from core.select.tarot import sinkhorn_distance, whitened
from tests.oracle.data_rows import RNG, blobs, rows_of, scored, written

ALL_BUT_KEEP = {"recipe": 1, "name": "d", "data": {"source": "builtin:digits"}}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNARIUM_CACHE", str(tmp_path / "cache"))


# texts, targets, columns --------------------------------------------------------------------------------------------------------------


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
    asked = Select(score="perplexity", params={"tokens": 256})
    assert seconds_to_score(dataset, vectors, asked, 0, loaded) > 0
    high = scored("perplexity", dataset, vectors, {"prefer": "high"}, Beside(loaded=loaded))
    assert seconds_to_score(dataset, vectors, asked, 0, loaded) == 0
    lead = loaded.tokenizer.bos_token_id
    lead = loaded.tokenizer.eos_token_id if lead is None else lead
    for at, text in enumerate(texts):
        ids = torch.tensor([[lead, *loaded.tokenizer(text, add_special_tokens=False)["input_ids"]]])
        with torch.no_grad():
            logits = loaded.model(input_ids=ids).logits.float().log_softmax(-1)[0, :-1]
        assert high[at] == pytest.approx(-logits.gather(1, ids[0, 1:, None]).mean().item(), abs=2e-2)
    assert high[1] > max(high[0], high[3])
    assert np.array_equal(scored("perplexity", dataset, vectors, {"prefer": "low"}, Beside(loaded=loaded)), -high)
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
