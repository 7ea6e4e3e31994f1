"""Opening files: what is sound is read, what is broken is named by number."""

import json

import numpy as np
import pandas as pd
import pytest

from core.data.loading import load
from core.errors import BadRows, DataError, ResourceError
from core.recipe import Data

pytestmark = pytest.mark.quick


def opened(path, **says):
    return load(Data(source=str(path), **says))


def test_a_sound_csv_gives_numbered_rows_texts_and_named_classes(tmp_path):
    (tmp_path / "a.csv").write_text('text,label,n\n"one, two",b,1\nthree,a,2\n\n"four\nlines",b,3\n')
    data = opened(tmp_path / "a.csv")
    assert data.texts == ["one, two", "three", "four\nlines"]
    assert data.label_names == ("a", "b") and data.labels.tolist() == [1, 0, 1]
    assert data.row.tolist() == [0, 1, 2] and data.columns == ("text", "label", "n")
    assert data.frame["n"].tolist() == [1, 2, 3]


def test_bad_csv_rows_are_named_by_number_and_reason(tmp_path):
    (tmp_path / "a.csv").write_text('text,label\none,a\ntwo\nthree,b,c\n ,a\nfive,\n"six,a\nseven,b\n')
    with pytest.raises(BadRows) as caught:
        opened(tmp_path / "a.csv")
    reasons = dict(caught.value.rows)
    assert sorted(reasons) == [1, 2, 3, 4, 5]
    assert reasons[1] == "line 3 has 1 field, the header has 2" and reasons[2] == "line 4 has 3 fields, the header has 2"
    assert reasons[3] == "has no text" and reasons[4] == "has no label" and reasons[5] == "line 7 opens a quote that never closes"
    assert "5 of a.csv's 7 rows" in caught.value.problem and "skip_bad_rows" in caught.value.remedy


def test_skipping_bad_rows_keeps_the_numbers_of_the_others(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\none,a\ntwo\nthree,b\n")
    data = opened(tmp_path / "a.csv", skip_bad_rows=True)
    assert data.texts == ["one", "three"] and data.row.tolist() == [0, 2]
    assert data.bad_rows == ((1, "line 3 has 1 field, the header has 2"),)


def test_only_the_first_five_bad_rows_are_spelled_out(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\n" + "x\n" * 9 + "one,a\n")
    with pytest.raises(BadRows) as caught:
        opened(tmp_path / "a.csv")
    assert len(caught.value.rows) == 9 and caught.value.problem.count("has 1 field") == 5 and "..." in caught.value.problem


def test_bad_jsonl_rows_are_named_by_number_and_reason(tmp_path):
    lines = ['{"text": "one", "label": 1}', "{broken", "[1]", '{"text": NaN, "label": 1}', '{"text": "", "label": 0}', '{"text": "five"}',
             '{"text": 6, "label": 0}', '{"text": "seven", "label": 0}']  # fmt: skip
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    with pytest.raises(BadRows) as caught:
        opened(tmp_path / "a.jsonl")
    assert dict(caught.value.rows) == {
        1: "line 2 is not valid JSON",
        2: "line 3 is not a JSON object",
        3: "line 4 holds NaN, which JSON does not have",
        4: "has no text",
        5: "has no label",
        6: "holds a number in the column 'text', where earlier rows hold text",
    }
    data = opened(tmp_path / "a.jsonl", skip_bad_rows=True)
    assert data.row.tolist() == [0, 7] and data.label_names == ("0", "1")


def test_a_form_feed_or_line_separator_inside_a_text_does_not_cut_the_row(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "one\x0c two   three"}, ensure_ascii=False) + "\n", encoding="utf-8")
    (tmp_path / "b.csv").write_text("text,label\none\x0ctwo   three,a\n", encoding="utf-8")
    assert opened(tmp_path / "a.jsonl").texts == ["one\x0c two   three"]
    assert opened(tmp_path / "b.csv").texts == ["one\x0ctwo   three"]


@pytest.mark.parametrize("word", ["None", "NA", "null", "nan", "N/A"])
def test_words_that_look_like_nothing_stay_words(tmp_path, word):
    (tmp_path / "a.csv").write_text(f"text,label\n{word},a\nother,{word}\n")
    data = opened(tmp_path / "a.csv")
    assert data.texts == [word, "other"] and word in data.label_names


