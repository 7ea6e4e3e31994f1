"""Text into sequences of tokens: for calibration (random windows) and for perplexity (all windows in order). Tokenised once, then cached."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import LongTensor
from transformers import PreTrainedTokenizerBase

from core import builtins
from core.errors import DataError, ModelError, ResourceError
from core.model.inputs.tokenise import encode

_TABLES = (".csv", ".jsonl", ".parquet")
_PLAIN = (".txt", ".md")
_CACHE_VERSION = 1


def sequences(
    source: str,
    tokenizer: PreTrainedTokenizerBase | None,
    samples: int | None,
    tokens: int,
    seed: int | None,
    column: str | None = None,
) -> LongTensor:
    """(samples, tokens) token ids of a text source: builtin:wikitext2/SPLIT, builtin:python-docs, a .txt, .md, .csv, .jsonl or .parquet file.

    The rows of the source are joined (WikiText-2 as the field does: with two line ends for test and valid, with a space for train; tables
    with two line ends) and tokenised as one text, with the tokenizer's own special tokens around the whole. With a `seed`: windows at
    uniformly random places (SparseGPT's and Wanda's calibration). Without: windows one after the other from the start, the rest left out
    (the field's perplexity protocol); `samples` None takes all there are.
    Raises DataError: empty, shorter than one sample, fewer windows than asked for, no such column; ModelError: no tokenizer.
    """
    ids = token_ids(source, tokenizer, column)
    if len(ids) < tokens:
        raise DataError(
            f"{source} has {len(ids):,} tokens, fewer than one sample of {tokens:,}.",
            "Give a longer text, or ask for fewer tokens a sample.",
        )
    if seed is not None:
        if samples is None:
            raise DataError("Random windows need a number of samples.", "Say how many samples to draw.")
        starts = np.random.default_rng(seed).integers(0, len(ids) - tokens + 1, size=samples)
    else:
        there = len(ids) // tokens
        if samples is not None and samples > there:
            raise DataError(
                f"{source} has {there:,} windows of {tokens:,} tokens, fewer than the {samples:,} samples asked for.",
                f"Ask for {there:,} samples or fewer, or give a longer text.",
            )
        starts = np.arange(there if samples is None else samples) * tokens
    return _windows(ids, starts, tokens)


def stream(
    source: str, tokenizer: PreTrainedTokenizerBase | None, batch: int, tokens: int, seed: int, column: str | None = None
) -> Iterator[LongTensor]:
    """Endless (batch, tokens) ids at random places of the whole source: what recovery trains on. Errors as `sequences`, at the first one."""
    ids = token_ids(source, tokenizer, column)
    if len(ids) < tokens:
        raise DataError(
            f"{source} has {len(ids):,} tokens, fewer than one sample of {tokens:,}.",
            "Give a longer text, or ask for fewer tokens a sample.",
        )
    random = np.random.default_rng(seed)
    while True:
        yield _windows(ids, random.integers(0, len(ids) - tokens + 1, size=batch), tokens)


def predicted_bytes(tokenizer: PreTrainedTokenizerBase, sequences: LongTensor) -> int:
    """Bytes of text, as UTF-8, in all tokens of these sequences (samples, tokens) but each one's first, which nothing predicts.

    By the tokenizer's own decoding, special tokens left out; where a window's edge cuts a character in two, that is one or two bytes off.
    """
    said = [
        tokenizer.batch_decode(part, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for part in (sequences, sequences[:, :1])
    ]
    whole, first = (sum(len(text.encode("utf-8", "replace")) for text in texts) for texts in said)
    return whole - first


def _windows(ids: np.ndarray, starts: np.ndarray, tokens: int) -> LongTensor:
    return torch.from_numpy(np.stack([ids[start : start + tokens] for start in starts]).astype(np.int64))


def token_ids(source: str, tokenizer: PreTrainedTokenizerBase | None, column: str | None = None) -> np.ndarray:
    """All token ids of a source, int32, from the cache where the same text met the same tokenizer before."""
    if tokenizer is None:
        raise ModelError(
            "This model has no tokenizer, so it cannot read text.",
            "Add tokenizer.json to its folder, or take a model that has one.",
        )
    text = read_source(source, column)
    place = builtins.cache_dir() / "tokens" / f"{_cache_key(text, tokenizer)}.npy"
    if place.is_file():
        try:
            return np.load(place, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, OSError):
            place.unlink(missing_ok=True)  # damaged: made anew below
    ids = encode(text, tokenizer)
    _keep(place, ids)
    return ids


def _cache_key(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = (
        backend.to_str() if backend is not None else json.dumps([type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())])
    )
    own = json.dumps([_CACHE_VERSION, type(tokenizer).__name__, tokenizer.special_tokens_map], default=str)
    found = hashlib.sha256()
    for part in (own, rules, text):
        found.update(hashlib.sha256(part.encode("utf-8", "surrogatepass")).digest())
    return found.hexdigest()


def _keep(place: Path, ids: np.ndarray) -> None:
    """Write the ids whole or not at all. Raises ResourceError where there is no room."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=place.parent, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as stream:
                np.save(stream, ids)
            Path(name).replace(place)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ResourceError(
            f"The tokens cannot be kept in {place.parent} ({error.strerror or error}).",
            "Free some room, or point PRUNARIUM_CACHE at another disk.",
        ) from error


def read_source(source: str, column: str | None = None) -> str:
    """The whole text of a source. Raises DataError: nothing there, empty, not text, no such column."""
    if source.startswith("builtin:"):
        text = builtins.text_join(source).join(builtins.read_text(source))
    else:
        path = Path(source).expanduser()
        if not path.is_file():
            raise DataError(f"There is no text file at {source}.", "Check the path, or use builtin:wikitext2/train.")
        if path.suffix.lower() in _TABLES:
            text = "\n\n".join(_column(path, column))
        elif path.suffix.lower() in _PLAIN:
            text = _decoded(path)
        else:
            raise DataError(
                f"{path.name} is not a kind of text file that is read here.", f"Use one of {', '.join((*_PLAIN, *_TABLES))}."
            )
    if not text.strip():
        raise DataError(f"{source} is empty.", "Give a text with words in it.")
    return text


def _decoded(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise DataError(f"{path.name} is not UTF-8 text.", "Save it as UTF-8.") from None


def _column(path: Path, column: str | None) -> list[str]:
    import pandas as pd

    wanted = column or "text"
    if not path.stat().st_size:
        return []
    try:
        match path.suffix.lower():
            case ".csv":
                frame = pd.read_csv(path, dtype=str, keep_default_na=False)
            case ".jsonl":
                frame = pd.read_json(path, lines=True, dtype=False)
            case _:
                frame = pd.read_parquet(path)
    except (ValueError, OSError) as error:  # pandas' parser errors and Arrow's are ValueErrors
        raise DataError(
            f"{path.name} cannot be read as a table ({str(error).splitlines()[0][:120]}).", "Repair the file."
        ) from None
    if wanted not in frame.columns:
        names = ", ".join(str(name) for name in frame.columns[:8])
        raise DataError(f"{path.name} has no column called {wanted}.", f"Say which column holds the text; it has {names}.")
    return [str(value) for value in frame[wanted] if isinstance(value, str) and value.strip()]
