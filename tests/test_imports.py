"""Imports run one way, studio -> core -> kernels, and the screen's side of core stays light."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "sklearn", "umap", "numba", "peft", "datasets")
LIGHT = (  # the torch-free part of core: all that studio may import of it
    "core.budget",
    "core.builtins",
    "core.catalogue",
    "core.compare",
    "core.compare.masks",
    "core.compare.words",
    "core.compare.page",
    "core.cost",
    "core.crossing",
    "core.errors",
    "core.events",
    "core.evolve",
    "core.folder",
    "core.formula",
    "core.formula_trees",
    "core.frontier",
    "core.install",
    "core.lesson",
    "core.lesson.checks",
    "core.lesson.figures",
    "core.lesson.scene",
    "core.lesson.schema",
    "core.model.files.header",
    "core.model.memory",
    "core.model.files.source",
    "core.proof",
    "core.proposals",
    "core.recipe",
    "core.recipe_prove",
    "core.recipe_steps",
    "core.recipe_words",
    "core.report",
    "core.scaling",
    "core.summary",
    "core.supervise",
    "core.compare.svg",
    "core.sweep",
    "core.sweep_run",
    "core.views",
    "core.watch",
    "core.wheels",
)
FORBIDDEN = {  # folder -> what nothing in it may import
    "kernels": ("core", "studio", "gradio", "transformers"),
    "core": ("studio", "gradio", "plotly"),
    "studio": ("kernels", *HEAVY),
}


def imported(source: str) -> set[str]:
    """Every module that a file names in an import, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def run_here(checkout: Path, code: str) -> subprocess.CompletedProcess[str]:
    around = {**os.environ, "PYTHONPATH": str(checkout)}
    return subprocess.run([sys.executable, "-c", code], cwd=checkout, env=around, capture_output=True, text=True, check=False)


def brought_in(checkout: Path, modules: list[str], unwanted: tuple[str, ...]) -> dict[str, list[str]]:
    """In one fresh process, import the modules in turn: which one brought in which of the unwanted packages."""
    code = f"""
import importlib, json, sys
seen, brought = set(), {{}}
for name in {modules!r}:
    importlib.import_module(name)
    fresh = set({unwanted!r}) & set(sys.modules) - seen
    seen |= fresh
    if fresh:
        brought[name] = sorted(fresh)
print(json.dumps(brought))
"""
    done = run_here(checkout, code)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.quick
@pytest.mark.parametrize("folder", FORBIDDEN)
def test_imports_run_one_way(checkout: Path, folder: str):
    wrong = {}
    for path in (checkout / folder).rglob("*.py"):
        tops = {name.split(".")[0] for name in imported(path.read_text(encoding="utf-8"))}
        if found := tops & set(FORBIDDEN[folder]):
            wrong[str(path.relative_to(checkout))] = sorted(found)
    assert wrong == {}


@pytest.mark.quick
def test_the_screen_imports_only_the_light_part_of_core(checkout: Path):
    wrong = {}
    for path in (checkout / "studio").rglob("*.py"):
        ours = {name for name in imported(path.read_text(encoding="utf-8")) if name.startswith("core.")}
        heavy = {name for name in ours if (checkout / (name.replace(".", "/") + ".py")).exists() and name not in LIGHT}
        if heavy:
            wrong[str(path.relative_to(checkout))] = sorted(heavy)
    assert wrong == {}


def test_the_light_part_of_core_brings_in_nothing_heavy(checkout: Path):
    assert brought_in(checkout, list(LIGHT), (*HEAVY, "gradio")) == {}


def test_no_file_of_the_screen_brings_in_anything_heavy(checkout: Path):
    files = [path.relative_to(checkout).with_suffix("") for path in (checkout / "studio").rglob("*.py")]
    names = sorted(".".join(path.parts).removesuffix(".__init__") for path in files)
    assert "studio.app" in names
    assert brought_in(checkout, names, HEAVY) == {}


def test_a_heavy_import_would_be_seen(checkout: Path):
    assert brought_in(checkout, ["core.errors", "sklearn.utils", "core.folder"], HEAVY) == {"sklearn.utils": ["sklearn"]}
    assert imported("def f():\n    from core.model import loading\n    import torch.nn as nn") == {
        "core.model",
        "core.model.loading",
        "torch.nn",
    }


def test_our_kernels_folder_is_not_taken_for_the_hugging_face_package(checkout: Path):
    done = run_here(
        checkout,
        "import kernels; from transformers.utils import is_kernels_available; print(kernels.__path__[0], is_kernels_available())",
    )
    assert done.stdout.split() == [str(checkout / "kernels"), "False"], done.stderr
