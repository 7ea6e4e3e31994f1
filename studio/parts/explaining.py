"""The Explain drawer: the concept files of studio/explain, which are ours, shown where they are needed."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

FOLDER = Path(__file__).resolve().parents[1] / "explain"


def drawer(*concepts: str) -> None:
    """A folded drawer with these concepts, by the names of their files."""
    with gr.Accordion("Explain", open=False, elem_classes="twin"):
        for concept in concepts:
            gr.Markdown(text(concept))


def text(concept: str) -> str:
    """A concept's Markdown, its title as a third-level heading. Raises FileNotFoundError."""
    return (FOLDER / f"{concept}.md").read_text(encoding="utf-8").replace("# ", "### ", 1)
