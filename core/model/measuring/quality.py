"""One cheap figure of how good a model is right now, for curves that need it dozens of times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, inf
from typing import Any

import torch
from torch import Tensor

from core.errors import ModelError
from core.model.blocks import call, known_ids
from core.model.inputs import text
from core.model.loading import LoadedModel
from core.model.measuring.likelihood import token_losses
from core.recipe import Curves

_IMAGES_AT_ONCE = 64


@dataclass(frozen=True)
class Check:
    """measure() -> exp of the mean negative log-likelihood: of the next token (`perplexity`) or of the right label (`label perplexity`).

    inputs: what it reads, in order, one forward for each `batch` rows. `protocol` says how, so that the figure can be compared. read(number of the batch) ->
    (log-probabilities (n, answers) in float32, right answers (n,)) of its predictions.
    """

    metric: str
    inputs: Tensor
    measure: Callable[[], float]
    protocol: dict[str, Any]
    read: Callable[[int], tuple[Tensor, Tensor]]
    batch: int = 1

    @property
    def batches(self) -> int:
        return -(-len(self.inputs) // self.batch)


def open_check(loaded: LoadedModel, ask: Curves) -> Check:
    """The figure that fits the model. Raises ModelError for a model that predicts neither tokens nor labels."""
    if loaded.anatomy.kind == "image_classifier":
        return _on_labels(loaded, ask)
    if loaded.anatomy.kind != "decoder" or loaded.tokenizer is None:
        raise ModelError(
            f"{loaded.name} predicts no next token, so its curves have no perplexity.",
            "Leave curves out of observe for this model.",
        )
    return _on_tokens(loaded, ask)


def _on_tokens(loaded: LoadedModel, ask: Curves) -> Check:
    sequences = known_ids(loaded, text.sequences(ask.source, loaded.tokenizer, ask.samples, ask.tokens, 0)).to(loaded.device)

    def measure() -> float:
        with torch.no_grad():
            return _exp(torch.cat([token_losses(loaded.model, row[None]) for row in sequences]).cpu().double().mean())

    def read(number: int) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            logits = call(loaded, sequences[number][None]).logits[0, :-1]
            return logits.float().log_softmax(-1), sequences[number][1:]

    protocol = {"source": ask.source, "samples": ask.samples, "tokens": ask.tokens, "windows": "drawn from all of it, seed 0"}
    return Check("perplexity", sequences, measure, protocol, read)


def _on_labels(loaded: LoadedModel, ask: Curves) -> Check:
    from core.data.images import labelled_images

    source = ask.source if "wikitext" not in ask.source else "builtin:mnist5k/train"  # the default is a text
    arrays = labelled_images(source, max(ask.samples, 256), 1, loaded.location.path)
    images, labels = (torch.from_numpy(array).to(loaded.device) for array in arrays)

    def measure() -> float:
        with torch.no_grad():
            logits = torch.cat([call(loaded, part).logits for part in images.split(_IMAGES_AT_ONCE)])
            return _exp(torch.nn.functional.cross_entropy(logits.float(), labels.to(logits.device)))

    def read(number: int) -> tuple[Tensor, Tensor]:
        part = slice(number * _IMAGES_AT_ONCE, (number + 1) * _IMAGES_AT_ONCE)
        with torch.no_grad():
            return call(loaded, images[part]).logits.float().log_softmax(-1), labels[part]

    return Check("label perplexity", images, measure, {"source": source, "samples": len(labels)}, read, _IMAGES_AT_ONCE)


def _exp(mean: Tensor) -> float:
    """exp, infinite where a float cannot hold it: a ruined model is a point of a curve, not an error."""
    return exp(float(mean)) if float(mean) < 700 else inf
