"""Rows as vectors: each embedding against what it promises, and the cache that spares the second time."""

import numpy as np
import pandas as pd
import pytest
import torch

from core import builtins
from core.data.dataset import Dataset
from core.data.embedding import argument, cache_file, embed
from core.data.loading import load
from core.data.pooling import pooled
from core.embed.column import column
from core.embed.tfidf import tfidf
from core.errors import DataError, ModelError, RecipeError, Stopped
from core.events import Silent
from core.recipe import Data, Embedding


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNARIUM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def whole(pieces):
    return np.concatenate(list(pieces))


def texts(*rows):
    return Dataset("t", pd.DataFrame({"row": range(len(rows)), "text": rows}), list(rows))


@pytest.mark.quick
def test_pixels_are_the_images_themselves_and_come_from_the_cache_the_second_time(own_cache):
    data = load(Data(source="builtin:digits"))
    first = embed(data, Embedding(source="pixels"), None, Silent())
    assert first.dtype == np.float32 and np.array_equal(first, data.images.reshape(1797, 64))
    file = cache_file(data, Embedding(source="pixels"), None, 0)
    np.save(file, np.ones((1797, 64), np.float32))
    second = embed(data, Embedding(source="pixels"), None, Silent())
    assert isinstance(second, np.memmap) and (second == 1).all()


@pytest.mark.quick
def test_the_cache_tells_rows_methods_parameters_and_seeds_apart(own_cache):
    one, other = texts("one two", "two three"), texts("one two", "two four")
    asked = [(one, {}, 0), (other, {}, 0), (one, {"dimensions": 3}, 0), (one, {}, 1)]
    files = {cache_file(data, Embedding(source="tfidf", params=params), None, seed) for data, params, seed in asked}
    assert len(files) == 4
    assert cache_file(one, Embedding(source="column:a"), None, 0) != cache_file(one, Embedding(source="column:b"), None, 0)


@pytest.mark.quick
def test_what_follows_the_method_is_its_argument():
    assert [argument(source) for source in ("model@3", "column:my:vec", "builtin:minilm", "pixels")] == ["3", "my:vec", "", ""]


@pytest.mark.quick
@pytest.mark.parametrize("source", ["pixels", "tfidf"])
def test_an_embedding_that_cannot_read_the_rows_is_refused_with_one_that_can(own_cache, source):
    data = texts("a b") if source == "pixels" else load(Data(source="builtin:digits"))
    with pytest.raises(DataError, match=r"embeds (images|text), and") as caught:
        embed(data, Embedding(source=source), None, Silent())
    assert ("tfidf" if source == "pixels" else "pixels") in caught.value.remedy
    with pytest.raises(RecipeError, match="no embedding called"):
        embed(data, Embedding(source="pixel"), None, Silent())


@pytest.mark.quick
def test_texts_that_share_rare_words_are_near_and_vectors_have_length_one():
    rows = ["the cat sat on the mat", "a cat and a mat", "stocks fell on monday", "monday saw stocks fall", "zebra zebra"]
    vectors = whole(tfidf(rows, 0, Silent(), dimensions=4))
    near = vectors @ vectors.T
    assert near[0, 1] > near[0, 2] and near[2, 3] > near[2, 1] and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.array_equal(vectors, whole(tfidf(rows, 0, Silent(), dimensions=4))) and vectors.dtype == np.float32


@pytest.mark.quick
def test_texts_without_words_are_refused_and_few_words_still_work():
    with pytest.raises(DataError, match="No text has a word"):
        whole(tfidf(["?", "!"], 0, Silent()))
    assert whole(tfidf(["one", "one"], 0, Silent())).shape == (2, 1)


@pytest.mark.quick
def test_a_column_of_vectors_is_taken_as_it_is():
    frame = pd.DataFrame({"row": [0, 1, 7], "v": [[1, 2], [3, 4], [5, 6]], "n": [5, 6, 7]})
    data = Dataset("t", frame)
    assert whole(column(data, "v", 0)).tolist() == [[1, 2], [3, 4], [5, 6]] and whole(column(data, "n", 1)).tolist() == [[6], [7]]
    with pytest.raises(DataError, match="no column 'w' of vectors"):
        whole(column(data, "w", 0))
    with pytest.raises(DataError, match=r"does not hold vectors of one length \(1 rows differ: row 7\)"):
        whole(column(Dataset("t", frame.assign(v=[[1, 2], [1, 2], [1]])), "v", 0))


@pytest.mark.quick
def test_a_vector_that_is_not_finite_is_named_by_row(own_cache):
    frame = pd.DataFrame({"row": [3, 8], "v": [[1.0, 2.0], [np.inf, 0.0]]})
    with pytest.raises(DataError, match=r"no finite vector for 1 rows \(the first: 8\)"):
        embed(Dataset("t", frame), Embedding(source="column:v"), None, Silent())
    assert not list(own_cache.rglob("*.npy"))


class StopsAfter(Silent):
    """Asks for a stop once so many rows are embedded."""

    def __init__(self, rows):
        super().__init__()
        self.rows = rows

    def say(self, progress):
        super().say(progress)
        self.stop = self.stop or progress.done >= self.rows


