from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from core.events import Watcher
from core.method import Paper, transform
from core.model.loading import LoadedModel
from core.model.masks import nearest
from core.model.measuring.counts import check_in_memory
from core.model.mixture.check import check
from core.model.mixture.experts import ExpertLayer, cut_experts, expert_layers, rows
from core.model.mixture.pruning import told
from core.model.mixture.search import Visit, observed
from core.model.observe import each_changed
from core.model.pruning.pruned import Pruned, UnitCut
from core.report import LayerRow

Merge = dict[str, int | float]


@transform(
    "merge_experts",
    label="Merge experts",
    structures=("experts",),
    paper=Paper(
        "Li, Zhang, Yadav, Sung, Cheng, Bansal, Chen",
        2023,
        "Merge, Then Compress: Demystify Efficient SMoE with Hints from Its Routing Policy",
        "2310.01334",
    ),
    place="criterion/experts",
)
def merge_experts(loaded: LoadedModel, share: float, inputs: Callable[[], Tensor], watcher: Watcher) -> Pruned:
    """Keep what experts have in common: the two most alike become one, their average by how busy each is, until the share asked for is gone.

    In each block: with v_e all weights of expert e as one vector, the pair with the largest cos(v_i, v_j) becomes (b_i v_i + b_j v_j) / (b_i + b_j),
    b the sum of an expert's gates over the calibration tokens that visit it, in the place of the busier one; the same for their rows in the router. The
    merged one has b_i + b_j. Repeated; then the cut block feeds the next one. An average of two that nobody visits is an even one.

    Intuition: experts that say nearly the same need not be two, and the average still knows a little of both where dropping one forgets it.
    When it lies: two experts may compute the same with their neurons in another order, and their average is then neither; experts trained from different
    starts hardly ever point the same way (look at the cosines in the report: near 0 means that this averages strangers); and one expert in the
    place of two loses the choice between them, which REAP's authors find to cost more than dropping one.
    Deviations from the paper: likeness is that of the weights, not of the router's logits; pairs are merged one after another, not groups around the
    busiest experts; neurons are not brought into one order first; merged experts have one row in the router, the average; no distillation and no low-rank
    step follow.
    """
    check_in_memory(loaded)
    layers = expert_layers(loaded.model, loaded.anatomy.blocks)
    goes = min(nearest(share * layers[0].count), layers[0].count - 1)
    check(loaded, layers, layers[0].count - goes)
    by_block = {layer.block: layer for layer in layers}
    cuts, made, merges = [], [], {}
    for block, module, hidden, extra in each_changed(loaded, inputs(), watcher, "prune: merge_experts", by_block):
        layer = by_block[block.index]
        busy = observed(Visit(loaded.model, layer, module, hidden, extra, watcher), ("routed_gates",))["routed_gates"]
        keep, merges[layer.name] = _merge(loaded.model, layer, busy.cpu(), goes)
        cut_experts(loaded.model, layer, keep)
        cuts.append(UnitCut(layer, keep))
        made.append(LayerRow(layer.name, layer.block, (layer.count,), layer.parameters, share, goes / layer.count))
    done, said = told(loaded, layers[0], layers[0].count - goes)
    return Pruned(done, rows=tuple(made), cuts=tuple(cuts), said={**said, "merges": merges})


def _merge(model: nn.Module, layer: ExpertLayer, busy: Tensor, goes: int) -> tuple[Tensor, list[Merge]]:
    """Put averages in the places of the experts that stay, and say which those are and what was merged."""
    experts = model.get_submodule(layer.path)
    held = [(experts, name, 0) for name, each in experts.named_parameters(recurse=False) if len(each) == layer.count]
    products = torch.zeros(layer.count, layer.count, dtype=torch.float64)
    for module, name, axis in held:
        flat = getattr(module, name).detach().movedim(axis, 0).flatten(1).float()
        products += (flat @ flat.T).cpu().double()
    mix, merges = _pairs(products, busy.double(), goes)
    merged = sorted({int(merge["into"]) for merge in merges} & set(mix.diagonal().nonzero().flatten().tolist()))
    with torch.no_grad():
        for module, name, axis in (*held, *rows(model, layer)):
            tensor = getattr(module, name).movedim(axis, 0)
            averages = mix[merged].to(tensor.device, torch.float32) @ tensor.detach().flatten(1).float()
            tensor[merged] = averages.view(-1, *tensor.shape[1:]).to(tensor.dtype)
    return mix.abs().sum(1) > 0, merges


def _pairs(products: Tensor, busy: Tensor, goes: int) -> tuple[Tensor, list[Merge]]:
    """From all inner products of the experts: each one left as a mixture of those there were (a row of zeros: it went), and the merges in order."""
    mix, busy, merges = torch.eye(len(busy), dtype=torch.float64), busy.clone(), []
    for _ in range(goes):
        now = mix @ products @ mix.T
        length = now.diagonal().clamp_min(1e-30).sqrt()
        there = mix.abs().sum(1) > 0
        cosine = (now / length[:, None] / length).where(there[:, None] & there, -torch.inf).triu(1)
        cosine += torch.full_like(cosine, -torch.inf).tril()
        one, other = divmod(int(cosine.argmax()), len(busy))
        into, taken = (other, one) if busy[other] > busy[one] else (one, other)
        weight = float(busy[into] / (busy[into] + busy[taken])) if busy[into] + busy[taken] > 0 else 0.5
        mix[into], mix[taken] = weight * mix[into] + (1 - weight) * mix[taken], 0.0
        busy[into] += busy[taken]
        merges.append({"into": into, "taken": taken, "cosine": float(cosine[one, other])})
    return mix, merges
