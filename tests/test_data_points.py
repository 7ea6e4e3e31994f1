"""Questions about points: lassos against a plain reference, words, neighbours."""

import base64
import json

import numpy as np
import pandas as pd
import pytest

from core import serve
from core.serve_points import Plane, inside

pytestmark = pytest.mark.quick


@pytest.fixture
def session(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNARIUM_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    lines = [json.dumps({"text": f"{word} {at}", "label": at % 2, "v": rng.normal(size=4).tolist()})
             for at, word in enumerate(["Apple", "pear", "ÄPFEL", "plum"] * 25)]  # fmt: skip
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    session = serve.Session(tmp_path / "worker")
    ask(session, "open_data", source=str(tmp_path / "a.jsonl"))
    return session


def ask(session, name, **args):
    said = serve.answer(session, json.dumps({"id": 1, "ask": name, "args": args}))
    json.dumps(said, allow_nan=False)
    return said


def drawn(session):
    source = session.parts["data"].asked[0]
    recipe = {"recipe": 1, "name": "m", "data": {"source": source}, "embedding": {"source": "column:v"},
              "select": {"method": "random", "keep": 0.5}, "clusters": {"count": 3}}  # fmt: skip
    return pd.read_parquet(ask(session, "map_data", recipe=recipe)["answer"]["points"])


def mask_of(answer, rows):
    return np.unpackbits(np.frombuffer(base64.b64decode(answer["mask"]), np.uint8))[:rows].astype(bool)


def plain(points, polygon):
    """A point at a time, an edge at a time."""
    out = []
    for x, y in points:
        odd = False
        for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            if (y0 > y) != (y1 > y) and x < x0 + (y - y0) * (x1 - x0) / (y1 - y0):
                odd = not odd
        out.append(odd)
    return np.array(out)


@pytest.mark.parametrize("seed", range(4))
def test_a_lasso_equals_the_plain_reference(seed):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(500, 2))
    for polygon in (rng.normal(size=(3 + 9 * seed, 2)), np.array([[-1, -1], [1, -1], [1, 1], [-1, 1.0]])):
        assert np.array_equal(inside(Plane.of(points[:, 0], points[:, 1]), polygon), plain(points, polygon))


def test_a_triangle_by_hand():
    # The triangle (0,0) (4,0) (0,4): (1,1) is inside; (3,3) lies beyond x + y = 4; (-1,1) is left of it.
    points = np.array([[1, 1], [3, 3], [-1, 1.0]])
    assert inside(Plane.of(points[:, 0], points[:, 1]), np.array([[0, 0], [4, 0], [0, 4.0]])).tolist() == [True, False, False]


def test_a_lasso_answers_count_mask_classes_and_clusters(session, tmp_path):
    box = [[-1, -1], [1, -1], [1, 1], [-1, 1]]
    assert "Draw the map first" in ask(session, "lasso", polygon=box)["remedy"]
    points = drawn(session)
    answer = ask(session, "lasso", polygon=box)["answer"]
    wanted = (points["x"].abs() < 1) & (points["y"].abs() < 1)
    assert 0 < answer["count"] == wanted.sum() < 100 and np.array_equal(mask_of(answer, 100), wanted)
    assert answer["rows"] == points["row"][wanted].tolist()[:50]
    assert answer["labels"] == np.bincount(points["label"][wanted], minlength=2).tolist()
    assert answer["clusters"] == np.bincount(points["cluster"][wanted], minlength=3).tolist()
    points.assign(x=points["x"] + 100).to_parquet(tmp_path / "run.parquet")
    moved = ask(session, "lasso", polygon=[[99, -1], [101, -1], [101, 1], [99, 1]], points=str(tmp_path / "run.parquet"))[
        "answer"
    ]
    assert moved["count"] == answer["count"]
    points.iloc[1:].to_parquet(tmp_path / "other.parquet")
    assert "other rows" in ask(session, "lasso", polygon=box, points=str(tmp_path / "other.parquet"))["problem"]
    assert "holds no map" in ask(session, "lasso", polygon=box, points=str(tmp_path / "none.parquet"))["problem"]
    for broken in ([[0, 0], [1, 1]], [[0, 0], [1, 1], [None, 2]], [[0, 0]] * 6000):
        assert "lasso" in ask(session, "lasso", polygon=broken)["problem"]


def test_a_search_finds_words_whatever_their_case_in_every_alphabet(session):
    assert ask(session, "search", query="apple")["answer"]["count"] == 25
    assert ask(session, "search", query="äpfel")["answer"]["rows"] == list(range(2, 100, 4))
    assert ask(session, "search", query="apple 4")["answer"]["rows"] == [4, 40, 44, 48]
    assert ask(session, "search", query="a.*")["answer"]["count"] == 0
    assert "nothing to search" in ask(session, "search", query="  ")["problem"]
    assert "no column 'v' of words" in ask(session, "search", query="x", column="v")["problem"]


def test_neighbours_and_unknown_rows(session):
    drawn(session)
    near = ask(session, "neighbours", row=7, count=3)["answer"]
    vectors = np.stack(session.parts["data"].dataset.frame["v"])
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = unit @ unit[7]
    assert [line["row"] for line in near] == np.argsort(-cosine)[1:4].tolist()
    assert np.allclose([line["cosine"] for line in near], np.sort(cosine)[::-1][1:4], atol=1e-5)
    assert "has no row 100" in ask(session, "neighbours", row=100)["problem"]


def test_neighbours_and_mistakes_are_of_the_map_that_asks(session):
    drawn(session)
    of = session.parts["data"].last
    assert ask(session, "neighbours", row=7, count=3, of=of) == ask(session, "neighbours", row=7, count=3)
    assert ask(session, "neighbours", row=7, of="another")["answer"] is None
    assert ask(session, "mistakes", of="another")["answer"] is None
    said = ask(session, "mistakes", of=of)["answer"]
    assert said["share"] == pytest.approx(mask_of(said, 100).mean()) and 0.3 < said["share"] < 0.8  # labels are chance
    ask(session, "open_data", source=session.parts["data"].asked[0], label="text")
    assert ask(session, "neighbours", row=7, of=of)["answer"] is None  # opened anew: nothing is held


def test_mistakes_need_labels(session, tmp_path):
    (tmp_path / "b.csv").write_text("text\none\ntwo\n")
    ask(session, "open_data", source=str(tmp_path / "b.csv"))
    assert "label" in ask(session, "mistakes", of="x")["problem"]
    (tmp_path / "c.csv").write_text("text,label\none,a\ntwo,a\n")
    ask(session, "open_data", source=str(tmp_path / "c.csv"))
    assert "same label" in ask(session, "mistakes", of="x")["problem"]


def test_another_order_does_not_lay_the_rows_out_again(session, monkeypatch):
    points = drawn(session)
    monkeypatch.setattr("core.serve_data.trust", None)
    recipe = {"recipe": 1, "name": "m", "data": {"source": session.parts["data"].asked[0]}, "embedding": {"source": "column:v"},
              "select": {"method": "prototypes", "keep": 0.5}, "clusters": {"count": 3}}  # fmt: skip
    other = pd.read_parquet(ask(session, "map_data", recipe=recipe)["answer"]["points"])
    assert other[["x", "y", "trust", "cluster"]].equals(points[["x", "y", "trust", "cluster"]])
    assert not other["rank"].equals(points["rank"])
