"""Which structures can be pruned in which family, really tried: `python -m tests.families` writes docs/families.md anew.

Each cell is a tiny random model of the real class, pruned a little, saved, loaded again and compared. `python -m tests.families NAME ...` prints those rows.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models
from torch import Tensor, nn

from core.errors import PrunariumError
from core.events import Silent
from core.model.depth.gone import KEY
from core.model.files import export
from core.model.loading import from_module, load
from core.model.pruning.step import prune
from core.recipe import Prune
from tests.model_folders import CLASSES, TEXT, VIT

FILE = Path(__file__).resolve().parent.parent / "docs" / "families.md"
_MIXTURE = {"num_key_value_heads": 2, "num_experts": 4, "num_experts_per_tok": 2, **TEXT}
_BERT = {**TEXT, "num_hidden_layers": 3}
_STATE = {
    **{key: value for key, value in TEXT.items() if key not in ("num_attention_heads", "intermediate_size")},
    "state_size": 8,
}
_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 96, "decoder_start_token_id": 0}
_SWIN = {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}

# shown name: (model class, configuration class, its arguments)
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "Llama": CLASSES["llama"],
    "Mistral": CLASSES["mistral"],
    "Qwen2": CLASSES["qwen2"],
    "Qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {"num_key_value_heads": 2, "head_dim": 16, **TEXT}),
    "Gemma 2": CLASSES["gemma2"],
    "Gemma 3": ("Gemma3ForCausalLM", "Gemma3TextConfig", {"num_key_value_heads": 2, "head_dim": 16, **TEXT}),
    "Phi-3": CLASSES["phi3"],
    "GPT-2": CLASSES["gpt2"],
    "OPT": CLASSES["opt"],
    "GPT-NeoX": CLASSES["gpt_neox"],
    "Falcon": CLASSES["falcon"],
    "Mixtral": CLASSES["mixtral"],
    "Qwen3-MoE": ("Qwen3MoeForCausalLM", "Qwen3MoeConfig", {**_MIXTURE, "head_dim": 16, "moe_intermediate_size": 32}),
    "OLMoE": ("OlmoeForCausalLM", "OlmoeConfig", _MIXTURE),
    "BERT": CLASSES["bert"],
    "RoBERTa": CLASSES["roberta"],
    "ModernBERT": ("ModernBertForMaskedLM", "ModernBertConfig", _BERT),
    "T5": ("T5ForConditionalGeneration", "T5Config", _T5),
    "ViT": CLASSES["vit"],
    "DeiT": ("DeiTForImageClassification", "DeiTConfig", VIT),
    "Swin": ("SwinForImageClassification", "SwinConfig", _SWIN),
    "ResNet": CLASSES["resnet"],
    "ConvNeXt": ("ConvNextForImageClassification", "ConvNextConfig", {"hidden_sizes": [16, 32], "depths": [2, 2], "num_stages": 2, "image_size": 32}),
    "MobileNetV2": ("MobileNetV2ForImageClassification", "MobileNetV2Config", {"image_size": 32, "depth_multiplier": 0.25}),
    "Mamba": ("MambaForCausalLM", "MambaConfig", _STATE),
    "Mamba-2": ("Mamba2ForCausalLM", "Mamba2Config", {**_STATE, "head_dim": 8, "num_heads": 8, "n_groups": 1, "chunk_size": 8}),
}  # fmt: skip

# column: (method, structure, share)
STRUCTURES: dict[str, tuple[str, str, float]] = {
    "weights": ("magnitude", "unstructured", 0.3),
    "weights, by activations": ("wanda", "unstructured", 0.3),
    "2:4": ("wanda", "2:4", 0.5),
    "tiles": ("wanda", "tiles:8", 0.3),
    "neurons": ("wanda", "neurons", 0.25),
    "heads": ("wanda", "heads", 0.5),
    "query heads": ("wanda", "query_heads", 0.5),
    "heads and neurons": ("flap", "heads_and_neurons", 0.3),
    "channels": ("wanda", "channels", 0.25),
    "experts": ("reap", "experts", 0.5),
    "weights inside experts": ("moe_pruner", "unstructured", 0.3),
    "blocks": ("random", "blocks", 0.34),
    "sub-layers": ("random", "sublayers", 0.25),
    "mixed": ("multi_pruner", "mixed", 0.2),
    "width": ("minitron", "width", 0.25),
    "slices": ("slicegpt", "slices", 0.25),
    "vocabulary": ("unused_tokens", "vocabulary", 0.1),
}
PARAMETERS = {
    "flap": {"compensate": False}
}  # a bias where the family has none would load with Prunarium only, whatever the widths
# layers that activations cannot be collected of: their weights are read without running them, or they are grouped convolutions
PROTECT = {
    "ConvNeXt": ("*.dwconv",),
    "MobileNetV2": ("*.conv_3x3.convolution",),
    "Mamba": ("*.conv1d", "*.dt_proj"),
    "Mamba-2": ("*.conv1d",),
}
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Cell:
    """`works`: pruned, saved, loaded again with the same outputs. `own`: only Prunarium loads it. `protected`: what had to stay as it was.
    `reason`: why not, a sentence."""

    works: bool
    own: bool = False
    reason: str = ""
    protected: tuple[str, ...] = ()

    @property
    def mark(self) -> str:
        if not self.works:
            return "no"
        return (
            "yes, own loader"
            if self.own
            else f"yes, but {', '.join(f'`{name}`' for name in self.protected)}"
            if self.protected
            else "yes"
        )


def build(family: str) -> nn.Module:
    """A tiny model of the family with seeded random weights."""
    model_class, config_class, arguments = FAMILIES[family]
    torch.manual_seed(0)
    return getattr(transformers, model_class)(getattr(transformers, config_class)(**arguments)).eval().requires_grad_(False)


def inputs(model: nn.Module) -> Tensor:
    """Random ids or pixels of the size that the config names."""
    generator = torch.Generator().manual_seed(1)
    if model.main_input_name != "pixel_values":
        return torch.randint(3, 96, (4, 12), generator=generator)
    side = getattr(model.config, "image_size", 32)
    return torch.randn(4, model.config.num_channels, side, side, generator=generator)


def pairs_of_letters() -> transformers.PreTrainedTokenizerFast:
    """Three special tokens, 60 letters and 33 pairs of them."""
    letters = [chr(ord("A") + number) for number in range(60)]
    merges = list(pairwise(letters[:34]))
    tokens = ["<pad>", "<s>", "</s>", *letters, *(left + right for left, right in merges)]
    raw = Tokenizer(models.BPE(vocab={token: place for place, token in enumerate(tokens)}, merges=merges))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def outputs(model: nn.Module, given: Tensor) -> Tensor:
    more = {"decoder_input_ids": given} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model(given, **more).logits


def tried(family: str, column: str) -> Cell:
    """Prune a little, save, load again, compare; where that is refused, without the layers that are in the way."""
    cell = tried_without(family, column, ())
    if cell.works or family not in PROTECT or STRUCTURES[column][0] != "wanda":
        return cell
    again = tried_without(family, column, PROTECT[family])
    return again if again.works else cell


def tried_without(family: str, column: str, protect: tuple[str, ...]) -> Cell:
    method, structure, share = STRUCTURES[column]
    model = build(family)
    given, dense = inputs(model), outputs(model, inputs(model))
    loaded = from_module(model, family)
    loaded.tokenizer = pairs_of_letters()
    try:
        loaded = prune(
            loaded, Prune(method=method, structure=structure, sparsity=share, protect=protect, params=PARAMETERS.get(method, {})),
            lambda: given, 0, Silent(),
        ).loaded  # fmt: skip
        given = given % loaded.model.config.vocab_size if structure == "vocabulary" else given  # ids are others now
        expected = outputs(loaded.model, given)
        with tempfile.TemporaryDirectory() as folder:
            export.save(loaded, Path(folder) / "model")
            again = load(str(Path(folder) / "model"), device="cpu")
    except PrunariumError as error:
        now = outputs(loaded.model, given)
        return Cell(False, reason=error.problem if torch.equal(dense, now) else f"FAULT: refused, but changed. {error.problem}")
    difference = float((outputs(again.model, given) - expected).abs().max())
    if not difference <= _TOLERANCE * max(float(expected.abs().max()), 1.0):
        return Cell(False, reason=f"FAULT: loaded again it differs by {difference:.3g}.")
    if torch.equal(dense, expected):
        return Cell(False, reason="FAULT: nothing changed.")
    return Cell(True, hasattr(loaded.model.config, KEY), protected=protect)


def row(family: str) -> dict[str, Cell]:
    return {column: tried(family, column) for column in STRUCTURES}


def markdown(rows: dict[str, dict[str, Cell]]) -> str:
    """The table, and the reasons below it."""
    lines = [f"| {' | '.join(['', *STRUCTURES])} |", f"|{' --- |' * (len(STRUCTURES) + 1)}"]
    lines += [line(family, cells) for family, cells in rows.items()]
    found: dict[str, list[str]] = {}
    for family, cells in rows.items():
        for reason, columns in _reasons(cells).items():
            found.setdefault(f"{columns}: {reason.replace(FAMILIES[family][0], 'the model')}", []).append(family)
    refused = [f"- **{', '.join(families)}** · {said}" for said, families in found.items()]
    return "\n".join([_HEAD, *lines, "", "## Why not", "", *refused, ""])


def line(family: str, cells: dict[str, Cell]) -> str:
    """A family's row."""
    return f"| {family} | {' | '.join(cell.mark for cell in cells.values())} |"


