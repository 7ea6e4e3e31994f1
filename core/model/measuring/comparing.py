"""What a pruned model is set against the dense one by: how far its next token is from the dense model's, and where its features lie.

The dense model speaks first and what it said is kept (`Reference`); the models that come out of it are then asked the same, word for word.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, log_softmax

from core.errors import ModelError
from core.model.loading import LoadedModel

_IMAGES_AT_ONCE = 64
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Written:
    """A prompt with what the dense model wrote after it. ids int64 (1, n), the text beginning at `start`; log_probs float32 (n - start, vocabulary): of the
    token at each of its places, as the dense model saw it coming."""

    ids: Tensor
    start: int
    log_probs: Tensor


@dataclass
class Reference:
    """What the dense model said, for as long as one run lasts."""

    written: list[Written] = field(default_factory=list)
    features: Tensor | None = None


def written(loaded: LoadedModel, sequences: Sequence[tuple[Tensor, int]]) -> list[Written]:
    """sequences: (ids (1, n), where the new text begins), as the model wrote them. A prompt after which it wrote nothing is kept too."""
    return [Written(ids, start, _log_probs(loaded, ids, start)) for ids, start in sequences]


def divergence(loaded: LoadedModel, texts: Sequence[Written]) -> tuple[dict[str, Any], ...]:
    """How this model takes the dense model's own words, prompt by prompt: `tokens` (pieces of text, which join to the whole), `kl` in nats from the dense
    model's next-token distribution to this one's, `dense` and `pruned`: the probability either gave the token that was written.

    This model reads the dense model's text up to each place (teacher forcing), so that one early slip does not count against all that follows.
    """
    out = []
    for text in texts:
        before = text.log_probs
        after = _log_probs(loaded, text.ids, text.start)
        chosen = text.ids[0, text.start :, None].cpu()
        kl = (before.exp() * (before - after)).sum(-1).clamp_min(0.0)
        out.append(
            {
                "tokens": _pieces(loaded.tokenizer, text.ids[0].tolist(), text.start),
                "kl": _rounded(kl),
                "dense": _rounded(before.gather(1, chosen)[:, 0].exp()),
                "pruned": _rounded(after.gather(1, chosen)[:, 0].exp()),
            }
        )
    return tuple(out)


def _log_probs(loaded: LoadedModel, ids: Tensor, start: int) -> Tensor:
    """Log-probabilities float32 (n - start, vocabulary) of what stands at each place from `start` on."""
    with torch.no_grad():
        logits = loaded.model(input_ids=ids.to(loaded.device), use_cache=False).logits
    return log_softmax(logits[0, start - 1 : ids.shape[1] - 1].float(), dim=-1).cpu()


def _pieces(tokenizer: Any, ids: list[int], start: int) -> list[str]:
    """The text of each token. A character that several tokens make stands at the last of them."""
    pieces, before = [], tokenizer.decode(ids[:start])
    for place in range(start, len(ids)):
        now = tokenizer.decode(ids[: place + 1])
        half = now.endswith("\N{REPLACEMENT CHARACTER}") and place + 1 < len(ids)
        pieces.append("" if half or not now.startswith(before) else now[len(before) :])
        before = before if half else now
    return pieces


def _rounded(values: Tensor) -> list[float | None]:
    return [round(value, 5) if value == value else None for value in values.double().tolist()]


def geometry(loaded: LoadedModel, images: Tensor, labels: Tensor, reference: Reference) -> dict[str, Any]:
    """Where the features before the last layer lie, over the images: `angle` in degrees between a feature and its class's direction (row of the last layer's
    weight), `norm` of the feature, `margin`: its distance to the nearest border with another class, below 0 where the answer is wrong; `turned`: degrees
    between a feature and the dense model's of the same image (absent where the width is another one). Each as quantiles, and as a median a class.

    A logit is norm x |w| x cos(angle) + bias (Li et al. 2022, Understanding Robustness Lottery, arXiv 2206.07918): pruning moves the three apart.
    """
    head = last_linear(loaded)
    features = _features(loaded, head, images)
    weight = head.weight.detach().float().cpu()
    bias = head.bias.detach().float().cpu() if head.bias is not None else torch.zeros(len(weight))
    if int(labels.max()) >= len(weight):
        raise ModelError(
            f"The images have a class {int(labels.max())}, and {loaded.name} tells {len(weight)} classes.",
            "Leave geometry out, or name its own images.",
        )
    own = weight[labels]
    angle = torch.rad2deg(torch.acos(cosine_similarity(features, own).clamp(-1, 1)))
    figures = {"angle": angle, "norm": features.norm(dim=1), "margin": _margins(features @ weight.T + bias, weight, labels)}
    dense = reference.features
    if dense is None:
        reference.features = features
    elif dense.shape == features.shape:
        figures["turned"] = torch.rad2deg(torch.acos(cosine_similarity(features, dense).clamp(-1, 1)))
    out: dict[str, Any] = {"quantiles": list(QUANTILES)}
    for name, values in figures.items():
        by_class = [values[labels == number] for number in range(len(weight))]
        cut = torch.quantile(values, torch.tensor(QUANTILES)).tolist()
        out[name] = {
            "at": [round(x, 4) for x in cut],
            "classes": [round(float(v.median()), 4) if len(v) else None for v in by_class],
        }
    return out


def _margins(logits: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Distance in feature space to the nearest border: min over other classes of (z_own - z_other) / |w_own - w_other|."""
    own = logits.gather(1, labels[:, None])
    apart = torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist")[
        labels
    ]  # (images, classes), whatever the features are
    distance = (own - logits) / apart.clamp_min(1e-12)
    return distance.scatter(1, labels[:, None], torch.inf).min(1).values


