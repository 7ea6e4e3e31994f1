"""The X-ray's part of the interactive worker: scores of a block's units and of single weights, what repeats, spectra, super weights. See core/serve.py.

Each answer is plain data of a bounded size, whatever the model's. What is read of the calibration text is kept from one question to the next.
"""

from __future__ import annotations

import base64
from typing import Any

from core.errors import ModelError
from core.method import get, load_methods

PROMPT = "The city was founded in"
MOST_MEMBERS = 24  # of a cluster, and clusters, that travel
_LOOKED_FOR = (50.0, 20.0, 10.0, 5.0)  # sizes of spikes: the paper's, then smaller ones


def units(session: Any, block: str, structure: str, metric: str = "") -> dict[str, Any]:
    """The scores of a block's neurons, heads or experts, in their own order. metric: a score's name; the first that fits where it does not."""
    from core.model.looking import lens

    seen = _lens(session)
    choices = _choices(structure)
    if not choices:
        raise ModelError(f"No score is known for {structure}.", "Choose neurons, heads or experts.")
    method = get("score", metric if metric in choices else choices[0])
    values = lens.scores_of_units(seen, lens.block_of(seen.loaded, block), structure, method)
    return {"block": block, "structure": structure, "metric": method.card.name, "choices": choices, "scores": values.tolist(),
            "protocol": seen.protocol if method.needed() else ""}  # fmt: skip


def weights(session: Any, name: str, metric: str = "magnitude", window: list[int] | None = None, how: str = "max",
            share: float | None = None) -> dict[str, Any]:  # fmt: skip
    """A window of a layer's scores as at most 256 x 256 tiles, and the part of each tile that `share` would remove by them.

    `values`, `removed`: float32, row by row, as base64.
    """
    import torch

    from core.model.looking import lens, tiles
    from core.model.masks import decide

    seen = _lens(session)
    layer = seen.loaded.anatomy.layer(name)
    method = get("score", metric if metric in _choices("unstructured") else "magnitude")
    scores = lens.scores_of_weights(seen, layer, method)
    inside = tiles.checked_window(window, *scores.shape)
    found = tiles.tiled(scores.cpu().numpy(), inside, how)
    removed = None
    if share:
        gone = ~decide(scores, "unstructured", share, method.card.compare, name)
        removed = tiles.tiled(gone.to(torch.float32).cpu().numpy(), inside, "mean").values
    positive = scores[scores > 0].log10().cpu()
    counts, edges = torch.histogram(positive, bins=48) if len(positive) else (torch.zeros(0), torch.zeros(1))
    return {
        "name": name, "metric": method.card.name, "choices": _choices("unstructured"), "compare": method.card.compare, "how": how,
        "shape": list(scores.shape), "window": list(inside), "rows": found.rows, "columns": found.columns, "share": share,
        "values": _packed(found.values), "removed": None if removed is None else _packed(removed),
        "zeros": int((scores == 0).sum()), "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
        "protocol": seen.protocol if method.needed() else "",
    }  # fmt: skip


def masks(session: Any, name: str, share: float = 0.5) -> dict[str, Any]:
    """What the scores of a layer would remove at one share: for every two, the part of the weights that go which both take. Scores that cannot be had
    here are left out, with the reason."""
    from core.errors import PrunariumError
    from core.model.looking import lens
    from core.model.masks import decide

    seen = _lens(session)
    layer = seen.loaded.anatomy.layer(name)
    gone, left_out = {}, {}
    for metric in _choices("unstructured"):
        method = get("score", metric)
        try:
            scores = lens.scores_of_weights(seen, layer, method)
            gone[metric] = ~decide(scores, "unstructured", share, method.card.compare, name).cpu()
        except PrunariumError as error:
            left_out[metric] = error.problem
    both = [[float((a & b).sum() / a.sum().clamp_min(1)) for b in gone.values()] for a in gone.values()]
    return {"name": name, "share": share, "metrics": list(gone), "overlap": both, "left_out": left_out, "protocol": seen.protocol}


