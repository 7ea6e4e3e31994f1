"""What the worker answers about data."""

import base64
import io
import json

import numpy as np
import pandas as pd
import pytest

from core import serve, serve_data
from core.folder import finite

pytestmark = pytest.mark.quick
RECIPE = {
    "recipe": 1,
    "name": "map",
    "data": {"source": "builtin:digits"},
    "select": {"method": "prototypes", "keep": 0.3},
    "clusters": {"count": 8},
}


@pytest.fixture
def session(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNARIUM_CACHE", str(tmp_path / "cache"))
    return serve.Session(tmp_path / "worker")


def ask(session, name, **args):
    said = serve.answer(session, json.dumps({"id": 1, "ask": name, "args": args}))
    json.dumps(said, allow_nan=False)
    return said


def test_a_map_has_a_place_a_cluster_a_score_and_a_rank_for_each_row(session):
    facts = ask(session, "open_data", source="builtin:digits")["answer"]
    assert facts["rows"] == 1797 and facts["kind"] == "images" and sum(facts["class_counts"]) == 1797
    assert {"pixels", "model", "column"} == {entry["name"] for entry in facts["embeddings"]}
    said = ask(session, "map_data", recipe=RECIPE)["answer"]
    points = pd.read_parquet(said["points"])
    assert said["ready"] and said["features"] == 64 and len(said["sizes"]) == 8
    assert list(points.columns) == ["row", "x", "y", "trust", "cluster", "label", "score", "rank"]
    assert sorted(points["rank"]) == list(range(1797)) and points.sort_values("rank")["score"].is_monotonic_decreasing


def test_the_rank_is_the_order_in_which_a_run_keeps_rows(session, tmp_path):
    from core import catalogue, method, recipe
    from core.data.steps import run_data
    from core.events import Silent

    ask(session, "open_data", source="builtin:digits")
    for number, select in enumerate(({"method": "prototypes"}, {"method": "random"}, {"selector": "random"})):
        whole = {**RECIPE, "select": {**select, "keep": 0.2}}
        points = pd.read_parquet(ask(session, "map_data", recipe=whole)["answer"]["points"])
        path = tmp_path / str(number)
        path.mkdir()
        run_data(catalogue.resolve(recipe.parse(whole), tuple(method.cards())), path, Silent())
        kept = pd.read_parquet(path / "selection.parquet")["kept"]
        assert np.array_equal(points["rank"] < kept.sum(), kept)


def test_rows_are_shown_with_label_and_picture(session):
    from PIL import Image

    ask(session, "open_data", source="builtin:digits")
    first, second = ask(session, "rows", rows=[0, 1796])["answer"]
    assert (first["row"], first["label"], second["row"]) == (0, "0", 1796)
    picture = Image.open(io.BytesIO(base64.b64decode(first["picture"].removeprefix("data:image/png;base64,"))))
    assert picture.size == (56, 56)


def test_long_texts_are_cut_and_other_columns_stand_in_for_missing_text(session, tmp_path):
    (tmp_path / "a.csv").write_text("text\n" + "x" * 999 + "\n")
    ask(session, "open_data", source=str(tmp_path / "a.csv"))
    assert len(ask(session, "rows", rows=[0])["answer"][0]["text"]) == 300
    (tmp_path / "b.csv").write_text("a,b\n1,two\n")
    ask(session, "open_data", source=str(tmp_path / "b.csv"))
    assert ask(session, "rows", rows=[0])["answer"] == [{"row": 0, "text": "a: 1, b: two"}]


def test_neighbours_are_the_nearest_by_cosine_without_the_row_itself(session):
    ask(session, "open_data", source="builtin:digits")
    assert "Draw the map first" in ask(session, "neighbours", row=5)["remedy"]
    ask(session, "map_data", recipe=RECIPE)
    near = ask(session, "neighbours", row=5, count=4)["answer"]
    images = session.parts["data"].dataset.images.reshape(1797, -1)
    cosine = images @ images[5] / np.linalg.norm(images, axis=1) / np.linalg.norm(images[5])
    assert [line["row"] for line in near] == np.argsort(-cosine)[1:5].tolist()


def test_bad_rows_a_missing_row_and_no_data_are_sentences(session, tmp_path):
    assert ask(session, "rows", rows=[0])["problem"] == "No data set is open."
    (tmp_path / "a.csv").write_text("text,label\none,a\ntwo\n")
    said = ask(session, "open_data", source=str(tmp_path / "a.csv"))
    assert "row 1 line 3 has 1 field" in said["problem"] and "skip_bad_rows" in said["remedy"]
    assert ask(session, "open_data", source=str(tmp_path / "a.csv"), skip_bad_rows=True)["answer"]["bad_rows"] == [
        [1, "line 3 has 1 field, the header has 2"]
    ]
    assert "has no row 1" in ask(session, "rows", rows=[1])["problem"]


def test_an_embedding_that_would_take_long_is_left_to_a_run(session, tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("text\n" + "some words\n" * 2000)
    ask(session, "open_data", source=str(tmp_path / "a.csv"))
    whole = {**RECIPE, "data": {"source": str(tmp_path / "a.csv")}, "embedding": {"source": "builtin:minilm"}}
    said = ask(session, "map_data", recipe=whole)["answer"]
    assert said == {"ready": False, "seconds": 25.0}
    assert finite(serve_data.ROWS_A_SECOND) == serve_data.ROWS_A_SECOND
