"""*Show command*: a recipe as the four views that can be copied: YAML, command line, Python."""

from __future__ import annotations

import gradio as gr

from core.recipe import Recipe, to_yaml
from core.views import slug, to_command, to_python


def command_views(label: str = "Show command", *, open: bool = False, elem_id: str | None = None) -> list[gr.Code]:
    """The folded views; give their outputs what `texts` returns."""
    with gr.Accordion(label, open=open, elem_id=elem_id):
        with gr.Tab("YAML"):
            yaml = gr.Code(language="yaml", show_label=False, interactive=False, lines=6, max_lines=26)
        with gr.Tab("Command line"):
            shell = gr.Code(language="shell", show_label=False, interactive=False, lines=2)
        with gr.Tab("Python"):
            python = gr.Code(language="python", show_label=False, interactive=False, lines=6, max_lines=26)
    return [yaml, shell, python]


def texts(recipe: Recipe | None, path: str | None = None) -> tuple[str, str, str]:
    """The three views' words; empty where there is no recipe. `path`: where the recipe lies, if it does."""
    if recipe is None:
        return "", "", ""
    file = path or f"{slug(recipe.name)}.yaml"
    saved = "" if path else f"# save the YAML as {file}, then:\n"
    return to_yaml(recipe), saved + to_command(recipe, file), to_python(recipe)
