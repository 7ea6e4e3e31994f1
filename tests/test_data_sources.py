"""Large and odd sources: opened without being read, cut into chunks without a trace, and what is wrong with them said in a sentence."""

import gzip
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from core.data import arrow_cache, files, records
from core.data.loading import load
from core.errors import BadRows, DataError
from core.recipe import Data

pytestmark = pytest.mark.quick


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNARIUM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def on_disk(monkeypatch):
    """Every source counts as large."""
    monkeypatch.setattr(arrow_cache, "IN_MEMORY_BYTES", 0)


def opened(path, **says):
    return load(Data(source=str(path), **says))


_OPEN = """
import sys
from core.data.loading import load
from core.recipe import Data
import datasets, pyarrow.parquet
def kb(name):
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1])
before = kb("VmRSS")
data = load(Data(source=sys.argv[1]))
part = data.part(data.row[::2])
print(len(data), data.texts[len(data) - 1][:10], data.labels.sum(), part.texts[1][:10], (kb("VmHWM") - before) // 1024, (kb("RssAnon") - 0) // 1024)
"""


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_large_table_opens_within_a_memory_bound(tmp_path, ending):
    """200,000 rows, 52 MB of text: as a list of strings and a frame they would take over 250 MB; the file itself may be mapped."""
    rows, path = 200_000, tmp_path / f"big.{ending}"
    texts = [f"row {at:6} " + "abcdefghij " * 22 for at in range(rows)]
    frame = pa.table({"text": texts, "label": np.arange(rows) % 3, "n": np.arange(rows) / 7})
    if ending == "csv":
        frame.to_pandas().to_csv(path, index=False)
    else:
        pq.write_table(frame, path, row_group_size=50_000, compression="none", use_dictionary=False)
    done = subprocess.run([sys.executable, "-c", _OPEN, str(path)], capture_output=True, text=True, check=True)
    count, last, word, labels, first, second, peak_mb, _ = done.stdout.split()
    assert (count, f"{last} {word}", labels) == ("200000", "row 199999", str((np.arange(rows) % 3).sum()))
    assert (first, second) == ("row", "2") and int(peak_mb) < 200
    assert len(list((tmp_path / "cache" / "tables").glob("*.arrow"))) == 1


