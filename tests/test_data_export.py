"""The kept rows as files: every form holds the same rows, the manifest says where they come from, and equal runs leave equal files."""

import hashlib
import json

import numpy as np
import pandas as pd
import pytest

from core import catalogue, folder, recipe
from core.data.loading import load
from core.data.steps import run_data
from core.errors import RecipeError, Stopped
from core.events import Silent
from core.recipe import Data

FORMS = ["parquet", "csv", "jsonl", "ids", "datasets"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNARIUM_CACHE", str(tmp_path / "cache"))


def ran(path, source, watcher=None, forms=FORMS, **changes):
    path.mkdir()
    whole = {"recipe": 1, "name": "e", "seed": 3, "data": {"source": str(source)}, "select": {"method": "prototypes", "keep": 0.4},
             "clusters": {"count": 2}, "save": {"data": forms}, **changes}  # fmt: skip
    report = run_data(catalogue.resolve(recipe.parse(whole)), path, watcher or Silent())
    return report, path / folder.DATA


def rows_of(tmp_path):
    lines = [
        {"text": f"tëxt, {at}\nline", "label": "ab"[at % 2], "v": [at / 7, 1.0], "x": None if at == 3 else at * 1.5}
        for at in range(10)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path / "a.jsonl"


def test_every_form_holds_the_kept_rows_and_the_manifest_says_what_they_are(tmp_path):
    import datasets

    source = rows_of(tmp_path)
    _, out = ran(tmp_path / "run", source, embedding={"source": "column:v"})
    selection = pd.read_parquet(tmp_path / "run" / "selection.parquet")
    kept = selection["row"][selection["kept"]].tolist()
    texts = [f"tëxt, {row}\nline" for row in kept]
    parquet, text = pd.read_parquet(out / "kept.parquet"), pd.read_csv(out / "kept.csv")
    lines = [json.loads(line) for line in (out / "kept.jsonl").read_text(encoding="utf-8").splitlines()]
    saved = datasets.load_from_disk(str(out / "datasets"))
    assert len(kept) == 4 and [int(row) for row in (out / "kept_ids.txt").read_text().split()] == kept
    for found in (parquet["row"].tolist(), text["row"].tolist(), [line["row"] for line in lines], saved["row"][:]):
        assert list(found) == kept
    for found in (parquet["text"].tolist(), text["text"].tolist(), [line["text"] for line in lines], saved["text"][:]):
        assert list(found) == texts
    assert [json.loads(v) for v in text["v"]] == [line["v"] for line in lines] == [[row / 7, 1.0] for row in kept]
    assert np.allclose(parquet["score"], selection["score"][selection["kept"]]) and "score" in saved.column_names
    assert load(Data(source=str(out / "kept.parquet"))).label_names == load(Data(source=str(out / "datasets"))).label_names
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["data"] == {
        "source": str(source),
        "name": "a.jsonl",
        "sha256": load(Data(source=str(source))).fingerprint,
        "rows": 10,
    }
    assert manifest["kept"]["rows"] == 4 and manifest["seed"] == 3 and manifest["recipe"]["select"]["keep"] == 0.4
    assert (
        manifest["scores"]["lowest_kept"] >= manifest["scores"]["highest_left_out"]
        and manifest["scores"]["method"] == "prototypes"
    )
    assert {"kept.parquet", "kept.csv", "kept.jsonl", "kept_ids.txt", "datasets/state.json"} <= set(manifest["files"])
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest


def test_equal_runs_leave_equal_files_and_pictures_are_png_where_a_form_has_room(tmp_path):
    import datasets

    first, second = (ran(tmp_path / name, "builtin:digits")[1] for name in "ab")
    one, other = (json.loads((out / "manifest.json").read_text()) for out in (first, second))
    assert one == other and one["pictures"].startswith("PNG")
    saved = datasets.load_from_disk(str(first / "datasets"))
    kept = [int(row) for row in (first / "kept_ids.txt").read_text().split()]
    digits = load(Data(source="builtin:digits"))
    assert np.allclose(np.asarray(saved[5]["image"]) / 255, digits.images[kept[5]], atol=1 / 255)
    again = load(Data(source=str(first / "kept.parquet")))
    assert again.images.shape == (719, 8, 8) and np.allclose(again.images, digits.images[kept], atol=1 / 255)
    assert "image" not in pd.read_csv(first / "kept.csv").columns and len(pd.read_csv(first / "kept.csv")) == 719


def test_a_stop_is_obeyed_while_rows_are_saved_and_leaves_no_manifest(tmp_path):
    class StopsThere(Silent):
        def say(self, progress):
            super().say(progress)
            self.stop = self.stop or progress.stage == "save rows"

    with pytest.raises(Stopped):
        ran(tmp_path / "run", "builtin:digits", StopsThere(), forms=["csv", "jsonl"])
    assert not (tmp_path / "run" / "data" / "manifest.json").exists()


@pytest.mark.quick
def test_what_to_save_is_read_from_the_recipe_and_needs_a_selection():
    whole = {
        "recipe": 1,
        "name": "e",
        "data": {"source": "builtin:digits"},
        "select": {"method": "random", "keep": 0.5},
        "save": {"data": ["ids"]},
    }
    asked = recipe.parse(whole)
    assert asked.save.data == ("ids",) and recipe.from_yaml(recipe.to_yaml(asked)) == asked
    with pytest.raises(RecipeError, match=r"save\.data"):
        recipe.parse({**whole, "save": {"data": ["xlsx"]}})
    with pytest.raises(RecipeError, match="say select"):
        recipe.parse({**whole, "select": None, "projection": {"method": "pca"}})