def last_linear(loaded: LoadedModel) -> nn.Linear:
    """The layer that tells the classes. Raises ModelError where there is none."""
    classes = getattr(loaded.model.config, "num_labels", None)
    found = [part for part in loaded.model.modules() if isinstance(part, nn.Linear) and part.out_features == classes]
    if loaded.anatomy.kind != "image_classifier" or not found:
        raise ModelError(
            f"{loaded.name} has no last layer that tells classes of images, so its features have no class direction.",
            "Leave geometry out for this model.",
        )
    return found[-1]


def _features(loaded: LoadedModel, head: nn.Linear, images: Tensor) -> Tensor:
    """What the last layer reads, float32 (n, features)."""
    seen: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().float().cpu().flatten(1)))
    try:
        answers(loaded, images)
    finally:
        handle.remove()
    return torch.cat(seen)


def answers(loaded: LoadedModel, images: Tensor) -> Tensor:
    """The class told for each image, int64 (n,)."""
    dtype, out = next(loaded.model.parameters()).dtype, []
    with torch.no_grad():
        for part in images.split(_IMAGES_AT_ONCE):
            output = loaded.model(part.to(loaded.device) if part.dtype == torch.int64 else part.to(loaded.device, dtype))
            out.append(getattr(output, "logits", output).argmax(-1).cpu())
    return torch.cat(out)


def robustness(loaded: LoadedModel, sets: Iterable[tuple[str, int, Tensor]], labels: Tensor) -> dict[str, Any]:
    """Right answers by kind and severity: {"clean": share, KIND: {severity: share}}. sets: images as the model reads them; ("clean", 0) as they were."""
    out: dict[str, Any] = {}
    for kind, severity, images in sets:
        share = int((answers(loaded, images) == labels).sum()) / len(labels)
        if kind == "clean":
            out["clean"] = share
        else:
            out.setdefault(kind, {})[str(severity)] = share
    return out


def heads_of(loaded: LoadedModel) -> dict[str, Any]:
    """Which weights hold the attention heads of each block, so that masks can be read head by head: {block: {count, weights: [[name, axis], ...]}}, heads in
    equal parts along the axis. Where one matrix holds queries, keys and values together, the output's alone."""
    out = {}
    for block in loaded.anatomy.blocks:
        if block.attention is None:
            continue
        width = block.attention.query_heads * block.attention.head_dim
        found = []
        for layer in block.layers:
            axis = {"query": 0, "output": 1}.get(layer.role)
            if axis is not None and layer.shape[axis] == width:
                found.append([f"{layer.path}.weight", 1 - axis if layer.kind == "conv1d" else axis])
        if found:
            out[block.name] = {"count": block.attention.query_heads, "weights": found}
    return out
