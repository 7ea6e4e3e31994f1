"""The figures in a lesson's words are measured by its recipes and kept beside it."""

import json

import pytest

from core import lesson
from core.folder import write_json
from core.lesson import command as lesson_command
from core.lesson import figures as lesson_figures
from tests.test_lessons import FILES, HEAD, STEP


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_committed_figures_are_those_of_this_models_recipes(file):
    """Every recipe that a lesson names has its figures, and no other; the runs themselves are measured anew in tests/browser/test_learn.py."""
    taught, kept = lesson.read(file), json.loads(lesson_figures.beside(file).read_text())
    assert set(kept) == {name for name, recipe in taught.recipes.items() if not lesson_command.by_hand(recipe)}


def test_measuring_writes_the_figures_beside_the_lesson(tmp_path):
    file = tmp_path / "tiny.md"
    small = "calibration: {samples: 2, tokens: 32}\n    measure: {perplexity: {samples: 2, tokens: 32}}"
    file.write_text(
        (HEAD + STEP)
        .replace("    steps:", f"    {small}\n    steps:")
        .replace("Some words", "{{figure: half/sparsity/pruned_layers | %}} gone")
    )
    assert lesson_command.measure(file) == 0
    assert lesson.read(file).steps[0].words == "50 % gone."
    write_json(lesson_figures.beside(file), {})
    assert "There is no figure" in str(lesson.look(file).problems[0])
