from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Annotated, Any

import torch
from torch import Tensor

from core.errors import ModelError
from core.formula import LONGEST, Node, parse
from core.method import Param, score

_STATISTICS = {"X": "input_norm", "G": "gradient_norm"}
_DEFAULT = "abs(W) * X"
_parsed = lru_cache(parse)


def _needs_of(params: dict[str, Any]) -> set[str]:
    names = _parsed(params.get("expression", _DEFAULT)).names()
    return {statistic for name, statistic in _STATISTICS.items() if name in names}


def _rehearse(given: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    rehearsed(_parsed(params.get("expression", _DEFAULT)), values_of(given))


@score(
    "formula",
    label="Own formula",
    needs={"input_norm"},
    needs_of=_needs_of,
    rehearse=_rehearse,
    compare="row",
    place="criterion/formula",
)
def formula(
    weight: Tensor,
    statistics: Mapping[str, Tensor],
    *,
    expression: Annotated[str, Param("Formula of W, X and G", longest=LONGEST, grammar="formula")] = _DEFAULT,
) -> Tensor:
    """Keep the weights that a formula of your own scores highest: of the weight, its input and its gradient.

    W (out, in): the weight. X (in,): input_norm, Wanda's norm of each input. G (out, in): gradient_norm, the root of the mean squared gradient over
    sequences. Numbers, + - * / ** and -, and abs, sqrt, log, exp, square, minmax, zscore, rank, mean (the last four over the whole layer; of equal
    values minmax, zscore and rank give 0). Returns (out, in), compared within one output row (N:M: within each group of M). Only what the
    expression names is collected. abs(W) is magnitude within rows, abs(W) * X is Wanda, square(W) * minmax(G) is Pruner-Zero.

    Intuition: most criteria are a few symbols; change one and see what it does.
    When it lies: a score that is high for no reason keeps weights for no reason. Compare it with random and with Wanda at the same share. A formula that
    divides by zero, or gives what is no number, is refused before any weight changes: it is tried on every layer of the dense model first, and once as
    if one input were never driven.
    Deviations from the paper: none, there is no paper; Pruner-Zero (arXiv 2406.02924) searches such expressions by evolution.
    """
    return scores_of(_parsed(expression), values_of({"weight": weight, **statistics}))


def scores_of(node: Node, values: Mapping[str, Tensor]) -> Tensor:
    """The formula's scores, (out, in). values: W (out, in), X (1, in), G (out, in), those that it names. Raises ModelError where they are no numbers."""
    found = _value(node, values)
    if found.numel() == 1 and values["W"].numel() > 1:
        raise ModelError(
            f"The formula {node.text!r} scores every weight alike.", "Let it depend on W, X or G, not on their mean alone."
        )
    return found.expand(values["W"].shape).contiguous()


def rehearsed(node: Node, values: Mapping[str, Tensor]) -> Tensor:
    """Score a layer of the dense model, then once more as if its least driven input were never driven, as happens after blocks before it are pruned.

    Returns the first scores. Raises ModelError as `scores_of`.
    """
    found = scores_of(node, values)
    if "X" in node.names() and values["X"].numel():
        lowest = values["X"].clone()
        lowest.view(-1)[lowest.argmin()] = 0.0
        scores_of(node, {**values, "X": lowest})
    return found


def values_of(given: Mapping[str, Any]) -> dict[str, Tensor]:
    """W, X and G as a formula's parts are worked out with, of what a score is given: those that are there."""
    values = {"W": given["weight"]}
    for name, statistic in _STATISTICS.items():
        if statistic in given:
            found = given[statistic].to(given["weight"].device)
            values[name] = found[None] if found.dim() == 1 else found
    return values


def _value(node: Node, values: Mapping[str, Tensor]) -> Tensor:
    """One part of the tree. Raises ModelError at the first part that is not finite."""
    if node.kind == "name":
        return values[str(node.value)]
    if node.kind == "number":
        return torch.tensor(float(node.value), device=values["W"].device)
    parts = [_value(part, values) for part in node.parts]
    if node.value == "/" and (parts[1] == 0).any():
        raise ModelError(
            f"The formula divides by zero at {node.text!r}: {node.parts[1].text} can be 0.",
            f"Add a small number, such as ({node.parts[1].text} + 0.001).",
        )
    found = _FUNCTIONS[str(node.value)](*parts) if node.kind != "negative" else -parts[0]
    if not torch.isfinite(found).all():
        raise ModelError(
            f"The formula gives something that is not a number, or too large for one, at {node.text!r}.",
            "Take abs(...) before sqrt, log and broken powers, add a small number before log, and keep exp and ** small.",
        )
    return found


def _over(value: Tensor, width: Tensor) -> Tensor:
    return torch.zeros_like(value) if width == 0 else value / width


def _rank(value: Tensor) -> Tensor:
    """Places 0..1 in ascending order; equal values take the lowest of their places."""
    flat = value.flatten()
    return (torch.searchsorted(flat.sort().values, flat) / max(flat.numel() - 1, 1)).reshape(value.shape)


_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "**": torch.pow,
    "abs": torch.abs,
    "sqrt": torch.sqrt,
    "log": torch.log,
    "exp": torch.exp,
    "square": torch.square,
    "minmax": lambda value: _over(value - value.min(), value.max() - value.min()),
    "zscore": lambda value: _over(value - value.mean(), value.std(correction=0)),
    "rank": _rank,
    "mean": torch.mean,
}
