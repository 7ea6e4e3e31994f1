"""Run by peers.py with the peer's own python: prune a saved model with llmcompressor and save the weights and the seconds it took."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.pruning.sparsegpt.base import SparseGPTModifier
from llmcompressor.modifiers.pruning.wanda.base import WandaPruningModifier
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast


def main(folder: str, ids: str, out: str, method: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rows = np.load(ids)
    data = Dataset.from_dict({"input_ids": rows.tolist(), "attention_mask": np.ones_like(rows).tolist()})
    modifier = {"wanda": WandaPruningModifier, "sparsegpt": SparseGPTModifier}[method]
    recipe = modifier(sparsity=0.5, mask_structure="0:0", targets=["Linear"], ignore=["re:.*lm_head"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"x": 0}, unk_token="x")), pad_token="x")
    start = time.perf_counter()
    oneshot(
        model=model, tokenizer=tokenizer, dataset=data, recipe=recipe, max_seq_length=rows.shape[1], num_calibration_samples=len(rows),
        shuffle_calibration_samples=False, pipeline="sequential",
    )  # fmt: skip
    seconds = time.perf_counter() - start
    Path(out).mkdir()
    save_file({name: value.contiguous() for name, value in model.named_parameters()}, Path(out) / "model.safetensors")
    (Path(out) / "seconds.json").write_text(json.dumps(seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