def test_a_missing_column_is_answered_with_the_nearest_name(tmp_path):
    (tmp_path / "a.csv").write_text("question,kind\none,a\n")
    with pytest.raises(DataError, match=r"no column 'qestion' for text\. Did you mean 'question'\? It has: question, kind\."):
        opened(tmp_path / "a.csv", text="qestion")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"", "is empty"),
        ("a.csv", b"  \n \n", "is empty"),
        ("a.csv", b"text,label\n", "has a header and no rows"),
        ("a.csv", b"\x00\x01\x02PNG\x00" * 50, "is not a text file"),
        ("a.csv", "text,label\nnaïve,a\n".encode("latin-1"), "row 0 line 2 is not in UTF-8"),
        ("a.csv", b"text,text\none,a\n", "has two columns called 'text'"),
        ("a.csv", b"text,\none,a\n", "has a column without a name"),
        ("a.jsonl", b"\n\n", "is empty"),
        ("a.jsonl", b"\xff\xfe{", "is not in UTF-8"),
        ("a.parquet", b"PAR1 and then nothing", "is not a parquet file"),
        ("a.parquet", b"", "is not a parquet file"),
    ],
)
def test_a_file_that_is_no_table_costs_one_sentence(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        opened(tmp_path / name)
    assert says in caught.value.problem and caught.value.remedy.endswith(".")


def test_a_file_that_is_not_there_a_folder_and_another_ending_are_refused(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    for source, says in (
        (tmp_path / "none.csv", "is not there"),
        (tmp_path / "folder.csv", "is a folder"),
        ("./a.pkl", "is not a data set"),
    ):
        with pytest.raises(DataError, match=says):
            opened(source)


def test_a_file_full_of_stray_quotes_is_read_in_one_go(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\none,a\n" + '"a,b\n' * 20001)
    data = opened(tmp_path / "a.csv", skip_bad_rows=True)
    assert data.texts == ["one"] and len(data.bad_rows) == 20001


def test_when_every_row_is_bad_skipping_says_so(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\none\ntwo\n")
    with pytest.raises(DataError, match="no row that can be used"):
        opened(tmp_path / "a.csv", skip_bad_rows=True)


def test_parquet_is_read_and_its_missing_values_are_bad_rows(tmp_path):
    pd.DataFrame({"text": ["one", None, "three"], "label": [1.0, 0.0, np.nan]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(BadRows) as caught:
        opened(tmp_path / "a.parquet")
    assert dict(caught.value.rows) == {1: "has no text", 2: "has no label"}
    assert opened(tmp_path / "a.parquet", skip_bad_rows=True).label_names == ("1",)


def test_vectors_with_nan_or_another_length_are_bad_rows(tmp_path):
    rows = [{"v": [1.0, 2.0]}, {"v": [1.0]}, {"v": None}, {"v": [3.0, 4.0]}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(BadRows) as caught:
        load(Data(source=str(tmp_path / "a.jsonl")), "v")
    assert dict(caught.value.rows) == {1: "holds 1 numbers in 'v', most rows hold 2", 2: "holds no list of numbers in 'v'"}


def test_glob_signs_in_a_file_name_and_a_column_called_row_do_no_harm(tmp_path):
    (tmp_path / "a[1]*.csv").write_text("text,row\none,9\n")
    data = opened(tmp_path / "a[1]*.csv")
    assert data.texts == ["one"] and data.row.tolist() == [0] and data.frame["row_"].tolist() == [9]


def test_images_in_parquet_are_read_as_grey_values(tmp_path):
    datasets = pytest.importorskip("datasets")
    from PIL import Image

    pictures = [Image.fromarray(np.full((4, 5), value, np.uint8)) for value in (0, 255)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["dark", "light"])})
    datasets.Dataset.from_dict({"image": pictures, "label": [0, 1]}, features=features).to_parquet(tmp_path / "a.parquet")
    data = opened(tmp_path / "a.parquet")
    assert data.images.shape == (2, 4, 5) and data.images.mean(axis=(1, 2)).tolist() == [0.0, 1.0]
    assert data.label_names == ("dark", "light") and data.texts is None


def test_files_are_read_without_a_network(tmp_path, monkeypatch):
    import socket

    def refuse(*_, **__):
        raise AssertionError("a connection was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    pd.DataFrame({"text": ["one"]}).to_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("text\none\n")
    assert opened(tmp_path / "a.parquet").texts == opened(tmp_path / "a.csv").texts == ["one"]


def test_the_hub_out_of_reach_is_one_sentence():
    with pytest.raises(ResourceError, match="cannot be had from the hub"):
        load(Data(source="owner/name@main"))  # conftest sets HF_HUB_OFFLINE


def test_what_the_hub_keeps_pickled_is_not_read(monkeypatch):
    datasets = pytest.importorskip("datasets")
    pickled = type("Pandas", (), {"__module__": "datasets.packaged_modules.pandas.pandas"})
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *_, **__: pickled())
    with pytest.raises(DataError, match="is kept as pandas, which is not read here"):
        load(Data(source="owner/name"))


def test_equal_contents_have_equal_fingerprints_and_any_change_changes_them(tmp_path):
    contents = [
        "text,label\none,a\ntwo,b\n",
        "text,label\none,a\ntwo,b\n",
        "text,label\none,a\ntwo,c\n",
        "text,label\none,a\ntwo!,b\n",
    ]
    prints = []
    for at, content in enumerate(contents):
        (tmp_path / f"{at}.csv").write_text(content)
        prints.append(opened(tmp_path / f"{at}.csv").fingerprint)
    assert prints[0] == prints[1] and len(set(prints)) == 3
