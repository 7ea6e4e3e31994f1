"""Selectors and quotas by hand as the page asks for them: the rows shown are those that the run keeps; the treemap's answers; who errs."""

import base64
import json
import time
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pandas as pd
import pytest

from core import catalogue, method, recipe, serve
from core.data.mistakes import FOLDS, mistaken
from core.data.steps import run_data
from core.errors import PrunariumError
from core.events import Silent
from studio.rooms.data import choosing, dataplan, dataview, drawing, quotas
from studio.rooms.data.dataplan import Choice
from studio.rooms.data.dataview import View

pytestmark = pytest.mark.quick
RECIPE = {
    "recipe": 1,
    "name": "choice",
    "data": {"source": "builtin:digits"},
    "clusters": {"count": 8},
    "select": {"score": "prototypes", "selector": "cluster_quotas", "keep": 0.3, "params": {"quotas": "0: 0.9, 3: 0"}},
}


@pytest.fixture
def session(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNARIUM_CACHE", str(tmp_path / "cache"))
    held = serve.Session(tmp_path / "worker")
    ask(held, "open_data", source="builtin:digits")
    return held


def ask(session, name, **args):
    said = serve.answer(session, json.dumps({"id": 1, "ask": name, "args": args}))
    json.dumps(said, allow_nan=False)
    return said.get("answer", said)


def mask(said, rows=1797):
    return np.unpackbits(np.frombuffer(base64.b64decode(said["mask"]), np.uint8), count=rows).astype(bool)


@pytest.mark.parametrize(
    ("selector", "params"),
    [("cluster_quotas", {"quotas": "0: 0.9, 3: 0"}), ("ccs", {"beta": 0.1}), ("top", {"band": "lowest"}), ("kmq", {"rounds": 2})],
)
def test_what_the_page_shows_is_what_the_run_keeps(session, tmp_path, selector, params):
    whole = {**RECIPE, "select": {"score": "prototypes", "selector": selector, "keep": 0.3, "params": params}}
    said = ask(session, "decide", recipe=whole)
    run_data(catalogue.resolve(recipe.parse(whole), tuple(method.cards())), tmp_path, Silent())
    kept = pd.read_parquet(tmp_path / "selection.parquet")["kept"].to_numpy()
    assert said["count"] == kept.sum() == 539 and np.array_equal(mask(said), kept)


def test_a_moved_quota_is_answered_at_once_and_by_its_cluster(session):
    ask(session, "decide", recipe=RECIPE)  # the scores are known from then on
    start = time.perf_counter()
    again = {**RECIPE, "select": {**RECIPE["select"], "params": {"quotas": "1: 0.5"}}}
    said = ask(session, "decide", recipe=again)
    assert time.perf_counter() - start < 2  # 0.03 s on an idle core; a limit, not the figure
    frame = pd.read_parquet(ask(session, "map_data", recipe=again)["points"])
    mine = frame["cluster"] == 1
    assert mask(said)[mine].sum() == int(np.floor(mine.sum() / 2 + 0.5))


def test_a_selector_that_takes_long_is_a_run(session, monkeypatch):
    from core import serve_choice

    monkeypatch.setattr(serve_choice, "_WORK_A_SECOND", 1.0)
    said = ask(session, "decide", recipe={**RECIPE, "select": {"score": "prototypes", "selector": "herding", "keep": 0.3}})
    assert not said["ready"] and said["seconds"] > 1e6


def test_the_treemap_splits_all_rows_and_says_what_is_in_them(session):
    said = ask(session, "treemap", recipe=RECIPE, count=9, colour="error", width=900, height=500)
    assert said["rows"] == 1797 == sum(cell["rows"] for cell in said["cells"]) and len(said["cells"]) == 9 and said["direct"]
    assert all(cell["pictures"][0]["picture"].startswith("data:image/png") for cell in said["cells"])
    assert all(0 <= cell["value"] <= 1 and sum(n for _, n in cell["classes"]) <= cell["rows"] for cell in said["cells"])
    inner = ask(session, "treemap", recipe=RECIPE, node=said["cells"][0]["node"], count=4)
    assert inner["rows"] == said["cells"][0]["rows"] and inner["path"][0]["rows"] == 1797
    pair = ask(session, "compare_clusters", recipe=RECIPE, nodes=[inner["cells"][0]["node"], inner["cells"][0]["sibling"]])
    assert len(pair["sides"]) == 2 and -1 <= pair["cosine"] <= 1
    kept = ask(session, "treemap", recipe=RECIPE, count=9, colour="kept")
    assert sum(cell["value"] * cell["rows"] for cell in kept["cells"]) == pytest.approx(539)
    assert "holds the other" in ask(session, "compare_clusters", recipe=RECIPE, nodes=[said["node"], 0])["problem"]
    assert "no cluster 99999" in ask(session, "treemap", recipe=RECIPE, node=99999)["problem"]


def test_errors_need_labels_and_one_row_has_no_clusters(session, tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n" + "".join(f"{at},{at * at}\n" for at in range(9)))
    ask(session, "open_data", source=str(tmp_path / "a.csv"))
    whole = {**RECIPE, "data": {"source": str(tmp_path / "a.csv")}, "embedding": {"source": "tabular"}, "clusters": {"count": 2}}
    assert "no labels" in ask(session, "treemap", recipe=whole, colour="error")["problem"]
    assert len(ask(session, "treemap", recipe=whole, colour="score", count=20)["cells"]) == 9


def test_the_probe_is_least_squares_on_the_other_folds():
    from sklearn.linear_model import Ridge

    random = np.random.default_rng(0)
    labels = np.arange(60) % 3
    vectors = np.eye(5)[labels] + random.normal(scale=0.6, size=(60, 5))
    found = mistaken(vectors, labels, 0)
    assert np.array_equal(found, mistaken(vectors, labels, 0)) and 0 < found.mean() < 0.6
    from core.data.draws import generator

    points, draw, fold = vectors / np.linalg.norm(vectors, axis=1, keepdims=True), generator(0, "mistakes"), np.empty(60, int)
    for label in range(3):
        mine = draw.permutation(np.flatnonzero(labels == label))
        fold[mine] = (np.arange(20) + label) % FOLDS
    for k in range(FOLDS):
        rest = fold != k
        model = Ridge(alpha=0.01 * rest.sum() / 6).fit(points[rest], np.eye(3)[labels[rest]])
        assert np.array_equal(model.predict(points[~rest]).argmax(axis=1) != labels[~rest], found[~rest])


def test_a_choice_becomes_a_recipe_with_its_selector_and_the_trees_clusters():
    view = View(Choice(way="el2n prefer=hard", clusters=12, merged=True), {}, {"ready": True, "sizes": [1] * 12})
    of = choosing.clusters_of(view)
    quotas = {"of": of, "shares": {"3": 0.25}}
    now = choosing.with_selector(view, "selector:cluster_quotas", {}, quotas)
    said = dataplan.to_recipe(now.choice, 0.1234)
    assert said.clusters.method == "agglomerative" and said.clusters.count == 12 and said.select.keep == 0.1234
    assert said.select.selector == "cluster_quotas" and said.select.params == {"prefer": "hard", "quotas": "3: 0.25"}
    assert choosing.with_selector(now, "selector:cluster_quotas", {}, quotas) is now
    other = choosing.with_selector(now, "selector:ccs", {"selector:ccs": {"bins": 9}}, quotas)
    assert dataplan.to_recipe(other.choice).select.params == {"prefer": "hard", "bins": 9}
    back = choosing.with_selector(other, choosing.USUAL, {}, quotas)
    assert back.choice == view.choice and dataplan.to_recipe(back.choice).select.method == "el2n"
    stale = {"of": "other rows", "shares": {"3": 0.25}}
    assert "quotas" not in dict(choosing.with_selector(view, "selector:cluster_quotas", {}, stale).choice.params)
    assert Choice.of(json.loads(json.dumps(now.choice.to_dict()))) == now.choice


def test_a_choice_from_the_page_is_looked_at_place_by_place(tmp_path):
    """What the treemap is asked about comes from the page: a second data set and a model in it are no way round the opened folders."""
    from studio.rooms.data.treemap import admitted

    def admit(source):
        if source.startswith("/"):
            raise PrunariumError(f"{source} is in no opened folder.", "Open its folder first.")
        return source

    bench = SimpleNamespace(admit=admit, workspace=SimpleNamespace(read=lambda: SimpleNamespace(model="builtin:tiny-llama")))
    way = next(key for _, key in dataplan.ways() if key.startswith("dsir"))
    bad = Choice("builtin:trec/train", way=way, params=(("target", "/private.csv"),))
    with pytest.raises(PrunariumError, match="no opened folder"):
        admitted(bench, bad)
    with pytest.raises(PrunariumError, match="no opened folder"):
        admitted(bench, Choice("/other.csv"))
    assert admitted(bench, Choice("builtin:trec/train", model="/a/model")).model == "builtin:tiny-llama"


def test_bars_set_by_hand_are_no_proof():
    from studio.rooms.data import crossing, proving

    choice = Choice("builtin:trec/train", selector="cluster_quotas", params=(("quotas", "0: 0.9"),))
    with pytest.raises(PrunariumError, match="reset the bars"):
        proving.recipe_of(choice, "text", True, 0.5, "linear", "5, 10", 2)
    with pytest.raises(PrunariumError, match="reset the bars"):
        crossing.recipe_of(choice, "text", True, ("mlp", "50", "50", 2))


def test_another_order_of_the_same_rows_keeps_the_selector_and_other_clusters_lose_the_quotas():
    before = Choice(clusters=12, selector="cluster_quotas", params=(("quotas", "3: 0.25"),))
    now = choosing.carried(Choice(way="el2n prefer=easy", clusters=12, params=(("seeds", 2),)), before)
    assert (now.selector, now.params) == ("cluster_quotas", (("quotas", "3: 0.25"), ("seeds", 2)))
    view, hand = View(now, {}, {"ready": True}), {"of": choosing._clusters_of(now), "shares": {"3": 0.25}}
    assert choosing.with_selector(view, "selector:cluster_quotas", {}, hand) is view  # drawn so already: no second drawing
    assert choosing.carried(Choice(clusters=9), before).params == ()
    old = Choice(way="el2n prefer=easy", params=(("seeds", 2),))
    assert choosing.carried(Choice(), old) == Choice()  # the old score's controls are not the new one's


def test_bars_and_slider_that_contradict_each_other_are_said_in_the_pages_words(session, tmp_path):
    def answered(name, timeout_s, **args):
        said = ask(session, name, **args)
        if "problem" in said:
            raise PrunariumError(said["problem"], said["remedy"])
        return said

    bench = SimpleNamespace(worker=SimpleNamespace(ask=answered), runs=tmp_path)
    view = dataview.open_view(bench, Choice(clusters=8, selector="cluster_quotas", params=(("quotas", "0: 0.9, 3: 0"),)))
    for keep, says in ((1, "keep more than the slider allows"), (30, ""), (100, "keep less than the slider asks")):
        choosing.decide(bench, view, keep)
        assert choosing.undecided(view) == bool(says) and says in (choosing.note(view) or {"note": ""})["note"]
        shown = drawing._size_note(view, "Every cluster keeps", "9 of 99 rows stay")
        assert (shown["badge"], "By the order alone: every" in shown["title"]) == (("", True) if says else ("measured", False))
    assert dataview.points(bench, view, "pca")[0].get("stays") is None  # nothing of the share before


def test_one_row_of_very_many_is_a_share_that_slider_and_recipe_know():
    def told(**said):
        return quotas.told(gr.EventData(None, {"of": "x", "turn": 1, "shares": {"0": 0}, **said}))

    assert told(keep=1 / 60_000)[1] == 0.01 and told(keep=0.12345)[1] == 12.35 and told(keep=1)[1] == 100
    assert dataplan.to_recipe(Choice(), told(keep=1e-9)[1] / 100).select.keep == 0.0001
    for keep in (0, -1, 1.01, float("nan")):
        with pytest.raises(PrunariumError, match="one row stays at the least"):
            told(keep=keep)
