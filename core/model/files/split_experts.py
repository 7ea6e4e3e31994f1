"""A dense Llama as a mixture of experts with the same answers: `python -m core.model.files.split_experts FOLDER NEW_FOLDER COUNT`."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: see docs/decisions

import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from core.command import answer
from core.errors import ModelError, ResourceError

if TYPE_CHECKING:
    from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

_CARD = """# {name}

Made by Prunarium from {source}: the same weights, the MLP of each block split into {count} experts of a Mixtral. Expert k holds the k-th of {count}
equal runs of its neurons. The routers are all zeros, so every expert has the gate 1/{count}, and every token visits all {count}: together they say what
the MLP said (their outputs are {count} times as large, which the gates undo). It was **never trained as a mixture**: its router knows nothing, and
without one expert the gates of the others grow to 1/{less}, so what is left says more than its part of the MLP did.

The licence is that of the original weights.
"""


def split(model: LlamaForCausalLM, count: int) -> MixtralForCausalLM:
    """A Mixtral of `count` experts that says what this Llama says. Raises ModelError where the MLP does not divide, or has what Mixtral has not.

    Expert k: rows k * inner / count ... of gate and up, the same columns of down, times count. The router (count, hidden) is zero, so the gates of
    the top-k, which are all there are, are 1 / count each.
    """
    import torch
    from transformers import MixtralForCausalLM

    config = model.config
    if config.intermediate_size % count or config.attention_bias or config.mlp_bias:
        raise ModelError(
            f"An MLP of {config.intermediate_size} neurons{' with biases' if config.mlp_bias or config.attention_bias else ''} cannot be "
            f"{count} equal experts of a Mixtral.",
            "Choose a number of experts that divides it, of a Llama without biases.",
        )
    with torch.device("meta"):
        made = MixtralForCausalLM(_config(config, count))
    weights, theirs = dict(model.state_dict()), {}
    for name in made.state_dict():
        stem = name.partition(".mlp.")[0]
        if name.endswith("experts.gate_up_proj"):
            parts = [weights[f"{stem}.mlp.{one}_proj.weight"].unflatten(0, (count, -1)) for one in ("gate", "up")]
            theirs[name] = torch.cat(parts, 1)
        elif name.endswith("experts.down_proj"):
            theirs[name] = weights[f"{stem}.mlp.down_proj.weight"].unflatten(1, (count, -1)).transpose(0, 1).contiguous() * count
        elif name.endswith("mlp.gate.weight"):
            theirs[name] = torch.zeros(count, config.hidden_size, dtype=model.dtype)
        else:
            theirs[name] = weights[name]
    return MixtralForCausalLM.from_pretrained(None, config=made.config, state_dict=theirs, dtype=model.dtype).eval()


def _config(config: LlamaConfig, count: int) -> MixtralConfig:
    from transformers import MixtralConfig

    same = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_act",
            "max_position_embeddings", "initializer_range", "rms_norm_eps", "use_cache", "pad_token_id", "bos_token_id", "eos_token_id",
            "tie_word_embeddings", "rope_parameters")  # fmt: skip
    return MixtralConfig(
        **{name: getattr(config, name) for name in same},
        intermediate_size=config.intermediate_size // count,
        num_local_experts=count,
        num_experts_per_tok=count,
        sliding_window=None,
    )


def split_folder(source: Path, folder: Path, count: int, name: str) -> Path:
    """Load a Llama from a folder, split it, and save it with its tokenizer and a card as `folder`, whole or not at all."""
    from transformers import AutoTokenizer, LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(source, dtype="auto", local_files_only=True)
    needed, free = model.get_memory_footprint() * 1.1, shutil.disk_usage(folder.parent).free
    if free < needed:
        raise ResourceError(
            f"{folder.name} needs {needed / 1e6:.0f} MB of disk and {folder.parent} has {free / 1e6:.0f} MB.",
            "Free some room, or point PRUNARIUM_CACHE at another disk.",
        )
    made = split(model, count)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        new = Path(scratch) / folder.name
        made.save_pretrained(new)
        AutoTokenizer.from_pretrained(source, local_files_only=True).save_pretrained(new)
        if (source / "generation_config.json").is_file():
            shutil.copyfile(source / "generation_config.json", new / "generation_config.json")
        (new / "README.md").write_text(_CARD.format(name=folder.name, source=name, count=count, less=count - 1))
        new.replace(folder)
    return folder


def main(arguments: list[str]) -> int:
    """Split `FOLDER NEW_FOLDER COUNT NAME`. Returns 0; 1 when it cannot be done, said in a sentence; 2 when called wrongly."""
    return answer(
        lambda: split_folder(Path(arguments[0]), Path(arguments[1]), int(arguments[2]), arguments[3]),
        "python -m core.model.files.split_experts FOLDER NEW_FOLDER COUNT NAME",
        understood=len(arguments) == 4,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
