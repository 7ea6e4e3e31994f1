"""What keeps the code small and plain: sizes, style, and nothing left for later."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.quick

FILE_LINES, FUNCTION_LINES = 400, 60
LATER = re.compile(r"\b(" + "TO" + "DO|FIX" + r"ME)\b")  # in two parts, so that this file may name what it forbids


def sources(checkout: Path, *endings: str) -> list[Path]:
    """Every file that is, or is about to be, under version control and ends so."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=True,
    )
    found = [checkout / name for name in listed.stdout.split("\0") if name.endswith(endings)]
    return [path for path in found if path.is_file()]


def trees(checkout: Path) -> Iterator[tuple[str, ast.Module]]:
    for path in sources(checkout, ".py"):
        yield str(path.relative_to(checkout)), ast.parse(path.read_text(encoding="utf-8"))


def too_long(checkout: Path, limit: int) -> dict[str, int]:
    lines = {
        str(path.relative_to(checkout)): path.read_text(encoding="utf-8").count("\n")
        for path in sources(checkout, ".py", ".js", ".css")
    }
    return {name: count for name, count in lines.items() if count > limit}


def long_functions(tree: ast.Module, limit: int) -> dict[str, int]:
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {node.name: node.end_lineno - node.lineno + 1 for node in functions if node.end_lineno - node.lineno >= limit}


def swallowed(tree: ast.Module) -> list[int]:
    """Lines of `except` clauses that do nothing at all."""
    handlers = [node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)]
    return [node.lineno for node in handlers if all(isinstance(line, ast.Pass) for line in node.body)]


def unreturned(tree: ast.Module) -> list[str]:
    """Public functions and methods without a return type. `__init__` returns nothing by definition."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [node.name for node in functions if not node.name.startswith("_") and node.returns is None]


def test_the_checkout_is_seen(checkout: Path):
    names = {str(path.relative_to(checkout)) for path in sources(checkout, ".py")}
    assert {"launch.py", "core/folder.py", "tests/test_budgets.py"} <= names


def test_no_file_is_over_400_lines(checkout: Path):
    assert too_long(checkout, FILE_LINES) == {}


def test_no_function_is_over_60_lines(checkout: Path):
    assert {name: found for name, tree in trees(checkout) if (found := long_functions(tree, FUNCTION_LINES))} == {}


def test_nothing_is_left_for_later(checkout: Path):
    said = {
        str(path.relative_to(checkout)): LATER.findall(path.read_text(encoding="utf-8"))
        for path in sources(checkout, ".py", ".js", ".css")
    }
    assert {name: words for name, words in said.items() if words} == {}


def test_no_error_is_swallowed(checkout: Path):
    assert {name: found for name, tree in trees(checkout) if (found := swallowed(tree))} == {}


def test_public_functions_say_what_they_return(checkout: Path):
    ours = ((name, tree) for name, tree in trees(checkout) if name.startswith(("core/", "kernels/", "studio/")))
    assert {name: found for name, tree in ours if (found := unreturned(tree))} == {}


@pytest.mark.parametrize("words", [["check"], ["format", "--check"]], ids=["check", "format"])
def test_ruff_finds_nothing(checkout: Path, words: list[str]):
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *words, "--no-cache", "."], cwd=checkout, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_measures_themselves_find_what_they_look_for():
    """A budget that cannot fail is none."""
    tree = ast.parse("def f():\n" + "    x = 1\n" * 60 + "try:\n    f()\nexcept Exception:\n    pass\n")
    assert long_functions(tree, FUNCTION_LINES) == {"f": 61}
    assert long_functions(tree, 61) == {}
    assert swallowed(tree) == [64]
    assert unreturned(tree) == ["f"]
    assert LATER.search("# TO" + "DO: later") and not LATER.search("# the to-do list")
