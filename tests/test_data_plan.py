"""The Data room without its screen: recipes from controls, figures and findings from points, finished runs found again."""

import json
import os

import numpy as np
import pandas as pd
import pytest

from core import folder
from core.data.selection import kept_count
from core.errors import PrunariumError, RecipeError
from core.recipe import parse, to_dict, to_yaml
from studio.charts import data as charts
from studio.rooms.data import dataplan, dataview, proving, samples
from studio.rooms.data.dataplan import Choice

pytestmark = pytest.mark.quick


def points(rows=40, names=2):
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {"row": np.arange(rows) * 2, "x": random.normal(size=rows), "y": random.normal(size=rows), "trust": 0.5,
         "cluster": np.arange(rows) % 4, "label": np.arange(rows) % names, "score": np.linspace(1, 0, rows), "rank": np.arange(rows)}
    )  # fmt: skip


@pytest.mark.parametrize("rows", [1, 7, 40, 1797])
def test_the_slider_keeps_as_many_rows_as_a_run(rows):
    for percent in range(1, 101):
        assert charts.kept_rows(points(rows), percent / 100).sum() == kept_count(rows, percent / 100)


def test_every_way_to_choose_makes_a_recipe_that_the_catalogue_knows():
    keys = [key for _, key in dataplan.ways()]
    assert keys[0] == Choice.way == "prototypes prefer=hard" and "prototypes prefer=easy" in keys and keys[-1] == "random"
    for key in keys:
        targets = tuple((param.name, "builtin:digits") for param in dataplan.score_card(key).params if param.grammar == "data")
        choice = Choice(way=key, model="builtin:tiny-llama", params=targets)
        recipe = proving.recipe_of(choice, "images", True, 0.25, "linear", "10, 30 60 %", 3)
        whole = dataplan.catalogue.resolve(recipe)
        assert (whole.select.keep, whole.prove.shares) == (0.25, (0.1, 0.25, 0.3, 0.6))
        assert parse(to_dict(recipe)) == recipe


def test_the_controls_of_a_score_are_in_the_recipe_and_a_model_only_where_it_reads_with_one():
    moved = to_dict(dataplan.to_recipe(Choice(way="el2n prefer=easy", model="builtin:tiny-llama", params=(("seeds", 2),))))
    assert moved["select"]["params"] == {"seeds": 2, "prefer": "easy"} and "model" not in moved
    assert "model" in to_dict(dataplan.to_recipe(Choice(way="perplexity prefer=low", model="builtin:tiny-llama")))
    assert [param.name for param in dataplan.score_card("el2n prefer=easy").params] == ["learner", "seeds", "epochs"]


def test_controls_become_the_recipe_that_they_say():
    choice = Choice("a/my rows!.csv", "q", "k", True, "model@2", clusters=9, model="builtin:tiny-llama")
    recipe = to_dict(dataplan.to_recipe(choice, 0.5, "umap"))
    assert recipe["data"] == {"source": "a/my rows!.csv", "text": "q", "label": "k", "skip_bad_rows": True}
    assert recipe["model"] == {"source": "builtin:tiny-llama"} and recipe["clusters"] == {"count": 9}
    assert recipe["projection"] == {"method": "umap"} and recipe["name"] == "my-rows-prototypes-50"
    with pytest.raises(RecipeError):
        dataplan.to_recipe(Choice(embedding="model@2"))


def finished(root, name, recipe, **files):
    path = root / name
    path.mkdir(parents=True)
    (path / folder.RECIPE).write_text(to_yaml(recipe))
    (path / folder.REPORT).write_text(json.dumps({"prove": files.pop("prove", [])}))
    for file in files.values():
        (path / file).write_bytes(b"x")
    return path


def test_a_finished_run_is_found_again_only_for_what_it_did(tmp_path):
    lines = [{"share": 0.3, "selector": "random", "seed": 0, "accuracy": 0.5}]
    hard, easy = Choice(), Choice(way="prototypes prefer=easy")
    chosen = finished(tmp_path, "a", dataplan.to_recipe(hard, 0.3, prove={"learner": "mlp"}), a=folder.SELECTION, prove=lines)
    mapped = finished(tmp_path, "b", dataplan.to_recipe(easy, 0.5, "umap"), a=folder.POINTS)
    assert dataplan.found_selection(tmp_path, hard, 0.3) == chosen
    assert dataplan.found_selection(tmp_path, hard, 0.31) is None and dataplan.found_selection(tmp_path, easy, 0.3) is None
    found = dataplan.found_proof(tmp_path, hard)
    assert (found.lines, found.learner) == (lines, "mlp") and dataplan.found_proof(tmp_path, easy) is None
    assert dataplan.found_map(tmp_path, hard) == mapped / folder.POINTS  # a map does not depend on what is kept
    assert dataplan.found_map(tmp_path, Choice("builtin:mnist5k")) is None
    (tmp_path / "b" / folder.REPORT).unlink()
    assert dataplan.found_map(tmp_path, hard) is None


