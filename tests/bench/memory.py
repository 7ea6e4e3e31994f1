"""Peak resident memory of Wanda on SmolLM2-135M, above an interpreter that has made the same imports."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.bench import Figure

ABOUT = (
    "Load SmolLM2-135M in float32 and prune it with Wanda 50 %, 128 x 512 tokens, in a process of its own. Peak resident memory (VmHWM) less "
    "what the process held after its imports, over the model's own bytes (134,515,008 parameters x 4)."
)
_WORK = """
import psutil
from core.events import Silent
from core.method import load_methods
from core.model.inputs import text
from core.model.loading import load
from core.model.memory import peak_bytes
from core.model.pruning.step import prune
from core.recipe import Prune
import transformers.models.llama.modeling_llama
load_methods()
imports = psutil.Process().memory_info().rss
loaded = load("builtin:smollm2-135m")
after_load = peak_bytes()
ids = text.sequences("builtin:wikitext2/train", loaded.tokenizer, 128, 512, 0)
prune(loaded, Prune(method="wanda", sparsity=0.5), lambda: ids, 0, Silent(), put_back=False)  # as in a run
print(imports, after_load, peak_bytes())
"""


def measure() -> list[Figure]:
    done = subprocess.run(
        [sys.executable, "-c", _WORK],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_WAIT_POLICY": "passive"},
    )
    imports, loaded, peak = (int(part) for part in done.stdout.split()[-3:])
    own = 134_515_008 * 4
    return [
        Figure("interpreter with its imports", f"{imports / 1e6:.0f} MB"),
        Figure("model loaded, above that", f"{(loaded - imports) / own:.2f} x its own bytes"),
        Figure(
            "peak, above that",
            f"{(peak - imports) / own:.2f} x its own bytes ({(peak - imports) / 1e6:.0f} MB)",
            "<= 1.6 x",
            (peak - imports) / own <= 1.6,
        ),
    ]
