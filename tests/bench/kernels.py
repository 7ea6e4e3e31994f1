"""Our solve, N:M masks and global threshold beside plain float32 references written as the papers' codes compute them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from core.events import Silent
from core.method import get
from core.model.inputs import text
from core.model.loading import load
from core.model.observe import matrix, observe_block, stream
from kernels.masks import keep_n_of_m
from kernels.threshold import drops_per_array
from tests.bench import Figure

MODEL, REPEATS = "builtin:smollm2-135m", 3
ABOUT = (
    "One block of SmolLM2-135M (7 layers, 3.5 M weights), float32, Gram matrices of 16 x 512 tokens. Ratios of medians of "
    f"{REPEATS} repeats, ours and the plain one in turn. Plain SparseGPT: the paper's algorithm in torch, a column at a time, 128 columns a block, "
    "inverse and thresholds by torch.linalg and torch.sort. Plain N:M: torch.topk over groups. Plain threshold: torch.topk over 9.4 M values."
)


def plain_sparsegpt(weight: torch.Tensor, gram: torch.Tensor, pattern: tuple[int, int] | None = None) -> torch.Tensor:
    weight, hessian = weight.clone(), gram.float().clone()
    dead = hessian.diagonal() == 0
    hessian[dead, dead] = 1
    weight[:, dead] = 0
    hessian += 0.01 * hessian.diagonal().mean() * torch.eye(len(hessian))
    factor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    for start in range(0, weight.shape[1], 128):
        stop = min(start + 128, weight.shape[1])
        part, inner = weight[:, start:stop].clone(), factor[start:stop, start:stop]
        out, errors, drop = torch.zeros_like(part), torch.zeros_like(part), torch.zeros(part.shape, dtype=torch.bool)
        if pattern is None:
            score = part**2 / inner.diagonal().reshape(1, -1) ** 2
            drop = score <= torch.sort(score.flatten())[0][score.numel() // 2]
        for i in range(stop - start):
            if pattern is not None and i % pattern[1] == 0:
                score = part[:, i : i + pattern[1]] ** 2 / inner.diagonal()[i : i + pattern[1]].reshape(1, -1) ** 2
                drop.scatter_(1, i + torch.topk(score, pattern[1] - pattern[0], dim=1, largest=False)[1], True)
            kept = part[:, i].clone()
            kept[drop[:, i]] = 0
            out[:, i] = kept
            error = (part[:, i] - kept) / inner[i, i]
            part[:, i:] -= error.unsqueeze(1).matmul(inner[i, i:].unsqueeze(0))
            errors[:, i] = error
        weight[:, start:stop] = out
        weight[:, stop:] -= errors.matmul(factor[start:stop, stop:])
    return weight


def plain_n_of_m(score: torch.Tensor, n: int, m: int) -> torch.Tensor:
    keep = torch.ones_like(score, dtype=torch.bool)
    for start in range(0, score.shape[1], m):
        keep.scatter_(1, start + torch.topk(score[:, start : start + m], m - n, dim=1, largest=False)[1], False)
    return keep


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def ratio(what: str, plain: Callable[[], object], ours: Callable[[], object], goal: float) -> Figure:
    ours()  # compiled, warmed
    pairs = [(seconds(plain), seconds(ours)) for _ in range(REPEATS)]
    slow, fast = (statistics.median(pair[i] for pair in pairs) for i in (0, 1))
    said = f"{slow / fast:.1f} x ({1000 * slow:,.0f} ms plain, {1000 * fast:,.1f} ms ours)"
    return Figure(what, said, f">= {goal:g} x", slow / fast >= goal)


def one_block() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(weight, gram) of each layer of block 10; layers that read the same tensor share its Gram matrix."""
    loaded = load(MODEL)
    ids = text.sequences("builtin:wikitext2/train", loaded.tokenizer, 16, 512, 0)
    for block, module, hidden, extra in stream(loaded, ids, Silent(), "observe"):
        if block.index == 10:
            found = observe_block(loaded, block, module, hidden, extra, ("gram",), Silent())[0]
            return [(matrix(a, loaded.module(a.path).weight.detach()).clone(), found[a.name]["gram"]) for a in block.layers]
        for number, before in enumerate(hidden):
            with torch.no_grad():
                after = module(before, *extra[0], **extra[1])
            hidden[number] = after[0] if isinstance(after, tuple) else after
    raise AssertionError("no block 10")


def lost(layers: list[tuple[torch.Tensor, torch.Tensor]], solve: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> float:
    """Mean over the layers of |(W - W') X|^2 / |W X|^2."""
    out = []
    for weight, gram in layers:
        change, g = weight - solve(weight, gram), gram.float()
        out.append(float((change @ g * change).sum() / (weight @ g * weight).sum()))
    return statistics.mean(out)


def measure() -> list[Figure]:
    layers, method, silent = one_block(), get("solver", "sparsegpt"), Silent()

    def ours(weight: torch.Tensor, gram: torch.Tensor, pattern: tuple[int, int] | None = None) -> torch.Tensor:
        return method({"weight": weight, "gram": gram, "share": 0.5, "pattern": pattern, "watcher": silent})[0]

    figures = []
    for name, pattern in (("SparseGPT's solve, 50 %", None), ("SparseGPT's solve, 2:4", (2, 4))):
        figures.append(
            ratio(
                name,
                lambda p=pattern: [plain_sparsegpt(w, g, p) for w, g in layers],
                lambda p=pattern: [ours(w, g, p) for w, g in layers],
                8,
            )
        )
    errors = lost(layers, plain_sparsegpt), lost(layers, ours)
    apart = abs(errors[1] / errors[0] - 1)
    figures.append(
        Figure("mean layer output error, 50 %", f"{errors[1]:.5f} ours, {errors[0]:.5f} plain", "within 1 %", apart <= 0.01)
    )
    scores = [weight.abs() for weight, _ in layers]
    for n, m in ((2, 4), (4, 8)):
        figures.append(
            ratio(
                f"{n}:{m} masks",
                lambda n=n, m=m: [plain_n_of_m(s, n, m) for s in scores],
                lambda n=n, m=m: [keep_n_of_m(s, n, m) for s in scores],
                10,
            )
        )
    many = [array.astype(np.float32) for array in np.array_split(np.random.default_rng(0).standard_normal(9_400_000), 10)]
    flat, sizes = torch.from_numpy(np.concatenate(many)), [len(array) for array in many]
    figures.append(
        ratio(
            "global threshold over 9.4 M values, one array at a time in memory",
            lambda: torch.topk(flat, len(flat) // 2, largest=False)[0].max(),
            lambda: drops_per_array(lambda i: many[i], sizes, len(flat) // 2),
            10,
        )
    )
    return figures
