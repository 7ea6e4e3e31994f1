"""The data half of a run: exact shares, the same bytes for the same seed, an honest proof, and stops."""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from core import catalogue, recipe
from core.data.dataset import Dataset
from core.data.loading import load
from core.data.prove import hold_out, probe
from core.data.selection import kept_count
from core.data.steps import run_data
from core.errors import DataError, Stopped
from core.events import Silent
from core.recipe import Data

DIGITS = {
    "recipe": 1,
    "name": "d",
    "data": {"source": "builtin:digits"},
    "select": {"method": "prototypes", "keep": 0.3},
    "clusters": {"count": 12},
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNARIUM_CACHE", str(tmp_path / "cache"))


def resolved(**changes):
    return catalogue.resolve(recipe.parse({**DIGITS, **changes}))


def ran(path, watcher=None, **changes):
    path.mkdir()
    return run_data(resolved(**changes), path, watcher or Silent())


def shares(lines, who, share):
    return [line for line in lines if line["selector"] == who and line["share"] == share]


def test_a_run_on_digits_keeps_exactly_the_share_and_writes_every_row(tmp_path):
    report = ran(tmp_path / "run")
    frame = pd.read_parquet(tmp_path / "run" / "selection.parquet")
    assert list(frame.columns) == ["row", "score", "kept", "cluster"] and frame["row"].tolist() == list(range(1797))
    assert frame["kept"].sum() == report["data"]["kept"] == 539 == round(0.3 * 1797)
    assert frame.loc[frame["kept"], "score"].min() >= frame.loc[~frame["kept"], "score"].max()
    text = pd.read_csv(tmp_path / "run" / "selection.csv")
    assert text["kept"].equals(frame["kept"]) and np.allclose(text["score"], frame["score"])
    points = pd.read_parquet(tmp_path / "run" / "points.parquet")
    assert list(points.columns) == ["row", "x", "y", "cluster", "trust"] and points["cluster"].equals(frame["cluster"])
    assert report["prove"] == [] and report["data"]["clusters"] == 12 == len(report["data"]["cluster_sizes"])


def test_the_same_recipe_and_seed_give_the_same_bytes_and_another_seed_does_not(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        ran(tmp_path / name, seed=seed)
    digest = {
        name: [
            hashlib.sha256((tmp_path / name / file).read_bytes()).hexdigest()
            for file in ("selection.parquet", "points.parquet", "selection.csv")
        ]
        for name in "abc"
    }
    assert digest["a"] == digest["b"] and digest["a"][0] != digest["c"][0]


def test_another_process_gives_the_same_selection(tmp_path):
    ran(tmp_path / "here")
    (tmp_path / "there").mkdir()
    code = (
        "import json, sys; from pathlib import Path; from core import catalogue, recipe; from core.data.steps import run_data;"
        "from core.events import Silent; r = catalogue.resolve(recipe.parse(json.loads(sys.argv[1])));"
        "run_data(r, Path(sys.argv[2]), Silent())"
    )
    environment = {**os.environ, "PRUNARIUM_CACHE": str(tmp_path / "other cache"), "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code, json.dumps(DIGITS), str(tmp_path / "there")], check=True, env=environment)
    for file in ("selection.parquet", "points.parquet"):
        assert (tmp_path / "here" / file).read_bytes() == (tmp_path / "there" / file).read_bytes()


def test_the_proof_trains_selection_random_and_whole_on_the_same_held_out_rows(tmp_path):
    watcher = Silent()
    lines = ran(tmp_path / "run", watcher, prove={"shares": [0.05, 0.3], "seeds": 2})["prove"]
    assert len(lines) == 2 * (1 + 2 * 4)
    arms = ("prototypes", "opposite", "random", "random + distillation")
    assert {(line["selector"], line["share"]) for line in lines} == {
        ("all", 1.0),
        *((who, at) for who in arms for at in (0.05, 0.3)),
    }
    for share in (0.05, 0.3):
        chosen, chance = shares(lines, "prototypes", share), shares(lines, "random", share)
        assert [line["rows"] for line in chosen] == [line["rows"] for line in chance] == [kept_count(1442, share)] * 2
        assert [line["seed"] for line in chosen] == [0, 1]
    assert {line["test_rows"] for line in lines} == {355}
    assert min(line["accuracy"] for line in shares(lines, "all", 1.0)) > 0.95
    ticks = [heard.done for heard in watcher.heard if heard.stage == "prove"]
    assert ticks == list(range(19))


def test_random_is_trained_once_where_random_is_what_was_chosen(tmp_path):
    lines = ran(
        tmp_path / "run", select={"method": "random", "keep": 0.2}, prove={"seeds": 2, "shares": [0.2], "baselines": ["random"]}
    )["prove"]
    assert [line["selector"] for line in lines] == ["all", "random", "all", "random"]


def test_easy_and_hard_prototypes_keep_opposite_ends(tmp_path):
    kept = {}
    for prefer in ("hard", "easy"):
        ran(tmp_path / prefer, select={"method": "prototypes", "keep": 0.5, "params": {"prefer": prefer}})
        kept[prefer] = pd.read_parquet(tmp_path / prefer / "selection.parquet")["kept"].to_numpy()
    assert (kept["hard"] & kept["easy"]).sum() <= 1  # 1,797 is odd: the middle row may be in both


def test_a_random_selector_needs_no_score(tmp_path):
    ran(tmp_path / "run", select={"selector": "random", "keep": 0.25})
    frame = pd.read_parquet(tmp_path / "run" / "selection.parquet")
    assert frame["score"].isna().all() and frame["kept"].sum() == 449


@pytest.mark.quick
def test_held_out_rows_are_a_fifth_of_each_class_and_never_in_the_pool():
    labels = np.repeat([0, 1, 2], [50, 20, 4])
    pool, test = hold_out(labels, seed=0)
    assert np.bincount(labels[test], minlength=3).tolist() == [10, 4, 0]
    assert len(np.intersect1d(pool, test)) == 0 and len(pool) + len(test) == 74
    assert not np.array_equal(test, hold_out(labels, seed=1)[1])


@pytest.mark.quick
def test_a_proof_without_enough_rows_or_classes_is_refused():
    with pytest.raises(DataError, match="at least two classes"):
        hold_out(np.zeros(50, int), 0)
    with pytest.raises(DataError, match="No class has the 5 rows"):
        hold_out(np.arange(20), 0)


@pytest.mark.quick
def test_the_probe_is_right_on_what_is_separable_and_answers_the_only_class_it_saw():
    train, labels = np.array([[0.0, 1], [0, 2], [5, 1], [5, 2]]), np.array([0, 0, 1, 1])
    assert probe(train, labels, np.array([[0.0, 3], [5, 3]]), np.array([0, 1])) == 1.0
    assert probe(train[:2], labels[:2], train, labels) == 0.5


def test_a_proof_without_labels_is_refused_before_anything_is_embedded(tmp_path):
    (tmp_path / "a.csv").write_text("text\none two\nthree four\nfive six\n")
    with pytest.raises(DataError, match="has no labels, and the proof needs them"):
        ran(tmp_path / "run", data={"source": str(tmp_path / "a.csv")}, embedding={"source": "tfidf"}, prove={})
    assert list((tmp_path / "run").iterdir()) == [] and not (tmp_path / "cache").exists()


@pytest.mark.parametrize("stage", ["load", "embed", "cluster", "project", "select", "prove"])
def test_a_stop_is_obeyed_in_every_stage(tmp_path, stage):
    class StopsThere(Silent):
        def say(self, progress):
            super().say(progress)
            self.stop = self.stop or progress.stage == stage

    watcher = StopsThere()
    with pytest.raises(Stopped):
        ran(tmp_path / "run", watcher, prove={"seeds": 2})
    assert watcher.heard[-1].stage == stage


def test_a_map_alone_needs_no_selection(tmp_path):
    report = ran(tmp_path / "run", select=None, projection={"method": "pca"})
    assert report["data"]["kept"] is None and sorted(p.name for p in (tmp_path / "run").iterdir()) == ["points.parquet"]


def test_umap_is_seeded_and_keeps_more_neighbours_than_pca(tmp_path):
    from core.data.projection import project, trust

    images = load(Data(source="builtin:digits")).images.reshape(1797, -1)[:300]
    asked = recipe.Projection(method="umap", neighbours=10)
    places, trusted = project(images, asked, 3, Silent())
    again, _ = project(images, asked, 3, Silent())
    assert np.array_equal(places, again) and places.shape == (300, 2)
    flat, flat_trusted = project(images, recipe.Projection(), 3, Silent())
    assert trusted.mean() > flat_trusted.mean() and np.array_equal(flat_trusted, trust(images, flat))


@pytest.mark.quick
def test_kept_counts_round_to_the_nearest_and_never_to_none():
    assert [kept_count(10, share) for share in (0.0, 0.04, 0.25, 0.35, 1.0)] == [1, 1, 3, 4, 10]


@pytest.mark.quick
def test_parts_of_a_data_set_keep_the_row_numbers():
    frame = pd.DataFrame({"row": [4, 7, 9], "label": ["a", "b", "a"]})
    whole = Dataset("d", frame, ["x", "y", "z"], None, np.array([0, 1, 0]), ("a", "b"))
    part = whole.part(np.array([2, 0]))
    assert part.row.tolist() == [9, 4] and part.texts == ["z", "x"] and part.labels.tolist() == [0, 0]
