"""The interactive worker: `python -m core.serve`. Holds one model and one data set, and answers questions about them.

One JSON object a line: {"id": 1, "ask": "open_model", "args": {...}} gives {"id": 1, "answer": ...}, or {"id": 1, "problem": "...", "remedy": "..."}.
Standard output is re-pointed to standard error first, so that nothing a library prints can corrupt the stream. When standard input closes, the
process ends, whatever it is doing: no worker outlives its studio.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: a busy neighbour otherwise makes a forward four times slower

from core.errors import ModelError, PrunariumError, ResourceError, out_of_memory
from core.folder import finite


@dataclass
class Session:
    """What the worker holds. `cache`: its private folder for arrays too big for a line; `parts`: what other parts of the engine keep open."""

    cache: Path
    loaded: Any = None
    parts: dict[str, Any] = field(default_factory=dict)


Ask = Callable[..., Any]


def catalogue(session: Session) -> list[dict[str, Any]]:
    """The cards of every method, a person's own folder included."""
    from core.method import cards

    return [asdict(card) for card in cards()]


def open_model(session: Session, source: str, dtype: str = "auto", device: str = "auto") -> dict[str, Any]:
    """Load a model and describe it, with the fingerprint of its weights. The one held before is given up first."""
    from core.model.files.source import fingerprint
    from core.model.loading import load

    session.loaded = None
    session.loaded = load(source, dtype=dtype, device=device)
    return describe(session.loaded) | {"fingerprint": fingerprint(session.loaded.location)}


def describe(loaded: Any) -> dict[str, Any]:
    """A loaded model as plain data: what the Model room draws, and what assets/demo holds for the built-in one."""
    anatomy = loaded.anatomy
    whole = asdict(anatomy)
    tied = {path.rpartition(".")[0] for pair in anatomy.tied for path in pair[1:]}
    outside = [*anatomy.embeddings, *(layer.path for layer in anatomy.outside if anatomy.blocks)]
    return {
        "name": loaded.name,
        "dtype": str(loaded.source_dtype).removeprefix("torch."),
        "size_bytes": anatomy.parameters * loaded.source_dtype.itemsize,
        "tokenizer": type(loaded.tokenizer).__name__ if loaded.tokenizer is not None else None,
        **{key: whole[key] for key in ("family", "kind", "parameters", "hidden", "context", "norms", "tied", "refused")},
        "layers": [asdict(layer) for layer in anatomy.layers],
        "blocks": [{**block, "layers": [layer["name"] for layer in block["layers"]]} for block in whole["blocks"]],
        "elsewhere": [_elsewhere(path, loaded.module(path), path in tied) for path in dict.fromkeys(outside)],
    }


def _elsewhere(path: str, module: Any, tied: bool) -> dict[str, Any]:
    """An embedding, a head: what no budget touches. A tied one has no parameters of its own."""
    count = 0 if tied else sum(tensor.numel() for tensor in module.parameters())
    return {"name": path, "shape": list(module.weight.shape), "parameters": count, "tied": tied}


def layer(session: Session, name: str, share: float | None = None, bins: int = 61) -> dict[str, Any]:
    """One layer's weights: figures, a histogram of the values, and with `share` the magnitude below which that share of them lies."""
    import torch

    found = _model(session).anatomy.layer(name)
    block = found.block
    if block is None:
        return _weights(session.loaded.module(found.path).weight, found, share, bins, torch)
    with session.loaded.block(block):
        return _weights(session.loaded.module(found.path).weight, found, share, bins, torch)


def _weights(weight: Any, found: Any, share: float | None, bins: int, torch: Any) -> dict[str, Any]:
    values = weight.detach().to(torch.float32).flatten().cpu()
    finite_values = values[torch.isfinite(values)]
    broken = values.numel() - finite_values.numel()
    if finite_values.numel() == 0:
        raise ModelError(f"Every weight of {found.name} is NaN or infinite.", "The file is damaged; fetch the model again.")
    reach = float(finite_values.abs().max()) or 1.0
    counts, edges = torch.histogram(finite_values, bins=max(3, min(bins, 201)), range=(-reach, reach))
    magnitude = finite_values.abs()
    at = None if share is None else max(1, round(share * magnitude.numel()))
    return {
        **asdict(found),
        "histogram": {"edges": edges.tolist(), "counts": [int(count) for count in counts.tolist()]},
        "mean": float(finite_values.mean()),
        "std": float(finite_values.std()) if finite_values.numel() > 1 else 0.0,
        "max_magnitude": reach,
        "mean_magnitude": float(magnitude.mean()),
        "zeros": float((finite_values == 0).float().mean()),
        "not_finite": broken,
        "cut": float(magnitude.kthvalue(at).values) if at and share else None,
    }


def _model(session: Session) -> Any:
    if session.loaded is None:
        raise ModelError("No model is open.", "Open one in the Model room.")
    return session.loaded


ASKS: dict[str, Ask] = {"catalogue": catalogue, "open_model": open_model, "layer": layer}


def find(name: str) -> Ask:
    """The function that answers `name`; the data part is imported at the first question that needs it."""
    if name in ASKS:
        return ASKS[name]
    if name == "formula":
        from core import serve_formula

        return serve_formula.formula
    if name.startswith("xray_"):
        from core import serve_xray

        if name in serve_xray.ASKS:
            return serve_xray.ASKS[name]
    if name in ("decide", "treemap", "compare_clusters"):
        from core import serve_choice, serve_tree

        return {**serve_choice.ASKS, **serve_tree.ASKS}[name]
    from core import serve_data

    if name not in serve_data.ASKS:
        raise ModelError(
            f"The worker knows no question called {name!r}.",
            f"It knows {', '.join(sorted({*ASKS, *serve_data.ASKS, 'formula'}))}.",
        )
    return serve_data.ASKS[name]


def answer(session: Session, line: str) -> dict[str, Any]:
    """One question in, one answer out; never raises, so that a bad model costs a sentence and not the worker."""
    number = None
    try:
        question = json.loads(line)
        number = question["id"]
        return {"id": number, "answer": finite(find(question["ask"])(session, **question.get("args", {})))}
    except PrunariumError as error:
        return {"id": number, "problem": error.problem, "remedy": error.remedy}
    except Exception as error:  # a library's failure on a stranger's file: said, logged, survived
        if out_of_memory(error):
            full = ResourceError("There is not enough memory for that.", "Close something, or open a smaller model.")
            return {"id": number, **_said(full)}
        traceback.print_exc(file=sys.stderr)
        return {
            "id": number,
            "problem": f"The worker failed on that: {type(error).__name__}: {error}",
            "remedy": "Its log has the details.",
        }


def _said(error: PrunariumError) -> dict[str, str]:
    return {"problem": error.problem, "remedy": error.remedy}


def serve(questions: IO[str], answers: IO[str], cache: Path) -> None:
    """Answer line after line until the questions end."""
    session, waiting = Session(cache), queue.SimpleQueue()

    def listen() -> None:
        for line in questions:
            waiting.put(line)
        os._exit(0)  # the studio is gone: do not finish what nobody will read

    threading.Thread(target=listen, daemon=True).start()
    while True:
        answers.write(json.dumps(answer(session, waiting.get()), allow_nan=False) + "\n")
        answers.flush()


def main() -> None:
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    folder = os.environ.get("PRUNARIUM_WORKER_CACHE")
    with tempfile.TemporaryDirectory(prefix="prunarium-worker-") as private:
        serve(sys.stdin, stream, Path(folder) if folder else Path(private))


if __name__ == "__main__":
    main()
