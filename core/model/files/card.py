"""The card (README.md) of a saved model: what was done to which model, what it measured and how, and how to load it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any

from core.model.depth.gone import KEY
from core.recipe import Recipe, to_yaml

if TYPE_CHECKING:
    from core.model.loading import LoadedModel

_FIGURES = (
    ("perplexity", "Perplexity", "{:,.3f}"),
    ("accuracy", "Accuracy", "{:.4f}"),
    ("parameters", "Parameters", "{:,}"),
    ("nonzero", "Non-zero parameters", "{:,}"),
    ("size_bytes", "Bytes of the weights", "{:,}"),
    ("flops_per_token", "FLOPs a token (an image)", "{:,.0f}"),
    ("latency_ms", "Latency, ms", "{:,.2f}"),
    ("peak_memory_mb", "Peak memory, MB", "{:,.1f}"),
)
_STATES = ("dense", "pruned", "recovered")

_ZEROS = (
    "About the zeros: pruned weights are stored as ordinary zeros. A dense kernel multiplies them like any other number and the file keeps them "
    "in full, so unstructured zeros alone make this model **neither faster nor smaller**; they pay off with sparse kernels or a compressor. "
    "Blocks, attentions, MLPs, neurons, heads and experts that were removed are gone for good: that does make it smaller and faster."
)


def readme(loaded: LoadedModel, saved: Mapping[str, Any], recipe: Recipe | None, fields: Mapping[str, Any]) -> str:
    """Markdown. `saved`: what core.model.files.export checked; `fields`: the report's, those that are known when the model is saved."""
    kind = type(loaded.model).__name__
    parts = [
        f"# {_plain(recipe.name if recipe else loaded.name)}",
        f"Made with Prunarium from `{_plain(recipe.model.source if recipe and recipe.model else loaded.name)}` ({kind}, "
        f"{len(loaded.anatomy.blocks)} blocks), weights saved as {saved['dtype']}.",
        _done(fields),
        _table(fields),
        _protocol(fields.get("protocol") or {}),
        _ZEROS,
        _loading(loaded, kind),
        _checked(saved),
        f"## Recipe\n\n```yaml\n{to_yaml(recipe).rstrip()}\n```" if recipe else "",
        "The licence is that of the original weights.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _done(fields: Mapping[str, Any]) -> str:
    lines = []
    for number, step in enumerate(fields.get("steps") or (), 1):
        line = f"{number}. {step.get('kind', '')}: {step.get('method', '')}"
        if "nonzero_before" in step and "nonzero_after" in step:
            line += f" ({step['nonzero_before']:,} to {step['nonzero_after']:,} non-zero parameters)"
        lines.append(line)
    shares = {name.replace("_", " "): share for name, share in (fields.get("sparsity") or {}).items()}
    reached = ", ".join(f"{share:.1%} of {name}" for name, share in shares.items())
    return (
        "\n".join(["## What was done", "", *lines] + (["", f"Removed: {reached}."] if reached else []))
        if lines or reached
        else ""
    )


def _table(fields: Mapping[str, Any]) -> str:
    figures = {state: _mapping(fields.get(state)) for state in _STATES if fields.get(state)}
    rows = [
        [label, *(form.format(taken[key]) if taken.get(key) is not None else "" for taken in figures.values())]
        for key, label, form in _FIGURES
        if any(taken.get(key) is not None for taken in figures.values())
    ]
    if not rows:
        return ""
    head = ["", *figures]
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---", *["---:"] * len(figures)], *rows)]
    return "## Measured\n\n" + "\n".join(lines)


def _protocol(protocol: Mapping[str, Any]) -> str:
    lines = [
        f"- {name.replace('_', ' ')}: "
        + ", ".join(f"{key.replace('_', ' ')} {_plain(value)}" for key, value in how.items() if not isinstance(value, Mapping))
        for name, how in protocol.items()
        if isinstance(how, Mapping)
    ]
    return "How each figure was taken (never compare across protocols):\n\n" + "\n".join(lines) if lines else ""


def _loading(loaded: LoadedModel, kind: str) -> str:
    from transformers import PreTrainedModel

    if hasattr(getattr(loaded.model, "config", None), KEY):
        return (
            "## Loading\n\nParts of its blocks are gone, not all equally wide, or turn what they read, which transformers has no config for, so this "
            "model loads with Prunarium (run in its checkout); plain `from_pretrained` refuses it.\n\n```python\nfrom core.model.loading import load\n\n"
            'loaded = load("path/to/this/folder")\nmodel, tokenizer = loaded.model, loaded.tokenizer\n```'
        )
    if isinstance(loaded.model, PreTrainedModel):
        code = f'from transformers import {kind}\n\nmodel = {kind}.from_pretrained("path/to/this/folder", dtype="auto")'
        if loaded.tokenizer is not None:
            code = code.replace("import ", "import AutoTokenizer, ", 1)
            code += '\ntokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")'
        return f"## Loading\n\n```python\n{code}\n```"
    return (
        f"## Loading\n\nThis is the state of a torch module of class `{_plain(kind)}` that transformers does not know: build the module from its own "
        'code, then\n\n```python\nfrom safetensors.torch import load_model\n\nload_model(module, "model.safetensors")\n```'
    )


def _checked(saved: Mapping[str, Any]) -> str:
    text = f"Before this folder got its name it was loaded again: every tensor was the one in memory rounded to {saved['dtype']}, bit for bit, "
    text += f"with {saved['nonzero']:,} non-zero parameters in {saved['size_bytes']:,} bytes."
    if saved["difference"] is not None:
        text += (
            f" On a fixed input its outputs differed by {saved['difference']:.3g} from the model in memory with the same weights"
        )
        text += (
            "."
            if saved["rounding"] is None
            else f"; rounding to {saved['dtype']} itself had changed them by up to {saved['rounding']:.3g}."
        )
    return text


def _mapping(value: Any) -> Mapping[str, Any]:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def _plain(value: Any) -> str:
    """Text for one line of Markdown: names come from files, so no markup of theirs survives."""
    text = " ".join(str(value).split()).translate({ord(mark): None for mark in "`<>|"})
    return "none" if value is None else text
