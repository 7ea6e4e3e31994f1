"""A long text into token ids in bounded memory: piece by piece, with the same result as in one go.

One call for a whole corpus keeps about 150 bytes a character. Here the text is cut into pieces that overlap; two neighbours are joined inside
the overlap at a place where both begin a token and agree on the tokens around it. Tokenisers are local, so they then agree beyond it too.
"""

from __future__ import annotations

import numpy as np
from transformers import PreTrainedTokenizerBase

PIECE = 50_000  # characters
OVERLAP = 2_000
_AROUND = 16  # tokens that must agree on each side of a joint
_TOGETHER = 4  # pieces encoded in one call: the tokenizer spreads them over threads


def encode(text: str, tokenizer: PreTrainedTokenizerBase, piece: int = PIECE, overlap: int = OVERLAP) -> np.ndarray:
    """int32 ids of the whole text, with the tokenizer's special tokens around it: what one call with all of it gives."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if len(text) <= piece or backend is None:
        return _whole(text, tokenizer)
    starts = range(0, len(text) - overlap, piece - overlap)
    parts: list[np.ndarray] = []
    last: tuple[np.ndarray, np.ndarray] | None = None
    for first in range(0, len(starts), _TOGETHER):
        group = starts[first : first + _TOGETHER]
        for start, found in zip(
            group, backend.encode_batch([text[at : at + piece] for at in group], add_special_tokens=False), strict=True
        ):
            ids = np.asarray(found.ids, dtype=np.int32)
            places = np.fromiter((begin for begin, _ in found.offsets), dtype=np.int64, count=len(ids)) + start
            if last is not None:
                joint = _joint(last, (ids, places), start + overlap // 2)
                if joint is None:
                    return _whole(text, tokenizer)
                parts.append(last[0][: joint[0]])
                ids, places = ids[joint[1] :], places[joint[1] :]
            last = (ids, places)
    before, after = _special(tokenizer)
    return np.concatenate([before, *parts, last[0] if last else before[:0], after])


def _whole(text: str, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    return np.asarray(tokenizer(text, verbose=False, return_attention_mask=False)["input_ids"], dtype=np.int32)


def _joint(left: tuple[np.ndarray, np.ndarray], right: tuple[np.ndarray, np.ndarray], middle: int) -> tuple[int, int] | None:
    """(index in left, index in right) of one token near `middle` that both have, with the same tokens around it; None where there is none."""
    for at in range(int(np.searchsorted(left[1], middle)), len(left[0]) - _AROUND):
        other = int(np.searchsorted(right[1], left[1][at]))
        if at < _AROUND or other < _AROUND or left[1][at - 1] == left[1][at]:
            continue
        here, there = slice(at - _AROUND, at + _AROUND), slice(other - _AROUND, other + _AROUND)
        if np.array_equal(left[1][here], right[1][there]) and np.array_equal(left[0][here], right[0][there]):
            return at, other
    return None


def _special(tokenizer: PreTrainedTokenizerBase) -> tuple[np.ndarray, np.ndarray]:
    """The special tokens that the tokenizer puts before and after a text."""
    bare = tokenizer("a", add_special_tokens=False, return_attention_mask=False)["input_ids"]
    dressed = tokenizer("a", return_attention_mask=False)["input_ids"]
    at = next((i for i in range(len(dressed)) if dressed[i : i + len(bare)] == bare), 0)
    return np.asarray(dressed[:at], dtype=np.int32), np.asarray(dressed[at + len(bare) :], dtype=np.int32)
