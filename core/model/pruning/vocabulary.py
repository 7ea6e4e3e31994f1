"""A shorter vocabulary: which tokens may go without changing how the rest is cut, the tokenizer's ids made anew, and the rows of embedding and head."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from core.errors import ModelError
from core.model.loading import LoadedModel, read_tokenizer

_FILE, _SETTINGS = "tokenizer.json", "tokenizer_config.json"
# settings of generation that name tokens one by one, in ways of their own
_NAMES_TOKENS = (
    "bad_words_ids",
    "force_words_ids",
    "forced_decoder_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    "sequence_bias",
)
_OTHER = "Leave the vocabulary of this model as it is."


def tokenizer_json(tokenizer: PreTrainedTokenizerBase | None) -> dict[str, Any]:
    """The tokenizer's own description. Raises ModelError where it is none whose tokens could be taken out consistently."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if tokenizer is None or backend is None:
        raise ModelError("The model has no tokenizer.json, so which rows are which tokens is not known.", _OTHER)
    said = json.loads(backend.to_str())
    if said["model"].get("type") != "BPE":
        raise ModelError(f"The tokenizer is {said['model'].get('type')}, not BPE, and leaves no merges to cut.", _OTHER)
    _remapped_after(said.get("post_processor"), {})
    return said


def order_of_going(said: Mapping[str, Any], rows: int, counts: Tensor, stay: set[int]) -> list[int]:
    """The ids that may go, those that the text misses least first, any beginning of which leaves the other tokens as they are cut now.

    Only what merges make may go, and rows without a token: letters and bytes stay, so every text can still be written. A token counts at least as often
    as each one that is made of it, by whichever merge; of two that count the same, the one made later goes first.
    """
    vocabulary: dict[str, int] = said["model"]["vocab"]
    needed = [int(count) for count in counts.tolist()]
    made: dict[int, int] = {}  # {id: rank of the first merge that makes it}
    pairs = [_parts(merge, vocabulary) for merge in said["model"]["merges"]]
    for rank, (_, _, whole) in enumerate(pairs):
        made.setdefault(whole, rank)
    for token in stay:
        needed[token] = 2**62
    changed = True
    while changed:  # merges of one token may come in any order, so once is not always enough
        changed = False
        for left, right, whole in reversed(pairs):
            for part in (left, right):
                if needed[part] < needed[whole]:
                    needed[part], changed = needed[whole], True
    taken = set(vocabulary.values()) | {token["id"] for token in said["added_tokens"]}
    empty = [row for row in range(rows) if row not in taken and row not in stay]
    may = [token for token in made if needed[token] < 2**62]
    return [*reversed(empty), *sorted(may, key=lambda token: (needed[token], -made[token]))]


def _parts(merge: Any, vocabulary: Mapping[str, int]) -> tuple[int, int, int]:
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    if left + right not in vocabulary:
        raise ModelError("A merge of the tokenizer makes a token that its vocabulary has not.", _OTHER)
    return vocabulary[left], vocabulary[right], vocabulary[left + right]


def shortened(tokenizer: PreTrainedTokenizerBase, said: Mapping[str, Any], new: Mapping[int, int]) -> PreTrainedTokenizerBase:
    """The tokenizer with only the tokens of `new`, {id: id that it gets}, and the merges whose parts and result are all left."""
    model, vocabulary = said["model"], said["model"]["vocab"]
    left = {token: new[number] for token, number in vocabulary.items() if number in new}
    merges = [merge for merge in model["merges"] if all(part in new for part in _parts(merge, vocabulary))]
    added = [token | {"id": new[token["id"]]} for token in said["added_tokens"]]
    made = {
        **said,
        "model": {**model, "vocab": left, "merges": merges},
        "added_tokens": added,
        "padding": None,
    }  # set at each call
    made["post_processor"] = _remapped_after(said.get("post_processor"), new)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        (Path(folder) / _FILE).write_text(json.dumps(made, ensure_ascii=False), encoding="utf-8")
        settings = json.loads((Path(folder) / _SETTINGS).read_text(encoding="utf-8"))
        if named := settings.get("added_tokens_decoder"):
            settings["added_tokens_decoder"] = {str(new[int(number)]): token for number, token in named.items()}
            (Path(folder) / _SETTINGS).write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")
        again = read_tokenizer(Path(folder))
    if again.get_vocab() != {token: new[number] for token, number in tokenizer.get_vocab().items() if number in new}:
        raise ModelError("The shorter tokenizer, read again, has other tokens than it should.", _OTHER)
    return again


