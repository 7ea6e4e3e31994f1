"""Wanda and SparseGPT beside llmcompressor, on the same model and the same ids. It lives in an environment of its own, made on the first run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from core import builtins
from core.events import Silent
from core.model.inputs import text
from core.model.loading import LoadedModel, load
from core.model.measuring.measure import perplexity
from core.model.pruning.step import prune
from core.recipe import Prune
from tests.bench import Figure

MODEL, SAMPLES, WINDOWS, LENGTH, PEER = "builtin:smollm2-135m", 16, 32, 512, "llmcompressor==0.14.0.1"
ABOUT = (
    f"SmolLM2-135M, float32, {SAMPLES} x {LENGTH} tokens of WikiText-2 train (seed 0), 50 %: the same folder and the same ids to both, seconds of the pruning "
    f"alone, one after the other in one run. Peer: {PEER}, its oneshot with the sequential pipeline, a batch of one. Perplexity of both by our measure: "
    f"{WINDOWS} windows of {LENGTH} tokens of WikiText-2 test."
)
_PEER = Path(__file__).with_name("peer_llmcompressor.py")


def _environment() -> Path:
    """The peer's python, with the torch that we use. Installs it where it is missing."""
    folder = builtins.cache_dir() / f"bench-{PEER.replace('==', '-')}"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        print(f"  (installing {PEER} into {folder})", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run(
            [python, "-m", "pip", "install", "-q", f"torch=={torch.__version__.split('+')[0]}", PEER, "numpy"], check=True
        )
        (folder / "ready").touch()
    return python


def _theirs(python: Path, model: Path, ids: Path, out: Path, method: str) -> tuple[float, dict[str, torch.Tensor]]:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([python, "-P", _PEER, model, ids, out, method], check=True, stdout=sys.stderr, env=clean)
    return json.loads((out / "seconds.json").read_text()), load_file(out / "model.safetensors")


def _ours(method: str, ids: torch.Tensor) -> tuple[float, LoadedModel]:
    loaded = load(MODEL)
    start = time.perf_counter()
    prune(loaded, Prune(method=method, sparsity=0.5), lambda: ids, 0, Silent())
    return time.perf_counter() - start, loaded


def _against(method: str, label: str, python: Path, folder: Path, ids: torch.Tensor, windows: torch.Tensor) -> list[Figure]:
    fast, loaded = _ours(method, ids)
    slow, weights = _theirs(python, folder / "dense", folder / "ids.npy", folder / method, method)
    mine = {name: value.detach() for name, value in loaded.model.state_dict().items()}
    layers = [f"{layer.path}.weight" for block in loaded.anatomy.blocks for layer in block.layers]
    ours = perplexity(loaded, windows, Silent())
    differ = sum(int(((mine[name] == 0) != (weights[name] == 0)).sum()) for name in layers)
    total = sum(mine[name].numel() for name in layers)
    loaded.model.load_state_dict({name: weights[name] for name in layers}, strict=False)
    theirs = perplexity(loaded, windows, Silent())
    apart, agree, wanda = abs(ours / theirs - 1), 1 - differ / total, method == "wanda"
    return [
        Figure(f"{label}, speed", f"{slow / fast:.2f} x ({slow:.0f} s llmcompressor, {fast:.0f} s ours)",
               ">= 3 x" if wanda else "", slow / fast >= 3 if wanda else None),
        Figure(f"{label}, masks that agree", f"{100 * agree:.3f} %", ">= 99.8 %" if wanda else "", agree >= 0.998 if wanda else None),
        Figure(f"{label}, perplexity", f"{ours:.2f} ours, {theirs:.2f} llmcompressor ({100 * apart:.2f} % apart)",
               "within 0.5 %" if wanda else "within 1.5 %", apart <= (0.005 if wanda else 0.015)),
    ]  # fmt: skip


def measure() -> list[Figure]:
    python, loaded = _environment(), load(MODEL)
    ids = text.sequences("builtin:wikitext2/train", loaded.tokenizer, SAMPLES, LENGTH, 0)
    windows = text.sequences("builtin:wikitext2/test", loaded.tokenizer, WINDOWS, LENGTH, None)
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        loaded.model.save_pretrained(folder / "dense")
        np.save(folder / "ids.npy", ids.numpy())
        del loaded
        figures = []
        for method, label in (("wanda", "Wanda 50 %"), ("sparsegpt", "SparseGPT 50 %")):
            figures += _against(method, label, python, folder, ids, windows)
    return figures
