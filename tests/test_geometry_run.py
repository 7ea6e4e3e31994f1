"""A data set in every block of a model, as a run: what is collected, measured, compared and left; and bad input as sentences."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from core import recipe
from core.data.embedding import embed
from core.data.loading import load as load_rows
from core.errors import DataError, ModelError, PrunariumError, RecipeError, Stopped
from core.events import Silent
from core.geometry import collect
from core.geometry.collect import HEAD
from core.model.loading import load
from core.recipe import ByLayer, Data, Embedding
from core.run import run

TEXTS = [
    f"{word} {thing} number {n}"
    for n in range(12)
    for word, thing in (("the quick", "fox"), ("what is a", "river"), ("when did", "war"))
]
CNN = {"recipe": 1, "name": "g", "model": {"source": "builtin:tiny-cnn"}, "data": {"source": "builtin:mnist5k/heldout"}}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(collect, "cache_dir", lambda: tmp_path / "cache")


@pytest.fixture
def texts(tmp_path):
    file = tmp_path / "texts.csv"
    pd.DataFrame({"text": TEXTS, "label": [n % 3 for n in range(36)]}).to_csv(file, index=False)
    return str(file)


def ran(path, watcher=None, **says):
    report = run(recipe.parse({"recipe": 1, "name": "g", **says}), path, watcher)
    return report, json.loads((path / "geometry.json").read_text()), pd.read_parquet(path / "geometry.parquet")


def test_one_pass_gives_every_block_what_an_embedding_of_that_block_gives_alone(texts):
    loaded, rows = load("builtin:tiny-llama"), load_rows(Data(source=texts))
    spaces = collect.collect(loaded, rows, ByLayer(), Silent())
    assert spaces.labels == ("input", *(block.name for block in loaded.anatomy.blocks)) and spaces.answers is None
    for block in (0, 3):
        alone = embed(rows, Embedding(source=f"model@{block}", params={"tokens": 128}), loaded, Silent())
        assert np.allclose(spaces.vectors[1 + block], alone, atol=1e-5)
    last = collect.collect(loaded, rows, ByLayer(pool="last"), Silent())
    ids = torch.tensor([loaded.tokenizer(TEXTS[5])["input_ids"]])
    with torch.no_grad():
        own = loaded.model(input_ids=ids, output_hidden_states=True).hidden_states
    assert np.allclose(last.vectors[0][5], own[0][0, -1], atol=1e-5) and np.allclose(last.vectors[2][5], own[2][0, -1], atol=1e-4)


def test_a_run_measures_every_block_with_its_chance_and_reads_the_rows_once(tmp_path):
    one, two = Silent(), Silent()
    says = {**CNN, "geometry": {"rows": 120, "neighbours": 8}}
    report, found, places = ran(tmp_path / "one", one, **says)
    side = found["sides"][0]
    at_head = side["layers"].index(HEAD)
    assert side["layers"][0] == "input" and len({len(values) for values in side["measures"].values()}) == 1
    assert found["data"] | {"classes": 0} == {"source": "builtin:mnist5k/heldout", "name": "builtin:mnist5k/heldout", "rows": 120, "of": 1000,
                                             "classes": 0, "kind": "images"}  # fmt: skip
    assert side["measures"]["nc4"][at_head] > 0.9 > side["chance"]["ncc"][at_head] and side["measures"]["nc4"][0] is None
    assert 0 < side["measures"]["nc3"][at_head] < 1.4 and side["measures"]["nc1"][at_head] < side["chance"]["nc1"][at_head]
    assert side["measures"]["nc1"][at_head] < side["measures"]["nc1"][0]  # it collapses on the way
    assert found["drift"]["against"] == "the block before" and found["drift"]["chance_kept"] == 8 / 119
    assert set(places["layer"]) == set(side["layers"][1:]) and len(places) == 120 * at_head
    means = places.groupby("layer")["shared"].mean()
    assert all(means[line["layer"]] == pytest.approx(line["kept"]) for line in found["drift"]["layers"])
    assert (
        means.drop("head").between(0.1, 0.95).all() and means["head"] == 1
    )  # the head reads the last block's mean, which is what is pooled of it
    assert report.geometry["sides"][0]["measures"] == side["measures"] and "cka" not in report.geometry["sides"][0]
    _, again, _ = ran(tmp_path / "two", two, **says)
    assert (
        again == found
        and (tmp_path / "one" / "geometry.parquet").read_bytes() == (tmp_path / "two" / "geometry.parquet").read_bytes()
    )
    assert not any("used again" in at.text for at in one.heard) and any("used again" in at.text for at in two.heard)
    assert report.data is None


def test_dense_against_pruned_by_steps_and_by_a_finished_runs_mask_agree(tmp_path):
    prune = {"steps": [{"prune": {"method": "magnitude", "sparsity": 0.7}}]}
    ask = {"rows": 60, "neighbours": 5}
    _, steps, places = ran(tmp_path / "steps", **CNN, **prune, geometry=ask)
    run(recipe.parse({**{key: CNN[key] for key in ("recipe", "name", "model")}, **prune}), tmp_path / "pruned")
    _, mask, same = ran(tmp_path / "mask", **CNN, geometry={**ask, "against": str(tmp_path / "pruned")})
    assert [side["name"] for side in steps["sides"]] == ["builtin:tiny-cnn", "pruned"] and mask["sides"][1]["name"] == "pruned"
    assert steps["drift"]["layers"] == mask["drift"]["layers"] and places.equals(same)
    first, last = steps["drift"]["layers"][0], steps["drift"]["layers"][-1]
    assert (first["layer"], first["kept"], first["turned"]) == ("input", 1, False) and 5 / 59 < last["kept"] < 1
    dense, pruned = (side["measures"]["nc4"][-1] for side in steps["sides"])
    assert dense > pruned
    between = steps["drift"]["cka_between"]
    assert len(between) == len(between[0]) == len(steps["sides"][0]["layers"]) and between[0][0] == pytest.approx(1)


def test_rows_without_labels_or_of_one_class_and_duplicates_are_measured_as_far_as_they_can_be(tmp_path):
    file = tmp_path / "same.csv"
    pd.DataFrame({"text": TEXTS[:20] + TEXTS[:6], "label": ["one"] * 26}).to_csv(file, index=False)
    _, found, _ = ran(
        tmp_path / "run", model={"source": "builtin:tiny-llama"}, data={"source": str(file)}, geometry={"neighbours": 4}
    )
    side = found["sides"][0]
    assert "All rows are of one class: neural collapse needs two." in found["notes"] and "nc1" not in side["measures"]
    assert side["distinct"] == [20] * len(side["layers"]) and None not in side["measures"]["two_nn"]


@pytest.mark.parametrize(("says", "kind", "sentence"), [
    ({"data": {"source": "builtin:digits"}}, RecipeError, "geometry needs model"),
    ({"model": {"source": "builtin:tiny-llama"}}, RecipeError, "geometry needs data"),
    ({"model": {"source": "builtin:tiny-llama"}, "data": {"source": "builtin:digits"}}, DataError, "reads texts, and builtin:digits has none"),
    ({"model": {"source": "builtin:tiny-cnn"}, "data": {"source": "TEXTS"}}, DataError, "reads images, and texts.csv has none"),
    ({"model": {"source": "builtin:tiny-llama"}, "data": {"source": "TEXTS"}, "geometry": {"neighbours": 40}}, DataError, "40 neighbours were asked of 36"),
    ({"model": {"source": "builtin:tiny-llama"}, "data": {"source": "TEXTS"}, "geometry": {"neighbors": 4}}, RecipeError, "neighbors"),
    ({**CNN, "geometry": {"against": "/nowhere/at/all"}}, ModelError, "/nowhere/at/all"),
    ({**CNN, "steps": [{"prune": {"method": "magnitude", "sparsity": 0.5}}], "geometry": {"against": "x"}}, RecipeError, "leave geometry.against out"),
])  # fmt: skip
def test_bad_input_is_a_sentence(tmp_path, texts, says, kind, sentence):
    says = {"geometry": {"rows": 40}, **json.loads(json.dumps(says).replace("TEXTS", texts))}
    with pytest.raises(PrunariumError, match=sentence) as raised:
        ran(tmp_path / "run", **says)
    assert isinstance(raised.value, kind) and raised.value.remedy


def test_vectors_that_are_no_numbers_are_named_by_row(texts):
    loaded, rows = load("builtin:tiny-llama"), load_rows(Data(source=texts))
    with torch.no_grad():
        loaded.model.get_input_embeddings().weight[loaded.tokenizer(TEXTS[4])["input_ids"][-1]] = float("nan")
    with pytest.raises(DataError, match=r"gives no finite vector in input for \d+ rows \(the first: 3, 4, 5"):
        collect.collect(loaded, rows, ByLayer(), Silent())


def test_a_stop_is_heard_between_two_batches(tmp_path):
    with pytest.raises(Stopped):
        ran(tmp_path / "run", Silent(stop=True), **CNN, geometry={"rows": 60})
    assert not (tmp_path / "run" / "geometry.json").exists()
