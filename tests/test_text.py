"""Text becomes sequences of tokens: random windows to calibrate on, windows in a row to measure on."""

from __future__ import annotations

import logging
import warnings
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import processors

from core import builtins
from core.errors import DataError, ModelError, ResourceError
from core.model.inputs.text import read_source, sequences, stream, token_ids
from core.model.inputs.tokenise import encode
from core.model.loading import read_tokenizer
from tests.model_folders import letters

WORDS = "the quick brown fox jumps over the lazy dog 0123456789\n"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRUNARIUM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """1,100 letters, each of them one token."""
    path = tmp_path / "a.txt"
    path.write_text(WORDS * 20)
    return path


def spelled(row: torch.Tensor) -> str:
    return letters().decode(row, clean_up_tokenization_spaces=False)


@pytest.mark.quick
def test_without_a_seed_the_windows_follow_one_another_from_the_start(text: Path):
    found = sequences(str(text), letters(), None, 100, None)
    assert found.dtype == torch.int64 and found.shape == (11, 100)
    assert "".join(spelled(row) for row in found) == (WORDS * 20)[:1100]
    assert torch.equal(sequences(str(text), letters(), 3, 100, None), found[:3])


@pytest.mark.quick
def test_with_a_seed_the_windows_are_random_and_the_same_every_time(text: Path):
    found = sequences(str(text), letters(), 40, 100, 7)
    assert found.shape == (40, 100)
    assert all(spelled(row) in WORDS * 20 for row in found)
    assert torch.equal(found, sequences(str(text), letters(), 40, 100, 7))
    assert not torch.equal(found, sequences(str(text), letters(), 40, 100, 8))


@pytest.mark.quick
def test_a_window_may_be_the_whole_text(text: Path):
    assert sequences(str(text), letters(), 2, 1100, 0).shape == (2, 1100)


@pytest.mark.quick
def test_a_text_shorter_than_one_sample_is_refused_with_both_figures(text: Path):
    with pytest.raises(DataError, match="has 1,100 tokens, fewer than one sample of 1,101") as caught:
        sequences(str(text), letters(), 2, 1101, 0)
    assert "longer text" in caught.value.remedy
    with pytest.raises(DataError, match="fewer than one sample"):
        next(stream(str(text), letters(), 2, 1101, 0))


@pytest.mark.quick
def test_more_windows_than_there_are_is_refused_with_how_many_there_are(text: Path):
    with pytest.raises(DataError, match=r"fewer than the 12 samples asked for\. Ask for 11 samples or fewer"):
        sequences(str(text), letters(), 12, 100, None)


@pytest.mark.quick
@pytest.mark.parametrize("content", ["", "  \n\n "])
@pytest.mark.parametrize("suffix", [".txt", ".md"])
def test_an_empty_text_is_refused(content: str, suffix: str, tmp_path: Path):
    path = tmp_path / f"empty{suffix}"
    path.write_text(content)
    with pytest.raises(DataError, match="is empty") as caught:
        sequences(str(path), letters(), 2, 8, 0)
    assert caught.value.remedy


@pytest.mark.quick
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_tables_are_read_by_column(suffix: str, tmp_path: Path):
    path, frame = (
        tmp_path / f"a{suffix}",
        pd.DataFrame({"text": ["one", "", "two"], "body": ["x", "NA", "z"], "number": [1, 2, 3]}),
    )
    {".csv": lambda: frame.to_csv(path, index=False), ".jsonl": lambda: frame.to_json(path, orient="records", lines=True),
     ".parquet": lambda: frame.to_parquet(path)}[suffix]()  # fmt: skip
    assert read_source(str(path)) == "one\n\ntwo"
    assert read_source(str(path), "body") == "x\n\nNA\n\nz"
    with pytest.raises(
        DataError, match=r"has no column called essay\. Say which column holds the text; it has text, body, number"
    ):
        read_source(str(path), "essay")


