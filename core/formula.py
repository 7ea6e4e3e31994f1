"""The language of the formula lab: text -> a frozen tree, or a sentence that names the part that is wrong. Torch-free, and nothing is ever run as Python.

W weight, X norm of each input, G norm of each gradient; numbers; + - * / ** and unary -; functions: see FUNCTIONS.
"""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass

from core.errors import RecipeError

LONGEST = 200  # characters
DEEPEST = 16  # nested parts
NAMES = {"W": "the weight", "X": "the norm of its input", "G": "the norm of its gradient"}
FUNCTIONS = {
    "abs": "size without the sign",
    "sqrt": "square root",
    "log": "natural logarithm",
    "exp": "exponential",
    "square": "times itself",
    "minmax": "moved and scaled to 0..1 over the layer",
    "zscore": "less the layer's mean, over its standard deviation",
    "rank": "place in the layer's order, 0 the lowest, 1 the highest",
    "mean": "the layer's mean",
}
_OPERATORS: dict[type, str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**"}
_MAY = f"It may use {', '.join(NAMES)}, numbers, + - * / **, and {', '.join(FUNCTIONS)}."


@dataclass(frozen=True)
class Node:
    """`kind`: number | name | operator | negative | call. `value`: the number, or the name, operator or function. `text`: as it was written."""

    kind: str
    value: float | str
    parts: tuple[Node, ...]
    text: str

    def names(self) -> frozenset[str]:
        """Which of W, X, G it uses."""
        own = {self.value} if self.kind == "name" else set()
        return frozenset(own.union(*(part.names() for part in self.parts)))


def parse(text: str) -> Node:
    """The tree of an expression such as `abs(W) * X`. Raises RecipeError that points at what is not understood."""
    if len(text) > LONGEST:
        raise RecipeError(f"The formula is {len(text)} characters long; {LONGEST} are allowed.", "Shorten it.")
    text = text.strip()
    if not text:
        raise RecipeError("The formula is empty.", "Write one, such as abs(W) * X.")
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        place = min(error.offset - 1, len(text)) if error.offset else len(text)  # 0: more was expected
        at = f"at {text[place:][:20]!r}" if text[place:].strip() else "at its end"
        at += ": its bracket is never closed" if "never closed" in error.msg else ""
        raise RecipeError(f"The formula {_short(text)} cannot be read {at}.", _MAY) from None
    except (ValueError, RecursionError, MemoryError):
        raise RecipeError(f"The formula {_short(text)} cannot be read.", _MAY) from None
    node = _node(tree, text, 1)
    if not node.names():
        raise RecipeError(f"The formula {_short(text)} names none of W, X and G, so it scores every weight alike.", _MAY)
    return node


def _node(tree: ast.expr, text: str, depth: int) -> Node:
    """One part of the tree, checked against the whitelist."""
    own = ast.get_source_segment(text, tree) or text
    if depth > DEEPEST:
        raise RecipeError(f"The formula is nested more than {DEEPEST} deep, at {_short(own)}.", "Make it flatter.")
    if isinstance(tree, ast.Constant):
        return _number(tree.value, own)
    if isinstance(tree, ast.Name):
        if tree.id not in NAMES:
            remedy = f"{tree.id} is a function: write {tree.id}(W)." if tree.id in FUNCTIONS else _MAY
            raise RecipeError(f"The formula does not know {own[:40]!r}.", remedy)
        return Node("name", tree.id, (), own)
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub):
        return Node("negative", "-", (_node(tree.operand, text, depth + 1),), own)
    if isinstance(tree, ast.BinOp) and type(tree.op) in _OPERATORS:
        parts = (_node(tree.left, text, depth + 1), _node(tree.right, text, depth + 1))
        return Node("operator", _OPERATORS[type(tree.op)], parts, own)
    if isinstance(tree, ast.Call):
        return _call(tree, text, own, depth)
    raise RecipeError(f"The formula may not hold {_short(own)}.", _MAY)


def _call(tree: ast.Call, text: str, own: str, depth: int) -> Node:
    called = ast.get_source_segment(text, tree.func) or own
    if not isinstance(tree.func, ast.Name) or tree.func.id not in FUNCTIONS:
        raise RecipeError(f"The formula does not know the function {_short(called)}.", _MAY)
    if len(tree.args) != 1 or tree.keywords or isinstance(tree.args[0], ast.Starred):
        raise RecipeError(f"{tree.func.id} takes exactly one part in brackets, not {_short(own)}.", f"Write {tree.func.id}(W).")
    return Node("call", tree.func.id, (_node(tree.args[0], text, depth + 1),), own)


def _number(value: object, own: str) -> Node:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RecipeError(f"The formula may not hold {_short(own)}.", _MAY)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not abs(number) <= 1e30:
        raise RecipeError(f"The number {_short(own)} in the formula is too large.", "Use one of at most 1e30.")
    return Node("number", number, (), own)


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:39] + "…")
