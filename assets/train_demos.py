"""Train the built-in demo models from scratch, seeded: `python assets/train_demos.py [tiny-llama|tiny-moe|tiny-cnn|tiny-vit|all] [--steps N] [--out DIR]`.

tiny-llama: a six-block Llama with its own byte-level BPE on WikiText-2. tiny-moe: a Mixtral of eight experts a block on that, on questions and tweets,
and on film reviews. tiny-cnn, tiny-vit: a ResNet and a vision transformer on 4,000 of MNIST's digits. All are saved as bfloat16 safetensors with a
card (README.md, card.json) whose figures are measured on what was saved. On two quiet cores tiny-llama takes about 25 minutes, tiny-moe about 40,
tiny-cnn 4, tiny-vit 12 (it took 42 beside busy neighbours).
"""

from __future__ import annotations

import os

# Before torch. On two quiet cores spinning threads take 0.6 s a step and sleeping ones 0.95; beside a busy neighbour say `passive`.
os.environ.setdefault("OMP_WAIT_POLICY", "active")

import argparse
import ctypes
import sys
from pathlib import Path

# PYTHONSAFEPATH, which launch.py sets, leaves even a script's own folder out.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import demo_cnn
import demo_llama
import demo_moe
import demo_vit

MODELS = Path(__file__).resolve().parent / "models"


def main(arguments: list[str] | None = None) -> int:
    """Train what is asked for. Returns 0."""
    parser = argparse.ArgumentParser(description="Train the built-in demo models.")
    parser.add_argument("what", nargs="?", choices=("tiny-llama", "tiny-moe", "tiny-cnn", "tiny-vit", "all"), default="all")
    parser.add_argument("--steps", type=int, help="fewer steps, for a trial")
    parser.add_argument(
        "--out", type=Path, default=MODELS, help="the folder that gets tiny-llama/, tiny-moe/, tiny-cnn/ and tiny-vit/"
    )
    parser.add_argument("--test-windows", type=int, help="measure on so many windows of test text only, for a trial")
    parser.add_argument("--rows", type=int, help="read so many rows of the training text only, for a trial")
    chosen = parser.parse_args(arguments)
    _keep_freed_memory()
    if chosen.what in ("tiny-llama", "all"):
        demo_llama.train(chosen.out / "tiny-llama", chosen.steps or demo_llama.STEPS, chosen.test_windows, chosen.rows)
    if chosen.what in ("tiny-moe", "all"):
        demo_moe.train(chosen.out / "tiny-moe", chosen.steps or demo_moe.STEPS, chosen.test_windows, chosen.rows)
    if chosen.what in ("tiny-cnn", "all"):
        demo_cnn.train(chosen.out / "tiny-cnn", chosen.steps or demo_cnn.STEPS)
    if chosen.what in ("tiny-vit", "all"):
        demo_vit.train(chosen.out / "tiny-vit", chosen.steps or demo_vit.STEPS)
    return 0


def _keep_freed_memory() -> None:
    """Tell glibc to keep freed memory. By default every large tensor is mapped anew, and page faults take half the time of a step."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):
        for option, value in ((-4, 0), (-1, 2**31 - 1), (-2, 2**28)):  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD
            libc.mallopt(option, value)


if __name__ == "__main__":
    sys.exit(main())
