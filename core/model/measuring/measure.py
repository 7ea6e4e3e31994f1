"""Measure a model: quality with its protocol, size, speed and sample text. What could not be measured is None, never a guess."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import exp, isfinite, log2, sqrt
from typing import Any

import torch
from numpy import packbits
from torch import Tensor

from core.errors import ModelError
from core.events import Progress, Watcher, follow
from core.model.blocks import check_context, known_ids
from core.model.inputs.text import predicted_bytes, sequences
from core.model.loading import LoadedModel
from core.model.measuring import comparing
from core.model.measuring.counts import check_in_memory, flops_per_token
from core.model.measuring.latency import WARM_UPS, latency
from core.model.measuring.lean import counts_of, summed_losses
from core.model.measuring.likelihood import check_causal, token_losses
from core.recipe import Accuracy, Corruptions, Geometry, Measure, Perplexity
from core.report import Metrics

NEW_TOKENS = 40
_IMAGES_AT_ONCE = 64
_Z_95 = 1.959963984540054  # two-sided 95 % of a normal distribution


@dataclass(frozen=True)
class Prepared:
    """What a model is measured on, read once and used for the dense, the pruned and the recovered model alike.

    sequences: int64 (samples, tokens), and text_bytes, the bytes of text that they predict; images: float32 (n, channels, height, width) with labels
    int64 (n,); damaged: gives (kind, severity, images) anew, and posed: images of the geometry, each with their labels. `protocol`: how each figure is taken.
    `dense`: what the dense model said, which the others are set against.
    """

    measure: Measure
    sequences: Tensor | None = None
    text_bytes: int = 0
    images: Tensor | None = None
    labels: Tensor | None = None
    damaged: tuple[Callable[[], Iterator[tuple[str, int, Tensor]]], Tensor] | None = None
    posed: tuple[Tensor, Tensor] | None = None
    protocol: dict[str, Any] = field(default_factory=dict)
    dense: comparing.Reference = field(default_factory=comparing.Reference)


def prepare(loaded: LoadedModel, measure: Measure) -> Prepared:
    """Read the text and images that `measure` names. Raises ModelError where this kind of model has no such figure, before anything is read."""
    if measure.accuracy or measure.latency or measure.generate or measure.corruptions or measure.geometry:
        check_in_memory(loaded)
    if measure.latency:
        check_context(loaded, measure.latency.tokens)
    sequences = images = labels = None
    protocol: dict[str, Any] = {}
    text_bytes = 0
    if measure.perplexity:
        sequences = _sequences(loaded, measure.perplexity)
        text_bytes = predicted_bytes(loaded.tokenizer, sequences)
        protocol["perplexity"] = perplexity_protocol(measure.perplexity, sequences) | {
            "dtype": _dtype(loaded),
            "bytes": text_bytes,
        }
    if measure.accuracy:
        images, labels = _labelled_images(loaded, measure.accuracy)
        protocol["accuracy"] = {"source": measure.accuracy.source, "samples": len(labels), "interval": "95 % Wilson"}
    if measure.latency:
        protocol["latency"] = {
            **measure.latency.model_dump(), "warm_ups": WARM_UPS, "statistic": "median", "threads": torch.get_num_threads(),
            "device": str(loaded.device), "dtype": _dtype(loaded),
        }  # fmt: skip
    if measure.generate:
        check_writes(loaded)
        protocol["generate"] = {"prompts": list(measure.generate), "tokens": NEW_TOKENS, "decoding": "greedy"}
    protocol["flops_per_token"] = {"context": _context(measure), "counts": "every weight, zero or not"}
    damaged = _damaged(loaded, measure.corruptions, protocol) if measure.corruptions else None
    posed = _posed(loaded, measure.geometry, protocol) if measure.geometry else None
    return Prepared(measure, sequences, text_bytes, images, labels, damaged, posed, protocol)


def metrics(loaded: LoadedModel, prepared: Prepared, watcher: Watcher, stage: str = "measure") -> Metrics:
    """Everything that `prepared.measure` asks of the model as it stands now. Counts and bytes always."""
    measure, counted = prepared.measure, counts_of(loaded)
    taken: dict[str, Any] = {}
    if prepared.sequences is not None:
        losses = window_losses(loaded, prepared.sequences, watcher, f"{stage}: perplexity")
        taken["perplexity"] = _perplexity(losses, watcher, f"{stage}: perplexity")
        taken["bits_per_byte"] = _bits_per_byte(taken["perplexity"], prepared)
        taken["window_losses"] = tuple(round(loss, 6) for loss in losses) if taken["perplexity"] else ()
    if prepared.images is not None:
        right = right_answers(loaded, prepared.images, prepared.labels, watcher, f"{stage}: accuracy")
        share, interval = _share(right)
        taken |= {"accuracy": share, "accuracy_interval": interval, "right": packbits(right.numpy()).tobytes().hex()}
    if prepared.damaged:
        watcher.check()
        taken["corruptions"] = comparing.robustness(loaded, prepared.damaged[0](), prepared.damaged[1])
    if prepared.posed:
        watcher.check()
        taken["geometry"] = comparing.geometry(loaded, *prepared.posed, prepared.dense)
    if measure.latency:
        timed = latency(
            loaded, measure.latency.batch, measure.latency.tokens, measure.latency.repeats, watcher, f"{stage}: latency"
        )
        taken |= {"latency_ms": timed.median_ms, "peak_memory_mb": timed.peak_memory_mb}
        prepared.protocol["latency"].setdefault("quartiles_ms", {})[stage] = [timed.low_ms, timed.high_ms]
    if measure.generate:
        watcher.check()
        texts = continued(loaded, measure.generate)
        taken["samples"] = decoded(loaded, texts)
        if prepared.dense.written:
            taken["divergence"] = comparing.divergence(loaded, prepared.dense.written)
        else:
            prepared.dense.written.extend(comparing.written(loaded, texts) if stage == "dense" else ())
    return Metrics(
        parameters=counted.parameters,
        nonzero=counted.nonzero,
        size_bytes=counted.size_bytes,
        flops_per_token=flops_per_token(loaded, context=_context(measure)),
        **taken,
    )


def hear_dense(loaded: LoadedModel, prepared: Prepared) -> None:
    """Let the dense model say again what the others are set against, where its figures are known from an earlier run."""
    if prepared.measure.generate:
        prepared.dense.written.extend(comparing.written(loaded, continued(loaded, prepared.measure.generate)))
    if prepared.posed:
        comparing.geometry(loaded, *prepared.posed, prepared.dense)


def _bits_per_byte(perplexity: float | None, prepared: Prepared) -> float | None:
    """The loss of all predictions in bits, over the bytes that they predict: comparable where the tokens are others."""
    if not perplexity or not prepared.text_bytes:
        return None
    rows, tokens = prepared.sequences.shape
    return log2(perplexity) * rows * (tokens - 1) / prepared.text_bytes


def _dtype(loaded: LoadedModel) -> str:
    """What the model computes in."""
    return str(next(loaded.model.parameters()).dtype).removeprefix("torch.")


def _context(measure: Measure) -> int:
    return measure.perplexity.tokens if measure.perplexity else 512


def perplexity(loaded: LoadedModel, sequences: Tensor, watcher: Watcher, stage: str = "perplexity") -> float | None:
    """exp of the mean negative log-likelihood a predicted token.

    sequences int64 (samples, tokens): each is read alone, so its first token predicts but is not predicted: tokens - 1 predictions a sequence,
    no stride, no context carried over. Log-softmax in float32, sum in float64. One sequence at a time, logits of at most 128 tokens at once.
    None, with a note to the watcher, where the result is not a finite number. Raises ModelError for a model that predicts no next token.
    """
    return _perplexity(window_losses(loaded, sequences, watcher, stage), watcher, stage)


def window_losses(loaded: LoadedModel, sequences: Tensor, watcher: Watcher, stage: str = "perplexity") -> list[float]:
    """The mean negative log-likelihood in nats of each sequence's predicted tokens."""
    if loaded.lazy is not None:
        check_causal(loaded.model)
        totals = summed_losses(loaded, sequences, watcher, stage)
    else:
        with torch.no_grad():
            totals = [
                float(token_losses(loaded.model, sequence[None].to(loaded.device)).cpu().double().sum())
                for sequence in follow(sequences, stage, watcher, total=len(sequences))
            ]
    return [total / (sequences.shape[1] - 1) for total in totals]


