"""Removed means gone: what a saved model weighs and how fast it reads and writes once neurons, heads, blocks or slices are out."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from core.events import Silent
from core.model.files import export
from core.model.inputs import text
from core.model.loading import LoadedModel, load
from core.model.measuring.latency import fixed_ids
from core.model.pruning.step import prune
from core.recipe import Prune
from tests.bench import Figure

MODEL, PROMPT, WRITTEN, ROUNDS = "builtin:smollm2-135m", 256, 32, 7
ABOUT = (
    "Each model is pruned by magnitude (blocks by lot, slices by SliceGPT on 8 x 128 tokens; quality is not the question here), saved, and loaded "
    f"again from its folder. On disk: its safetensors. Reading: one forward of {PROMPT} tokens; writing: {WRITTEN} tokens one by one with a cache, after "
    f"that. Medians of {ROUNDS} rounds; in each round every model has its turn, the dense one first, so what else the machine does falls on all alike."
)
STEPS = {
    "30 % of the neurons": {"method": "magnitude", "structure": "neurons", "sparsity": 0.3},
    "a third of the key-value groups": {"method": "magnitude", "structure": "heads", "sparsity": 0.34},
    "a third of the query heads": {"method": "magnitude", "structure": "query_heads", "sparsity": 0.34},
    "20 % of the blocks": {"method": "random", "structure": "blocks", "sparsity": 0.2},
    "20 % of the residual directions": {"method": "slicegpt", "structure": "slices", "sparsity": 0.2},
}


def saved(model: str, step: dict[str, object] | None, folder: Path) -> tuple[LoadedModel, int]:
    """(the model as it comes back from its folder, bytes of its weights there); step None: the dense one."""
    loaded = load(model, dtype="float32")
    if step is not None:
        tokenizer = loaded.tokenizer
        loaded = prune(
            loaded, Prune(**step), lambda: text.sequences("builtin:wikitext2/train", tokenizer, 8, 128, 0), 0, Silent()
        ).loaded
    export.save(loaded, folder)
    return load(str(folder), dtype="float32"), sum(file.stat().st_size for file in folder.glob("*.safetensors"))


@torch.no_grad()
def timed(loaded: LoadedModel) -> tuple[float, float]:
    """Seconds for the prompt, and for the tokens written after it."""
    ids = fixed_ids(loaded, 1, PROMPT)
    start = time.perf_counter()
    out = loaded.model(input_ids=ids, use_cache=True, logits_to_keep=1)
    read = time.perf_counter()
    for _ in range(WRITTEN):
        token = out.logits[:, -1:].argmax(-1)
        out = loaded.model(input_ids=token, past_key_values=out.past_key_values, use_cache=True)
    return read - start, time.perf_counter() - read


def measure(model: str = MODEL) -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        steps = {"dense": None, **STEPS}
        models = {name: saved(model, step, Path(folder) / str(number)) for number, (name, step) in enumerate(steps.items())}
        took: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
        for turn in range(ROUNDS + 1):
            for name, (loaded, _) in models.items():
                seconds = timed(loaded)
                if turn:  # the first round warms up
                    took[name].append(seconds)
    read, write = ({name: median(times[part] for times in seconds) for name, seconds in took.items()} for part in (0, 1))
    sizes = {name: size for name, (_, size) in models.items()}
    figures = []
    for name in models:
        said = f"{sizes[name] / 1e6:,.2f} MB, reads {PROMPT / read[name]:,.0f} and writes {WRITTEN / write[name]:,.1f} tokens/s"
        if name == "dense":
            figures.append(Figure(name, said))
            continue
        faster = read["dense"] / read[name], write["dense"] / write[name]
        said += f": {sizes[name] / sizes['dense']:.2f} x the bytes, reads {faster[0]:.2f} x and writes {faster[1]:.2f} x as fast"
        figures.append(Figure(name, said, "smaller, reads faster", sizes[name] < sizes["dense"] and faster[0] > 1))
    return figures


if __name__ == "__main__":  # python -m tests.bench.shrunk builtin:tiny-llama
    for figure in measure(*sys.argv[1:2]):
        print(figure.what, "|", figure.figure, "|", figure.held, flush=True)