@pytest.mark.quick
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
@pytest.mark.parametrize("content", [b"", b"\x00\xff{[\x00"])
def test_a_table_that_is_empty_or_damaged_is_refused(name: str, content: bytes, tmp_path: Path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_source(str(tmp_path / name))
    assert caught.value.remedy and "\n" not in str(caught.value)


@pytest.mark.quick
def test_what_is_no_text_is_refused(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    for name, said in (("a.txt", "not UTF-8"), ("a.pdf", "not a kind of text file"), ("b.txt", "no text file at")):
        with pytest.raises(DataError, match=said):
            read_source(str(tmp_path / name))


@pytest.mark.quick
def test_a_model_without_a_tokenizer_cannot_read_text(text: Path):
    with pytest.raises(ModelError, match=r"has no tokenizer, so it cannot read text\. Add tokenizer\.json"):
        sequences(str(text), None, 2, 8, 0)


@pytest.mark.quick
def test_a_text_is_tokenised_once_for_each_content_and_tokenizer(text: Path, own_cache: Path):
    first = token_ids(str(text), letters())
    (copy := text.with_name("b.txt")).write_text(text.read_text())
    assert np.array_equal(token_ids(str(copy), letters()), first)
    assert len(list((own_cache / "tokens").iterdir())) == 1
    other = letters()
    other.add_tokens(["fox"])
    assert len(token_ids(str(text), other)) < len(first)
    copy.write_text("changed")
    assert len(token_ids(str(copy), letters())) == len("changed")
    assert len(list((own_cache / "tokens").iterdir())) == 3


@pytest.mark.quick
def test_what_is_cached_is_what_is_used(text: Path, own_cache: Path):
    token_ids(str(text), letters())
    (kept,) = (own_cache / "tokens").iterdir()
    np.save(kept, np.full(200, 5, dtype=np.int32))
    assert sequences(str(text), letters(), 1, 8, 0).tolist() == [[5] * 8]


@pytest.mark.quick
@pytest.mark.parametrize("content", [b"", b"no array", b"\x93NUMPY\x01\x00"])
def test_a_damaged_cache_is_made_anew(content: bytes, text: Path, own_cache: Path):
    first = np.array(token_ids(str(text), letters()))
    (kept,) = (own_cache / "tokens").iterdir()
    kept.write_bytes(content)
    assert np.array_equal(token_ids(str(text), letters()), first)


@pytest.mark.quick
def test_a_cache_that_cannot_be_written_is_said(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PRUNARIUM_CACHE", str(tmp_path / "file"))
    with pytest.raises(ResourceError, match="tokens cannot be kept"):
        token_ids(str(text), letters())


@pytest.mark.quick
def test_a_text_longer_than_the_model_reads_gives_no_warning(
    text: Path, capfd: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
):
    with warnings.catch_warnings(), caplog.at_level(logging.DEBUG, logger="transformers"):
        warnings.simplefilter("error")
        token_ids(str(text), letters())
    assert "longer" not in caplog.text + capfd.readouterr().err


@pytest.mark.quick
def test_a_stream_never_ends_and_draws_from_the_whole_text(text: Path):
    batches = list(islice(stream(str(text), letters(), 4, 50, 3), 40))
    assert {batch.shape for batch in batches} == {(4, 50)}
    assert not torch.equal(batches[0], batches[1])
    again = list(islice(stream(str(text), letters(), 4, 50, 3), 40))
    assert all(torch.equal(one, two) for one, two in zip(batches, again, strict=True))


@pytest.mark.quick
def test_pieces_joined_are_the_same_as_one_go():
    """The demo's own tokenizer, whose tokens are whole words, on text with many bytes a letter."""
    tokenizer = read_tokenizer(builtins.model_path("tiny-llama"))
    rare = "Ünïcödé — 日本語 — 🙂🙂 mixed with plain words, \n\n and = headings = \n"
    text = "".join(f"{index} {WORDS}{rare if index % 3 else ''}" for index in range(400))
    whole = tokenizer(text, verbose=False)["input_ids"]
    for piece, overlap in ((5_000, 1_000), (2_345, 678), (len(text), 100)):
        assert encode(text, tokenizer, piece, overlap).tolist() == whole


@pytest.mark.quick
def test_pieces_joined_have_the_special_tokens_around_the_whole_only():
    tokenizer = letters()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single='! $A " #', special_tokens=[("!", 0), ('"', 1), ("#", 2)]
    )
    found = encode(WORDS * 20, tokenizer, 300, 100).tolist()
    assert found == tokenizer(WORDS * 20, verbose=False)["input_ids"]
    assert found[0] == 0 and found[-2:] == [1, 2] and len(found) == 1100 + 3


@pytest.mark.quick
def test_pieces_that_cannot_be_joined_are_tokenised_in_one_go():
    """One word of 3,000 letters has no place where two pieces agree on tokens around it."""
    tokenizer = read_tokenizer(builtins.model_path("tiny-llama"))
    text = "thequickbrownfoxjumpsoverthelazydog" * 90
    assert encode(text, tokenizer, 500, 20).tolist() == tokenizer(text, verbose=False)["input_ids"]