def _perplexity(losses: Sequence[float], watcher: Watcher, stage: str) -> float | None:
    mean = sum(losses) / len(losses)
    if isfinite(mean) and mean < 700:
        return exp(mean)
    watcher.say(
        Progress(stage, kind="note", text="The perplexity is not a finite number: the model's outputs overflow or are NaN.")
    )
    return None


def perplexity_protocol(asked: Perplexity, sequences: Tensor) -> dict[str, Any]:
    """What a perplexity means nothing without: never compare two that differ in any of these."""
    rows, tokens = sequences.shape
    return {
        "source": asked.source, "samples": rows, "tokens": tokens, "stride": None, "predictions": rows * (tokens - 1), "windows": "consecutive from the start",
        "joined": _joined(asked.source), "special_tokens": "the tokenizer's own around the whole text",
    }  # fmt: skip


def accuracy(
    loaded: LoadedModel, images: Tensor, labels: Tensor, watcher: Watcher, stage: str = "accuracy"
) -> tuple[float, tuple[float, float]]:
    """Share of right answers and its 95 % Wilson interval. images: float32 (n, channels, height, width) as the model expects them; or int64
    ids (n, tokens) for a text classifier. labels int64 (n,)."""
    return _share(right_answers(loaded, images, labels, watcher, stage))