def _reasons(cells: dict[str, Cell]) -> dict[str, str]:
    """{reason: the columns that it holds for}."""
    found: dict[str, list[str]] = {}
    for column, cell in cells.items():
        if not cell.works:
            found.setdefault(cell.reason, []).append(column)
    return {reason: ", ".join(columns) for reason, columns in found.items()}


_HEAD = """# Families and structures

Made by `python -m tests.families`; do not edit. Each "yes" was tried: a tiny random model of the family's real class in the installed transformers was
pruned a little, saved, loaded again, and said the same. "own loader": what is left has no config in transformers, so Prunarium loads the saved folder
and plain `from_pretrained` refuses it. "but": with those layers protected. "no" is a refusal in a sentence, given below, before any weight changes.
Families not listed may work too: what can be pruned is found from modules and shapes, except slices. Neurons and heads, those of vision transformers
too, are found and cut by Prunarium itself. Heads go by key-value group; query heads singly, as many from each group of a block. Which channels of a
convolutional network belong together, torch-pruning tells, and the cut is the same.
Channels that a norm over all of them reads (ConvNeXt's streams) stay: without one, its mean would be another.
"""


def main(names: list[str]) -> int:
    rows = {}
    for family in names or FAMILIES:
        rows[family] = row(family)
        print(
            line(family, rows[family]),
            *(f"\n    {named}: {reason}" for reason, named in _reasons(rows[family]).items()),
            flush=True,
        )
    if not names:
        FILE.write_text(markdown(rows), encoding="utf-8")
    return any("FAULT" in cell.reason for cells in rows.values() for cell in cells.values())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