def _remapped_after(said: Any, new: Mapping[int, int]) -> Any:
    """What is put around a text, in new ids (those it has, where `new` is empty). Raises ModelError for a kind that may hide ids."""
    kind = said.get("type") if isinstance(said, dict) else None
    if said is None or kind == "ByteLevel":
        return said
    if kind == "Sequence":
        return {**said, "processors": [_remapped_after(part, new) for part in said["processors"]]}
    if kind == "TemplateProcessing":
        tokens = {name: {**token, "ids": [new.get(i, i) for i in token["ids"]]} for name, token in said["special_tokens"].items()}
        return {**said, "special_tokens": tokens}
    if kind in ("RobertaProcessing", "BertProcessing"):
        return {**said, **{name: [said[name][0], new.get(said[name][1], said[name][1])] for name in ("sep", "cls")}}
    raise ModelError(f"The tokenizer ends with a step ({kind}) whose tokens are not known here.", _OTHER)


def ids_that_stay(loaded: LoadedModel, said: Mapping[str, Any]) -> set[int]:
    """Special and added tokens, and every id that the configs name."""
    named = {number for settings in _settings(loaded.model) for value in _ids(settings).values() for number in _listed(value)}
    return named | set(loaded.tokenizer.all_special_ids) | {token["id"] for token in said["added_tokens"]}


def why_not(loaded: LoadedModel) -> str:
    """The reason why rows of this model's vocabulary cannot go, a sentence; empty where they can."""
    model, layers = loaded.model, {layer.path for layer in loaded.anatomy.layers}
    what = type(model).__name__
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    if not isinstance(table, nn.Embedding) or not isinstance(head, nn.Linear) or head.weight.shape[0] != table.num_embeddings:
        return f"{what} has no embedding and head of one row a token each."
    own = {id(parameter) for module in (table, head) for parameter in module.parameters()}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if name.rpartition(".")[0] in layers:
            continue  # of a block's width, whatever the vocabulary's length
        if id(tensor) not in own and tensor.dim() and tensor.shape[0] == table.num_embeddings:
            return f"{name} of {what} is as long as its vocabulary too, and what it does with it is not known."
    generation = getattr(model, "generation_config", None)
    if named := [name for name in _NAMES_TOKENS if getattr(generation, name, None)]:
        return f"The generation settings of {what} name tokens one by one ({named[0]})."
    return ""


def keep_rows(model: PreTrainedModel, kept: Sequence[int]) -> None:
    """Leave only these rows of embedding and head, ascending, and tell the configs the new ids."""
    rows, new = torch.tensor(kept), {old: number for number, old in enumerate(kept)}
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    parameters = {id(p): p for p in (table.weight, head.weight, head.bias) if p is not None}
    with torch.no_grad():
        for parameter in parameters.values():  # a tied one once
            parameter[: len(kept)] = parameter[rows.to(parameter.device)]
    model.resize_token_embeddings(len(kept))
    for settings in _settings(model):
        for name, value in _ids(settings).items():
            setattr(settings, name, [new[number] for number in value] if isinstance(value, list) else new[value])
    for module in model.modules():
        if vars(module).get("padding_idx") is not None:
            module.padding_idx = new[module.padding_idx]


def _settings(model: PreTrainedModel) -> list[Any]:
    generation = getattr(model, "generation_config", None)
    return [model.config, *([generation] if generation is not None else [])]


def _ids(settings: Any) -> dict[str, Any]:
    """{name: id, or ids} of the tokens that a config names."""
    found = {name: value for name, value in vars(settings).items() if name.endswith("_token_id") and _listed(value)}
    return {name: value for name, value in found.items() if all(number >= 0 for number in _listed(value))}


def _listed(value: Any) -> list[int]:
    return [number for number in (value if isinstance(value, list) else [value]) if type(number) is int]