@pytest.mark.quick
def test_a_stopped_embedding_goes_on_where_it_was(own_cache, monkeypatch):
    from core.embed import pixels

    monkeypatch.setattr(pixels, "_CHUNK_ROWS", 500)
    data, asked = load(Data(source="builtin:digits")), Embedding(source="pixels")
    with pytest.raises(Stopped):
        embed(data, asked, None, StopsAfter(1000))
    assert not list(own_cache.rglob("*.npy")) and len(list(own_cache.rglob("*.part"))) == 1
    part = next(own_cache.rglob("*.part"))
    marked = np.load(part, mmap_mode="r+")
    marked[999] = 7  # a row that was finished before the stop is not made again
    watcher = Silent()
    vectors = embed(data, asked, None, watcher)
    assert (vectors[999] == 7).all() and np.array_equal(
        np.delete(vectors, 999, 0), np.delete(data.images.reshape(1797, 64), 999, 0)
    )
    assert [heard.done for heard in watcher.heard if heard.kind == "progress"] == [0, 1500, 1797, 1797]
    assert any("1,000 of 1,797 rows were embedded before" in heard.text for heard in watcher.heard)
    assert not list(own_cache.rglob("*.part"))


@pytest.mark.quick
def test_a_table_becomes_standardised_numbers_and_a_feature_a_word(own_cache, tmp_path):
    # n: mean 2, standard deviation sqrt(2/3), so -1.2247, 1.2247 and 0; the missing one is 0 too. Words a and b: 1 / sqrt(2) = 0.7071 where they hold.
    (tmp_path / "a.csv").write_text("n,w,same,id,label\n1,a,5,x1,p\n3,b,5,x2,q\n,a,5,x3,p\n2,,5,x4,q\n")
    data = load(Data(source=str(tmp_path / "a.csv")))
    vectors = embed(data, Embedding(source="tabular", params={"most_values": 2}), None, Silent())
    assert np.allclose(vectors, [[-1.2247, 0.7071, 0], [1.2247, 0, 0.7071], [0, 0.7071, 0], [0, 0, 0]], atol=1e-4)
    (tmp_path / "b.csv").write_text("same,id\n5,x\n5,y\n5,z\n")
    with pytest.raises(DataError, match=r"No column of b.csv \(same, id\) tells its rows apart"):
        embed(load(Data(source=str(tmp_path / "b.csv"))), Embedding(source="tabular", params={"most_values": 2}), None, Silent())


class Words:
    """A tokenizer of whole words, as `pooled` calls one."""

    eos_token_id = 1
    bos_token_id = None

    def __call__(self, rows, truncation, max_length, padding, return_attention_mask):
        return {"input_ids": [[2 + len(word) % 20 for word in row.split()][:max_length] for row in rows]}


def small_model():
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    return BertModel(config).eval()


@pytest.mark.quick
def test_pooling_in_batches_equals_one_text_at_a_time():
    model, rows = small_model(), ["a", "bb ccc d", "", "eeee ff ggg hhhhh i jj", "k l"]
    together = whole(pooled(rows, Words(), model, model.encoder.layer[0], 5, Silent()))
    last = whole(pooled(rows, Words(), model, model.encoder.layer[0], 5, Silent(), pool="last"))
    for at, row in enumerate(rows):
        ids = torch.tensor([Words()([row], True, 5, False, False)["input_ids"][0] or [1]])
        with torch.inference_mode():
            hidden = model(ids, output_hidden_states=True).hidden_states[1]
        assert np.allclose(together[at], hidden[0].mean(0).numpy(), atol=1e-5)
        assert np.allclose(last[at], hidden[0, -1].numpy(), atol=1e-5)


@pytest.mark.quick
def test_pooling_says_how_far_it_is_obeys_a_stop_and_leaves_no_hook_behind():
    model, watcher = small_model(), Silent()
    whole(pooled(["a b"] * 130, Words(), model, model.encoder, 8, watcher))
    assert [heard.done for heard in watcher.heard] == [64, 128, 130]
    with pytest.raises(Stopped):
        whole(pooled(["a b"] * 130, Words(), model, model.encoder, 8, Silent(stop=True)))
    assert all(not module._forward_hooks for module in model.modules())


@pytest.mark.skipif(not builtins.present("minilm"), reason="MiniLM is not fetched here: python3 launch.py fetch minilm")
def test_minilm_puts_questions_of_the_same_meaning_near_each_other():
    from core.embed.minilm import minilm

    rows = ["How tall is Mount Everest?", "What is the height of the highest mountain?", "Who wrote Hamlet?"]
    vectors = whole(minilm(rows, Silent(), 0))
    assert vectors.shape == (3, 384) and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > 0.6 > 0.3 > vectors[0] @ vectors[2]


def test_a_model_embedding_needs_a_model_and_one_of_its_blocks(own_cache):
    from core.model.loading import load as load_model

    data = texts("one two", "three")
    with pytest.raises(ModelError, match="needs an open model"):
        embed(data, Embedding(source="model@0"), None, Silent())
    loaded = load_model("builtin:tiny-llama")
    with pytest.raises(ModelError, match=r"has no block '99'\. Its blocks are 0 to"):
        embed(data, Embedding(source="model@99"), loaded, Silent())
    assert embed(data, Embedding(source="model@1"), loaded, Silent()).shape == (2, loaded.anatomy.hidden)


def test_an_image_classifier_embeds_images_as_its_block_sees_them(own_cache):
    from core.data.images import prepared
    from core.model.loading import load as load_model

    loaded = load_model("builtin:tiny-cnn")
    data = load(Data(source="builtin:digits")).part(np.arange(3))
    vectors = embed(data, Embedding(source="model@1"), loaded, Silent())
    seen = []
    hook = loaded.module(loaded.anatomy.blocks[1].path).register_forward_hook(lambda module, given, out: seen.append(out))
    with torch.inference_mode():
        loaded.model(
            pixel_values=torch.from_numpy(prepared(data.images, loaded.location.path)).to(next(loaded.model.parameters()))
        )
    hook.remove()
    assert np.allclose(vectors, seen[0].mean(dim=(2, 3)).float().numpy(), atol=1e-5)