def right_answers(loaded: LoadedModel, images: Tensor, labels: Tensor, watcher: Watcher, stage: str = "accuracy") -> Tensor:
    """bool (n,): which were told right."""
    starts = range(0, len(labels), _IMAGES_AT_ONCE)
    parts = [comparing.answers(loaded, images[start : start + _IMAGES_AT_ONCE]) for start in follow(starts, stage, watcher)]
    return torch.cat(parts) == labels


def _share(right: Tensor) -> tuple[float, tuple[float, float]]:
    count = int(right.sum())
    return count / len(right), wilson(count, len(right))


def wilson(right: int, total: int, z: float = _Z_95) -> tuple[float, float]:
    """The Wilson score interval of a share (Wilson 1927): honest near 0 and 1, where right/total +- z sqrt(pq/n) leaves 0..1."""
    share, spread = right / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * sqrt(share * (1 - share) / total + spread / (4 * total))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def generate(loaded: LoadedModel, prompts: Sequence[str], tokens: int = NEW_TOKENS) -> tuple[str, ...]:
    """Continue each prompt greedily by at most `tokens` tokens (fewer where the model ends its text). Returns the new text alone, special tokens left
    out. Raises ModelError where the model cannot write or has no tokenizer."""
    return decoded(loaded, continued(loaded, prompts, tokens))


def decoded(loaded: LoadedModel, texts: Sequence[tuple[Tensor, int]]) -> tuple[str, ...]:
    """The new text alone of what `continued` gave."""
    return tuple(loaded.tokenizer.decode(ids[0, start:], skip_special_tokens=True) for ids, start in texts)