def test_every_form_of_a_table_opens_alike(tmp_path, on_disk):
    frame = pd.DataFrame({"text": ["one", "zwei, drei", "fünf"], "label": ["b", "a", "b"], "n": [1, 2, 3], "x": [0.5, -1.0, 2.0]})
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_csv(tmp_path / "a.tsv", index=False, sep="\t")
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True, force_ascii=False)
    frame.to_feather(tmp_path / "a.feather")
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_stream(sink, pa.Table.from_pandas(frame).schema) as out:
        out.write_table(pa.Table.from_pandas(frame))
    for name in ("a.csv", "a.jsonl"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    prints = set()
    for name in ("a.csv", "a.tsv", "a.parquet", "a.jsonl", "a.feather", "a.arrow", "a.csv.gz", "a.jsonl.gz"):
        data = opened(tmp_path / name)
        assert data.texts == ["one", "zwei, drei", "fünf"] and data.label_names == ("a", "b") and data.row.tolist() == [0, 1, 2]
        assert data.frame["x"].tolist() == [0.5, -1.0, 2.0] and data.columns == ("text", "label", "n", "x")
        prints.add(data.fingerprint)
    assert len(prints) == 1


def test_a_large_file_is_converted_once_and_again_when_it_changed(tmp_path, on_disk, monkeypatch):
    (tmp_path / "a.csv").write_text("text,label\none,a\ntwo\nthree,b\n")
    first = opened(tmp_path / "a.csv", skip_bad_rows=True)
    monkeypatch.setattr(files, "_read", lambda *_: pytest.fail("the file was read again"))
    again = opened(tmp_path / "a.csv", skip_bad_rows=True)
    assert again.texts == ["one", "three"] and again.bad_rows == first.bad_rows == ((1, "line 3 has 1 field, the header has 2"),)
    monkeypatch.undo()
    monkeypatch.setenv("PRUNARIUM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a.csv").write_text("text,label\nother,a\n")
    assert opened(tmp_path / "a.csv").texts == ["other"]


def test_columns_are_typed_over_all_chunks_and_fields_keep_what_is_written(tmp_path, on_disk, monkeypatch):
    monkeypatch.setattr(records, "_CHUNK_RECORDS", 2)
    lines = ["007,1,1,90071992547409931234", "1.50,2,,1", "3,3,0.5,2", " 4 , 4 ,1e3,3", "x,5,7,4"]
    (tmp_path / "a.csv").write_text("code,whole,number,id\n" + "\n".join(lines) + "\n")
    frame = opened(tmp_path / "a.csv").frame
    assert frame["code"].tolist() == ["007", "1.50", "3", " 4 ", "x"] and frame["whole"].tolist() == [1, 2, 3, 4, 5]
    assert np.array_equal(frame["number"], [1, np.nan, 0.5, 1000, 7], equal_nan=True)
    assert frame["id"].tolist() == ["90071992547409931234", "1", "2", "3", "4"]
    values = [{"a": 1}, {"a": 2.5, "b": [1]}, {"b": [1, 2]}, {"a": None, "b": [0.5]}, {"a": 2**70}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, values)))
    with pytest.raises(BadRows, match="row 4 holds a whole number of more than 64 bits in 'a'"):
        opened(tmp_path / "a.jsonl")
    frame = opened(tmp_path / "a.jsonl", skip_bad_rows=True).frame
    assert np.array_equal(frame["a"], [1, 2.5, np.nan, np.nan], equal_nan=True) and frame["b"][2].tolist() == [1, 2]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, on_disk, monkeypatch, ending):
    path = tmp_path / f"a.{ending}"
    frame = pd.DataFrame({"text": ["one", "two"]})
    frame.to_csv(path, index=False) if ending == "csv" else frame.to_parquet(path)
    even = arrow_cache._even

    def written_meanwhile(*given):
        with path.open("ab") as file:
            file.write(b"three\n")
        return even(*given)

    monkeypatch.setattr(arrow_cache, "_even", written_meanwhile)
    with pytest.raises(DataError, match=rf"a.{ending} changed while it was being read"):
        opened(path)
    assert not list((tmp_path / "cache").rglob("*.arrow"))


def test_a_file_that_is_cut_off_or_broken_says_from_where(tmp_path, on_disk):
    whole = gzip.compress(("text,label\n" + "".join(f"{at} {hash(at * 7.7)},a\n" for at in range(5000))).encode())
    (tmp_path / "cut.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut.csv.gz ends in the middle, after line [1-9]\d+: its gzip is cut off"):
        opened(tmp_path / "cut.csv.gz")
    (tmp_path / "not.csv.gz").write_bytes(b"text,label\none,a\n")
    with pytest.raises(DataError, match=r"not\.csv\.gz is not a sound gzip file"):
        opened(tmp_path / "not.csv.gz")
    table = pa.table({"text": [f"{at} {at * 7919 % 1000003}" for at in range(4000)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=1000, compression="zstd", use_dictionary=False)
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    (tmp_path / "cut.parquet").write_bytes(content[:-50])
    with pytest.raises(DataError, match=r"cut\.parquet is not a parquet file that can be read"):
        opened(tmp_path / "cut.parquet")
    start = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(2).column(0).data_page_offset
    content[start + 200 : start + 900] = bytes(700)
    (tmp_path / "broken.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.parquet cannot be read in its rows 2000 to 2999"):
        opened(tmp_path / "broken.parquet")


def test_lines_that_are_not_utf8_are_named_and_the_others_kept(tmp_path):
    (tmp_path / "a.csv").write_bytes("text,label\ngood,a\nnaïve,a\nfine,b\n".encode("latin-1"))
    with pytest.raises(BadRows, match=r"row 1 line 3 is not in UTF-8\. Save it again in UTF-8") as caught:
        opened(tmp_path / "a.csv")
    assert caught.value.rows == ((1, "line 3 is not in UTF-8"),)
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "one"}\n{"text": "\xff"}\n{"text": "\\ud800"}\n{"text": "four"}\n')
    data = opened(tmp_path / "a.jsonl", skip_bad_rows=True)
    assert data.row.tolist() == [0, 3] and [why for _, why in data.bad_rows] == [
        "line 2 is not in UTF-8",
        "line 3 holds half of a character (a lone surrogate)",
    ]


def test_mixed_labels_and_one_class_are_said_with_row_numbers_and_nothing_is_dropped(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"t,{label}\n" for label in ("1", "2", "1", "cat", "2", "dog")))
    data = opened(tmp_path / "a.csv")
    assert data.label_names == ("1", "2", "cat", "dog") and len(data) == 6
    assert data.notes == ("The labels of a.csv are mixed: 2 of 6 are words among numbers (rows 3, 5). All are read as words.",)
    (tmp_path / "b.csv").write_text("text,label\none,a\ntwo,a\n")
    assert opened(tmp_path / "b.csv").notes == ("Every label of b.csv is 'a': nothing can be told apart by it.",)