def shade_of(marker, at):
    """The colour whose band holds the value."""
    return next(shade for (low, shade), (high, _) in zip(marker.colorscale[::2], marker.colorscale[1::2], strict=True)
                if low <= marker.color[at] < high)  # fmt: skip


def test_a_points_place_in_the_map_is_its_place_in_the_table():
    frame = points()
    figure = charts.points_map(frame, 0.25, "label", ["a", "b"], ("PC 1", "PC 2"))
    assert np.array_equal(figure.data[0].x, frame["x"])
    marker = figure.data[0].marker
    assert [value == 0 for value in marker.color] == [False] * 10 + [True] * 30 and marker.colorscale[0] == (0, charts.GONE)
    assert shade_of(marker, 0) == charts.MANY[int(frame["label"].iloc[0])]
    assert sum(trace.type == "scattergl" for trace in figure.data) == 1
    assert [trace.name for trace in figure.data[1:]] == ["a", "b", "goes"]


def test_names_from_files_are_never_markup_in_a_figure():
    evil = "<a href='javascript:alert(1)'>x</a>"
    frame = points()
    for figure in (
        charts.points_map(frame, 0.5, "label", [evil, "b"], ("PC 1", "PC 2")),
        charts.sizes(frame, 0.5, "label", [evil, "b"]),
    ):
        assert "<a" not in figure.to_json().replace("\\u003c", "<") and "&lt;a" in figure.to_json()


@pytest.mark.parametrize("colour", list(charts.WAYS))
def test_rows_without_scores_or_labels_can_be_drawn_too(colour):
    frame = points().assign(score=np.float32("nan"), label=-1, error=np.arange(40) % 2)
    figure = charts.points_map(frame, 0.5, "cluster" if colour == "label" else colour, [], ("PC 1", "PC 2"))
    json.loads(figure.to_json())
    assert "class" not in figure.data[0].text[0] and "score" not in figure.data[0].text[0]


def test_sizes_count_what_stays_in_each_group_and_the_finding_names_the_ends():
    frame = points(8).assign(cluster=[0, 0, 0, 0, 1, 1, 1, 1], label=0)  # half stay: all of cluster 0
    table = charts.size_table(frame, 0.5, "cluster", [])
    assert table["kept"].tolist() == [4, 0] and table["rows"].tolist() == [4, 4]
    assert charts.size_finding(frame, 0.5, "cluster", []) == "Cluster 1 keeps 0 % of its rows, cluster 0 100 %"
    assert charts.size_finding(frame, 1.0, "cluster", []) == "Every cluster keeps nearly the same share"
    assert charts.size_finding(frame, 0.5, "label", ["a"]) == "There is one group only"


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (("text", True, 0.3, "cnn", "10", 3), "The CNN learns from images, and these rows have none"),
        (("images", True, 0.3, "tiny-llama", "10", 3), "Tiny Llama learns from texts"),
        (("images", False, 0.3, "linear", "10", 3), "The proof needs labels"),
        (("images", True, 0.3, "linear", "ten", 3), "'ten' is not a list of shares. Write per cents above 0"),
        (("images", True, 0.3, "linear", "10, 120", 3), "is not a list of shares"),
    ],
)
def test_controls_that_these_rows_cannot_follow_are_refused_in_a_sentence(asked, says):
    with pytest.raises(PrunariumError, match=says):
        proving.recipe_of(Choice(), *asked)


def test_embeddings_on_offer_suit_the_rows_and_the_opened_model():
    card = [{"name": name, "label": name, "summary": ""} for name in ("column", "minilm", "model", "tfidf")]
    about = {"kind": "text", "embeddings": card, "vector_columns": ["v"]}
    model = {"kind": "decoder", "name": "m", "blocks": [1, 2, 3, 4, 5]}
    sources = [source for _, source in dataview.embeddings(about, model)]
    assert sources[0] == "column:v" and set(sources) == {"tfidf", "builtin:minilm", "column:v", "model@0", "model@2", "model@4"}
    assert "model@0" not in [source for _, source in dataview.embeddings({**about, "kind": "images"}, model)]


def test_many_rows_are_thinned_evenly_with_both_ends():
    assert samples.evenly(np.arange(10, 110), 5).tolist()[::4] == [10, 109] and len(samples.evenly(np.arange(3), 5)) == 3


def test_a_selection_of_a_file_that_changed_since_is_not_found(tmp_path):
    source, made = tmp_path / "a.csv", tmp_path / "selection.parquet"
    source.write_text("x")
    made.write_text("y")
    os.utime(made, (1000, 1000))
    os.utime(source, (999, 999))
    assert dataplan.unchanged(str(source), made) and dataplan.unchanged("builtin:trec/train", made)
    os.utime(source, (1001, 1001))
    assert not dataplan.unchanged(str(source), made)
