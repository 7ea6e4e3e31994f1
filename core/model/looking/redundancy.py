"""What repeats along a model: hidden states at the borders of blocks that are alike, and runs of blocks that hardly turn them."""

from __future__ import annotations

from math import ceil, pi
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from core.model import blocks

TOKENS_COMPARED = 512  # hidden states kept per border: memory stays bounded whatever the calibration set
TOKENS_IN_CKA = 256  # whose products with one another make CKA's kernels
MOST_BORDERS = 201  # of a deeper model every k-th border is looked at: a picture has no more room
_BYTES = 2**29  # that the kept states may take


class Borders:
    """Hidden states of the same few hundred tokens at the borders between `count` blocks, and of each sequence's last token."""

    def __init__(self, count: int) -> None:
        self.step = ceil(max(count, 1) / (MOST_BORDERS - 1))
        self.count, self.labels = count, list[str]()
        self.at: list[Tensor] = []
        self.last: list[Tensor] = []

    def take(self, hidden: blocks.Hidden, border: int) -> None:
        """Every k-th token of each batch, the same at each border (where a border has another shape, nothing compares with it). border: 0 is
        before the first block."""
        if border % self.step and border != self.count:
            return
        flat = [batch.flatten(0, -2) if batch.dim() == 3 else batch.flatten(1) for batch in hidden]
        room = max(_BYTES // (4 * flat[0].shape[-1] * (self.count // self.step + 1)), 32)
        most = min(TOKENS_COMPARED, room)
        total = sum(map(len, flat))
        step = max(total // most, 1)
        self.at.append(torch.cat([batch[::step] for batch in flat])[:most].float().cpu())
        self.labels.append("input" if border == 0 else str(border - 1))
        if hidden[0].dim() == 3:
            self.last.append(torch.cat([batch[:, -1].float().cpu() for batch in hidden]))

    def tokens(self) -> int:
        return len(self.at[0]) if self.at else 0

    def similarity(self) -> dict[str, Any]:
        """The states at every two borders compared: `values` by the mean cosine over tokens, and `others` by angular distance (0..1) and debiased
        CKA. None where two cannot be compared."""
        unit = [normalize(states, dim=-1) for states in self.at]
        pairs = [[(a * b).sum(-1) if a.shape == b.shape else None for b in unit] for a in unit]
        cosine = [[None if x is None else float(x.mean()) for x in row] for row in pairs]
        angular = [[None if x is None else _angle(x) for x in row] for row in pairs]
        return {"measure": "cosine", "labels": self.labels, "values": cosine,
                "others": {"angular": angular, "cka": debiased_cka(self.at)}}  # fmt: skip

    def runs(self, decoder: bool) -> dict[str, Any] | None:
        """values[n - 1][start]: the angular distance, 0..1, between the states before block `start` and after the n-th block from there; None where no
        such run is. A decoder's are those of each sequence's last token, as the method angular_distance reads them; else of all tokens compared."""
        states = self.last if decoder and len(self.last) == len(self.at) else self.at
        if len(states) < 3 or self.step > 1 or len({tuple(state.shape) for state in states}) > 1:
            return None
        last = len(states) - 1
        values = [[_turned(states[s], states[s + n]) if s + n <= last else None for s in range(last)] for n in range(1, last)]
        return {"read_at": "last token" if states is self.last else "tokens compared", "values": values}


def _angle(cosines: Tensor) -> float:
    return float(cosines.double().clamp(-1, 1).arccos().mean()) / pi


def _turned(before: Tensor, after: Tensor) -> float:
    return _angle(torch.cosine_similarity(before.double(), after.double(), dim=-1))


def debiased_cka(states: list[Tensor], most: int = TOKENS_IN_CKA) -> list[list[float | None]]:
    """Debiased linear CKA of every two of them, each (tokens, features) of the same tokens; widths may differ. Of at most `most` tokens, evenly spaced.

    HSIC is Song et al.'s unbiased estimate (2012): with K = X X^T and L = Y Y^T, their diagonals zero, and n tokens,
    [tr(K L) + 1'K1 1'L1 / ((n-1)(n-2)) - 2 1'K L1 / (n-2)] / (n (n-3)); CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) (Nguyen et al.,
    arXiv 2010.15327). About 0 for states that have nothing to do with each other, 1 for the same up to a rotation and a scale. None below 4 tokens.
    """
    kernels = [_kernel(x, most) for x in states]
    own = [None if k is None else _hsic(k, k) for k in kernels]

    def cka(a: int, b: int) -> float | None:
        if own[a] is None or own[b] is None or len(kernels[a]) != len(kernels[b]) or own[a] <= 0 or own[b] <= 0:
            return None
        return 1.0 if a == b else _hsic(kernels[a], kernels[b]) / (own[a] * own[b]) ** 0.5

    upper = {(a, b): cka(a, b) for a in range(len(states)) for b in range(a, len(states))}
    return [[upper[min(a, b), max(a, b)] for b in range(len(states))] for a in range(len(states))]


def _kernel(states: Tensor, most: int) -> Tensor | None:
    if len(states) < 4:
        return None
    rows = states[:: ceil(len(states) / most)].double()
    rows = rows / rows.norm().clamp_min(1e-30)  # a scale changes nothing, and keeps large activations in range
    return (rows @ rows.T).fill_diagonal_(0.0)


def _hsic(k: Tensor, l: Tensor) -> float:  # noqa: E741 - the paper's letters
    n, rows, columns = len(k), k.sum(0), l.sum(0)
    cross = rows.sum() * columns.sum() / ((n - 1) * (n - 2))
    return float(((k * l).sum() + cross - 2 / (n - 2) * (rows @ columns)) / (n * (n - 3)))