def test_vectors_that_hold_nan_or_are_missing_are_named_in_parquet_too(tmp_path, on_disk):
    vectors = [[1.0, 2.0], [np.nan, 1.0], None, [1.0], [3.0, 4.0], [np.inf, 0.0]]
    pq.write_table(pa.table({"v": pa.array(vectors, pa.list_(pa.float32()))}), tmp_path / "a.parquet")
    with pytest.raises(BadRows) as caught:
        load(Data(source=str(tmp_path / "a.parquet")), "v")
    assert dict(caught.value.rows) == {
        1: "holds NaN or infinity in 'v'",
        2: "holds no list of numbers in 'v'",
        3: "holds 1 numbers in 'v', most rows hold 2",
        5: "holds NaN or infinity in 'v'",
    }


@pytest.mark.parametrize("large", [False, True])
def test_a_folder_of_pictures_has_a_row_a_picture_and_its_folders_are_classes(tmp_path, monkeypatch, large):
    if large:
        monkeypatch.setattr("core.data.pictures.IN_MEMORY_BYTES", 0)
    root = tmp_path / "pets"
    for name, shade, size in (
        ("cat/1.png", 0, (4, 3)),
        ("cat/2.jpg", 255, (4, 3)),
        ("dog/1.png", 255, (8, 6)),
        ("dog/2.png", 0, (4, 3)),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", size, shade).save(root / name)
    (root / "readme.txt").write_text("hello")
    data = opened(root)
    assert data.images.shape == (4, 3, 4) and data.images.mean(axis=(1, 2)).tolist() == [0.0, 1.0, 1.0, 0.0]
    assert isinstance(data.images, np.memmap) == large and opened(root).fingerprint == data.fingerprint
    assert data.label_names == ("cat", "dog") and data.labels.tolist() == [0, 0, 1, 1]
    assert data.frame["file"].tolist() == ["cat/1.png", "cat/2.jpg", "dog/1.png", "dog/2.png"]
    assert data.notes == (
        "One picture of pets has another size than 4 x 3 and was scaled to it, whatever its shape (rows 2).",
        "1 files of pets are no pictures by their names and are no rows (the first: readme.txt).",
    )
    (root / "cat" / "0.png").write_bytes(b"\x89PNG and then nothing")
    with pytest.raises(BadRows, match=r"One of pets's 5 rows cannot be used: row 0 has no image that can be read"):
        opened(root)
    assert opened(root, skip_bad_rows=True).row.tolist() == [1, 2, 3, 4]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no pictures"):
        opened(tmp_path / "empty")


def test_texts_are_a_sequence_without_being_a_list(tmp_path):
    (tmp_path / "a.csv").write_text("text\n" + "".join(f"t{at}\n" for at in range(10)))
    data = opened(tmp_path / "a.csv")
    some = data.part(np.array([9, 2, 2, 0])).texts
    assert (
        not isinstance(data.texts, list)
        and list(some) == ["t9", "t2", "t2", "t0"]
        and some[-1] == "t0"
        and some[1:3] == ["t2", "t2"]
    )
    assert data.texts[::4] == ["t0", "t4", "t8"] and data.texts[5:2] == [] and "t3" in data.texts
    with pytest.raises(IndexError):
        some[4]