def continued(loaded: LoadedModel, prompts: Sequence[str], tokens: int = NEW_TOKENS) -> list[tuple[Tensor, int]]:
    """(ids int64 (1, n) of prompt and new text, where the new text begins) for each prompt."""
    from transformers import GenerationConfig

    check_writes(loaded)
    ends = loaded.model.generation_config.eos_token_id
    padding = loaded.tokenizer.pad_token_id
    if padding is None:
        padding = ends[0] if isinstance(ends, list) else ends
    settings = GenerationConfig(max_new_tokens=tokens, do_sample=False, eos_token_id=ends, pad_token_id=padding)
    texts = []
    for prompt in prompts:
        ids = loaded.tokenizer(prompt, return_tensors="pt")["input_ids"].to(loaded.device)
        with torch.no_grad():
            written = loaded.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
        texts.append((written, ids.shape[1]))
    return texts


def check_writes(loaded: LoadedModel) -> None:
    """Raises ModelError where the model cannot continue a text."""
    check_causal(loaded.model, "cannot continue a text")
    if loaded.tokenizer is None:
        raise ModelError(
            f"{loaded.name} has no tokenizer, so it cannot continue a text.", "Put its tokenizer files into the model's folder."
        )


def _sequences(loaded: LoadedModel, asked: Perplexity) -> Tensor:
    check_causal(loaded.model)
    if loaded.tokenizer is None:
        raise ModelError(
            f"{loaded.name} has no tokenizer, so no text can be measured.", "Put its tokenizer files into the model's folder."
        )
    return known_ids(loaded, sequences(asked.source, loaded.tokenizer, asked.samples, asked.tokens, None, asked.column))


def _joined(source: str) -> str:
    if not source.startswith("builtin:"):
        return "a text as in its file, rows of a table by a blank line"
    from core.builtins import text_join

    return {"\n\n": "rows joined by a blank line", " ": "rows joined by a space"}.get(text_join(source), repr(text_join(source)))


def _damaged(
    loaded: LoadedModel, asked: Corruptions, protocol: dict[str, Any]
) -> tuple[Callable[[], Iterator[tuple[str, int, Tensor]]], Tensor]:
    """The images as they are, then each kind at each severity, as the model reads them, made one after another; labels."""
    from core.data.corruptions import corrupted
    from core.data.images import prepared, raw_images

    _check_classifies(loaded, asked.source, "corruptions")
    images, labels = raw_images(asked.source, asked.samples)
    severities = sorted(set(asked.severities))
    protocol["corruptions"] = {"source": asked.source, "samples": len(labels), "severities": severities}

    def made() -> Iterator[tuple[str, int, Tensor]]:
        yield "clean", 0, torch.from_numpy(prepared(images, loaded.location.path))
        for kind in dict.fromkeys(asked.kinds):
            for severity in severities:
                yield kind, severity, torch.from_numpy(prepared(corrupted(images, kind, severity), loaded.location.path))

    return made, torch.from_numpy(labels)


def _posed(loaded: LoadedModel, asked: Geometry, protocol: dict[str, Any]) -> tuple[Tensor, Tensor]:
    from core.data.images import labelled_images

    _check_classifies(loaded, asked.source, "geometry")
    comparing.last_linear(loaded)
    images, labels = labelled_images(asked.source, asked.samples, folder=loaded.location.path)
    protocol["geometry"] = {"source": asked.source, "samples": len(labels)}
    return torch.from_numpy(images), torch.from_numpy(labels)


def _check_classifies(loaded: LoadedModel, source: str, figure: str) -> None:
    if loaded.anatomy.kind != "image_classifier":
        raise ModelError(f"{loaded.name} does not classify images, so it has no {figure} on {source}.", f"Leave {figure} out.")


def _labelled_images(loaded: LoadedModel, asked: Accuracy) -> tuple[Tensor, Tensor]:
    """Images as the model's folder states them, and labels. Refused where the model answers something else than a label of an image."""
    from core.data.images import labelled_images

    _check_classifies(loaded, asked.source, "accuracy")
    images, labels = labelled_images(asked.source, asked.samples, folder=loaded.location.path)
    return torch.from_numpy(images), torch.from_numpy(labels)
