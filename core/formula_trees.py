"""Formulas as trees that are taken apart and put together: written out, simplified, cut and grafted. Torch-free; `core.formula` reads them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from core.formula import Node

_BINDS = {"+": 1, "-": 1, "*": 2, "/": 2, "**": 4}  # tighter is higher; unary - is 3
_NEVER_NEGATIVE = ("abs", "sqrt", "square", "exp", "minmax", "rank")
_REPEATED = ("abs", "minmax", "rank")  # said twice, they say nothing more
_UNDONE = {("exp", "log"), ("log", "exp"), ("square", "sqrt")}  # (outer, inner): the outer takes back the inner

Path = tuple[int, ...]


def name(value: str) -> Node:
    """W, X or G."""
    return Node("name", value, (), value)


def number(value: float) -> Node:
    """A number; one below zero as the negative of one above."""
    return negative(number(-value)) if value < 0 else Node("number", float(value), (), repr(float(value)).removesuffix(".0"))


def negative(part: Node) -> Node:
    return Node("negative", "-", (part,), f"-{_in_brackets(part, 3)}")


def call(function: str, part: Node) -> Node:
    return Node("call", function, (part,), f"{function}({part.text})")


def operation(operator: str, left: Node, right: Node) -> Node:
    """left operator right, with as few brackets as read back as this very tree."""
    binds = _BINDS[operator]
    first, second = (5, 3) if operator == "**" else (binds, binds + 1)  # powers group from the right
    return Node("operator", operator, (left, right), f"{_in_brackets(left, first)} {operator} {_in_brackets(right, second)}")


def tidy(tree: Node) -> Node:
    """The same tree, its text written in one manner whatever a person's brackets and spaces were."""
    return _made(tree, tuple(tidy(part) for part in tree.parts))


def _made(like: Node, parts: tuple[Node, ...]) -> Node:
    """A node of that kind over other parts."""
    if like.kind == "name":
        return name(str(like.value))
    if like.kind == "number":
        return number(float(like.value))
    if like.kind == "negative":
        return negative(parts[0])
    return call(str(like.value), parts[0]) if like.kind == "call" else operation(str(like.value), *parts)


def _in_brackets(part: Node, at_least: int) -> str:
    binds = {"operator": _BINDS.get(str(part.value), 0), "negative": 3}.get(part.kind, 5)
    return part.text if binds >= at_least else f"({part.text})"


def size(tree: Node) -> int:
    """How many names, numbers, operators and functions it is made of."""
    return 1 + sum(size(part) for part in tree.parts)


def depth(tree: Node) -> int:
    return 1 + max((depth(part) for part in tree.parts), default=0)


def places(tree: Node, at: Path = ()) -> Iterator[tuple[Path, Node]]:
    """Every part with the way to it, the whole first."""
    yield at, tree
    for number_, part in enumerate(tree.parts):
        yield from places(part, (*at, number_))


def grafted(tree: Node, at: Path, part: Node) -> Node:
    """The tree with another part in that place."""
    if not at:
        return part
    parts = list(tree.parts)
    parts[at[0]] = grafted(parts[at[0]], at[1:], part)
    return _made(tree, tuple(parts))


def simplified(tree: Node) -> Node:
    """The tree without operations that take each other back (exp of log, a sum less what was added), numbers worked out.

    Equal wherever the tree has a value; it may have one where the tree has none: exp(log(W)) becomes W, which may be negative.
    """
    now = _made(tree, tuple(simplified(part) for part in tree.parts))
    for rule in _RULES:
        found = rule(now)
        if found is not None:
            return simplified(found)
    return now


def _of_numbers(tree: Node) -> Node | None:
    if tree.kind != "operator" or any(part.kind != "number" for part in tree.parts):
        return None
    left, right = (float(part.value) for part in tree.parts)
    if tree.value == "**" or (tree.value == "/" and right == 0):
        return None  # said by whoever works it out, not here
    value = {"+": left + right, "-": left - right, "*": left * right, "/": left / right if right else 0.0}[str(tree.value)]
    return number(value) if math.isfinite(value) and abs(value) <= 1e30 else None


def _of_a_call(tree: Node) -> Node | None:
    """Opposing functions, and functions that say what the one within has said."""
    if tree.kind == "negative" and tree.parts[0].kind == "negative":
        return tree.parts[0].parts[0]
    if tree.kind != "call" or tree.parts[0].kind not in ("call", "negative"):
        return None
    outer, part = str(tree.value), tree.parts[0]
    inner, within = str(part.value), part.parts[0]
    if (outer, inner) in _UNDONE:
        return within
    if (outer, inner) == ("sqrt", "square"):
        return call("abs", within)
    if (outer == "abs" and inner in _NEVER_NEGATIVE) or (outer == inner and outer in _REPEATED):
        return part
    return call(outer, within) if outer in ("abs", "square") and inner in ("-", "abs") else None


def _of_an_operator(tree: Node) -> Node | None:
    """Opposing operators, and ones and zeros that change nothing."""
    if tree.kind != "operator":
        return None
    left, right = tree.parts
    opposite = {"+": "-", "-": "+", "*": "/", "/": "*"}.get(str(tree.value))
    if left.kind == "operator" and left.value == opposite and left.parts[1].text == right.text:
        return left.parts[0]
    if left.text == right.text and tree.value in ("-", "/"):
        return number(0.0 if tree.value == "-" else 1.0)
    if tree.value == "*" and "0" in (left.text, right.text):
        return number(0.0)
    nothing = {"+": "0", "-": "0", "*": "1", "/": "1", "**": "1"}[str(tree.value)]
    if right.text == nothing:
        return left
    return right if left.text == nothing and tree.value in ("+", "*") else None


_RULES: tuple[Callable[[Node], Node | None], ...] = (_of_numbers, _of_a_call, _of_an_operator)