def duplicates(session: Any, block: str, structure: str, threshold: float = 0.9) -> dict[str, Any]:
    """Clusters of a block's units whose weights point the same way, and for each unit the cosine with the one most like it."""
    from core.model.looking import lens
    from core.model.looking.duplicates import alike, unit_vectors

    loaded = _loaded(session)
    found = alike(unit_vectors(loaded, lens.block_of(loaded, block), structure), threshold)
    told = [{"size": len(members), "members": list(members[:MOST_MEMBERS])} for members in found.clusters[:MOST_MEMBERS]]
    return {"block": block, "structure": structure, "threshold": threshold, "nearest": found.nearest.tolist(), "mate": found.mate.tolist(),
            "clusters": told, "in_clusters": sum(map(len, found.clusters)), "count": len(found.clusters)}  # fmt: skip


def experts(session: Any, block: str) -> dict[str, Any]:
    """How alike a block's experts are, and which kinds of text visit which."""
    from core.model.looking import lens
    from core.model.mixture import look as expert_look

    seen = _lens(session)
    at = lens.block_of(seen.loaded, block)
    return {**expert_look.experts_alike(seen, at), "visits": expert_look.visits_by_kind(seen, at)}


def spectrum(session: Any, name: str, share: float | None = None) -> dict[str, Any]:
    """The singular values of a layer and what they say; and how large the values are that it is given."""
    from core.model.looking.spectrum import spectrum as of
    from core.model.pruning.scoring import layer_weight

    loaded = _loaded(session)
    layer = loaded.anatomy.layer(name)
    return {
        "name": name,
        "shape": list(layer.shape),
        **of(layer_weight(loaded, layer), share),
        "activations": input_sizes(session, layer),
    }


def inputs(session: Any, name: str) -> dict[str, Any]:
    """What a layer is given, as `spectrum` tells it too."""
    from core.model.looking import lens

    return {"name": name, "activations": lens.inputs_of(_lens(session), _loaded(session).anatomy.layer(name))}


def input_sizes(session: Any, layer: Any) -> dict[str, Any] | None:
    """A histogram of the values that a layer is given, and its loudest features; None where the model's inputs are not collected here."""
    from core.errors import PrunariumError
    from core.model.looking import lens

    try:
        return lens.inputs_of(_lens(session), layer)
    except PrunariumError:
        return None  # the spectrum needs no text


def spikes(session: Any) -> dict[str, Any]:
    """Super weights, or the largest spikes below the paper's threshold where there is none above it."""
    from core.model.looking.super_weights import SEQUENCES, find_super_weights

    seen = _lens(session)
    for threshold in _LOOKED_FOR:
        found = find_super_weights(seen.loaded, seen.inputs[:SEQUENCES], threshold)
        if found:
            break
    said = [
        {"layer": s.layer, "row": s.row, "column": s.column, "weight": s.weight, "input": s.input, "output": s.output}
        for s in found
    ]
    return {"threshold": threshold, "super": threshold == _LOOKED_FOR[0], "spikes": said[:20], "protocol": seen.protocol}


def ablate(session: Any, layer: str, row: int, column: int, prompt: str = PROMPT) -> dict[str, Any]:
    """What the model writes, and its loss on the calibration text, with and without one weight, which is put back."""
    from core.model.depth.ablation import without_weight

    seen = _lens(session)
    return {"prompt": prompt, **without_weight(seen.loaded, seen.inputs, layer, int(row), int(column), prompt)}


ASKS = {
    "xray_units": units, "xray_weights": weights, "xray_duplicates": duplicates, "xray_masks": masks, "xray_experts": experts, "xray_spectrum": spectrum,
    "xray_inputs": inputs, "xray_spikes": spikes, "xray_ablate": ablate,
}  # fmt: skip


def _choices(structure: str) -> list[str]:
    """The scores that can be shown for a structure: those of weights alone first, random last."""
    from core.model.looking.lens import usable

    found = [method for (kind, _), method in load_methods().items() if kind == "score" and usable(method, structure)]
    return [method.card.name for method in sorted(found, key=lambda m: (m.card.name == "random", len(m.needed()), m.card.name))]


def _loaded(session: Any) -> Any:
    if session.loaded is None:
        raise ModelError("No model is open.", "Open one in the Model room.")
    return session.loaded


def _lens(session: Any) -> Any:
    """The lens of the open model; made once for each."""
    from core.model.looking.lens import open_lens

    held = session.parts.get("xray")
    if held is None or held.loaded is not _loaded(session):
        session.parts["xray"] = held = open_lens(_loaded(session))
    return held


def _packed(values: Any) -> str:
    return base64.b64encode(values.astype("<f4").tobytes()).decode("ascii")
