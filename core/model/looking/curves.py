"""What a budget will cost: local errors of every layer from one pass, and the few measurements that turn them into a prediction.

Each part is pruned with the dense model's scores, the quality is measured, and the weights are put back. Everything measured stays in the
observations (`alone`, `roles`, `together`), so that a fit can be made anew without the model.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core import folder, prediction
from core.allocate.owl import OUTLIER, outlier_share
from core.budget import redistribute
from core.builtins import cache_dir
from core.errors import ResourceError
from core.events import Progress, Watcher
from core.method import Method, get
from core.model import blocks
from core.model.anatomy import Layer
from core.model.depth.bypass import answer_in_tuples, starting_at
from core.model.files.source import fingerprint
from core.model.gradients import gradients_of
from core.model.loading import LoadedModel
from core.model.looking.meter import Meter
from core.model.looking.super_weights import SEQUENCES, find_super_weights
from core.model.looking.unit_curves import unit_curves
from core.model.masks import decide, generator
from core.model.measuring.quality import Check, open_check
from core.model.observe import Statistics, have, matrix, observe_block, statistics_of, stream
from core.model.pruning.scoring import layer_weight, output_error
from core.model.units.groups import STRUCTURES
from core.prediction import Probe
from core.recipe import Curves

FORMAT = 5  # of what is kept: counts up when the measurements or the fit change
ERROR_LEVELS = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85)
ERROR_ROWS = 256  # of a layer, evenly spaced: a relative error needs no more
_ATTENTION = ("query", "key", "value", "output", "qkv")
_TOTALS = (0.2, 0.6)  # whole-model budgets are drawn between these
_AROUND = 0.2  # a unit's share lies at most so far from its budget's total
_ROLE_SHARE = 0.6


def measure_curves(loaded: LoadedModel, ask: Curves, calibration: Tensor, seed: int, watcher: Watcher) -> dict[str, Any]:
    """Curves for `core.budget`: made once for a model and these settings, found again from the cache."""
    check = open_check(loaded, ask)
    kept = kept_at(loaded, ask, (calibration, check.inputs), seed)
    if kept.is_file() and (found := _read(kept)):
        watcher.say(
            Progress(
                "curves",
                kind="note",
                text="These curves were measured before, with the same model and settings, and are used again.",
            )
        )
        return found
    found = measured_anew(loaded, ask, calibration, seed, watcher, check)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        folder.write_json(kept, found)
    except (OSError, ResourceError) as error:
        watcher.say(Progress("curves", kind="note", text=f"The curves could not be kept for another time: {error}"))
    return found


def measured_anew(
    loaded: LoadedModel, ask: Curves, calibration: Tensor, seed: int, watcher: Watcher, check: Check | None = None
) -> dict[str, Any]:
    """`measure_curves` without the cache."""
    if ask.structure in STRUCTURES:
        return {"format": FORMAT, **unit_curves(loaded, ask, calibration, seed, watcher, check or open_check(loaded, ask))}
    observed = _observed(loaded, ask, calibration, watcher, seed)
    return _Bench(loaded, ask, seed, watcher, observed).curves(check or open_check(loaded, ask), calibration)


def group_of(layer: Layer) -> str:
    """The part of a block that is measured as one: its attention, or the rest."""
    return f"blocks.{layer.block}.{'attention' if layer.role in _ATTENTION else 'mlp'}"


@dataclass(frozen=True)
class _Observed:
    """What one pass of the dense model tells: what the criterion needs of each layer, its error at each level, and each block's share of outliers."""

    statistics: dict[str, Statistics]
    errors: dict[str, tuple[float, ...]]
    outliers: dict[str, float]


def _observed(loaded: LoadedModel, ask: Curves, calibration: Tensor, watcher: Watcher, seed: int) -> _Observed:
    method, seen = get("score", ask.method), _Observed({}, {}, {})
    gradients, names = gradients_of(loaded, [method], calibration, watcher), {*statistics_of([method]), "gram", "input_norm"}
    for block, module, hidden, extra in stream(loaded, calibration, watcher, "observe for curves"):
        found = observe_block(loaded, block, module, hidden, extra, sorted(names), watcher, keep_outputs=True)[0]
        for layer in block.layers:
            watcher.check()
            known = found[layer.name] | gradients.get(layer.name, {})
            seen.statistics[layer.name] = {name: value for name, value in known.items() if name in method.needed()}
            weight = matrix(layer, loaded.module(layer.path).weight.detach()).float()
            some = torch.arange(0, len(weight), -(-len(weight) // ERROR_ROWS), device=weight.device)
            scores, weight = _scores(layer, method, weight, known, seed)[some.cpu()], weight[some]
            kept = (
                decide(scores, "unstructured", level, method.card.compare, layer.name).to(weight.device) for level in ERROR_LEVELS
            )
            seen.errors[layer.name] = (0.0, *(output_error(weight, weight * keep, known["gram"]) for keep in kept))
        weights = {layer.name: lambda layer=layer: layer_weight(loaded, layer) for layer in block.layers}
        seen.outliers[block.name] = outlier_share(list(weights), lambda name, of=weights: of[name](), found.__getitem__, OUTLIER)
    return seen


def _scores(layer: Layer, method: Method, weight: Tensor, statistics: Statistics, seed: int) -> Tensor:
    return method(have(weight, tuple(weight.shape), generator(seed, layer.name), statistics))


@dataclass
class _Bench:
    """A model on which parts are pruned and put back."""

    loaded: LoadedModel
    ask: Curves
    seed: int
    watcher: Watcher
    observed: _Observed

    def curves(self, check: Check, calibration: Tensor) -> dict[str, Any]:
        meter = Meter.of(check, self.watcher)
        layers = self.loaded.anatomy.layers
        alone = self._alone(meter)
        roles = sorted({layer.role for layer in layers})
        lone = [{layer.name: _ROLE_SHARE for layer in layers if layer.role == role} for role in roles] if len(roles) > 1 else []
        of_roles = self._whole(meter, lone, False, "curves: roles")
        together = self._whole(meter, draw_budgets(layers, self.ask.together, self.seed), True, "curves: whole budgets")
        errors = self.observed.errors
        seen = {layer.name: prediction.Layer(group_of(layer), layer.role, errors[layer.name]) for layer in layers}
        found = prediction.fit(seen, (0.0, *ERROR_LEVELS), alone, of_roles, together)
        return {"format": FORMAT, "method": self.ask.method, "structure": self.ask.structure, "metric": check.metric, "dense": meter.dense,
                "levels": list(prediction.LEVELS), **asdict(found), "protocol": check.protocol | {"budgets": len(together), "compared": meter.compared},
                "super_weights": self._super_weights(calibration),
                "measured": {"levels": [0.0, *ERROR_LEVELS], "errors": errors, "outliers": self.observed.outliers,
                             "alone": prediction.told(alone), "roles": prediction.told(of_roles), "together": prediction.told(together)}}  # fmt: skip

    def _super_weights(self, calibration: Tensor) -> list[dict[str, Any]]:
        """Single weights that a budget should spare, where the model is one that has such."""
        if self.loaded.anatomy.kind != "decoder" or not any(layer.role == "down" for layer in self.loaded.anatomy.layers):
            return []
        found = find_super_weights(self.loaded, calibration[:SEQUENCES], watcher=self.watcher)
        return [{"layer": weight.layer, "row": weight.row, "column": weight.column} for weight in found]

    def _alone(self, meter: Meter) -> list[Probe]:
        """Each block's attention and MLP alone, by divergence. The text waits at the entrance of the block, so only the rest of the model runs."""
        loaded, check, probes = self.loaded, meter.check, []
        states, extras = blocks.enter(loaded, check.inputs, batch=check.batch), blocks.arguments(loaded, check.inputs)
        in_tuples = answer_in_tuples(loaded, states, extras)
        levels = sorted({level for level in self.ask.levels if 0 < level < 1})
        todo = [(block, group, level) for block in loaded.anatomy.blocks
                for group in dict.fromkeys(map(group_of, block.layers)) for level in levels]  # fmt: skip
        at = 0
        for done, (block, group, level) in enumerate(todo):
            while at < block.index:
                with loaded.block(at) as module:
                    blocks.advance(module, states, extras[at], self.watcher)
                at += 1
            self.watcher.say(Progress("curves: parts alone", done, len(todo)))
            shares = {layer.name: level for layer in block.layers if group_of(layer) == group}
            with self._pruned(shares), starting_at(loaded, block.index, states, in_tuples):
                probes.append(Probe(shares, *meter.read(self.watcher)))
        return probes

    def _whole(self, meter: Meter, budgets: Sequence[Mapping[str, float]], loss: bool, stage: str) -> list[Probe]:
        """Budgets of the whole model, by their divergence, and with `loss` by the loss on all of the text too."""
        probes = []
        for done, shares in enumerate(budgets):
            self.watcher.say(Progress(stage, done, len(budgets)))
            with self._pruned(shares):
                probes.append(Probe(shares, *meter.read(self.watcher, loss)))
        return probes

    @contextmanager
    def _pruned(self, shares: Mapping[str, float]) -> Iterator[None]:
        """These layers pruned by the dense model's scores, their weights put back afterwards."""
        method, chosen = get("score", self.ask.method), [layer for layer in self.loaded.anatomy.layers if shares.get(layer.name)]
        saved = {layer.path: self.loaded.module(layer.path).weight.detach().clone() for layer in chosen}
        try:
            for layer in chosen:
                self.watcher.check()
                weight = matrix(layer, self.loaded.module(layer.path).weight.data)
                scores = _scores(layer, method, weight.float(), self.observed.statistics[layer.name], self.seed)
                keep = decide(scores, self.ask.structure, shares[layer.name], method.card.compare, layer.name)
                weight.masked_fill_(~keep.to(weight.device), 0.0)
            yield
        finally:
            for path, weight in saved.items():
                self.loaded.module(path).weight.data.copy_(weight)


def draw_budgets(layers: Sequence[Layer], count: int, seed: int) -> list[dict[str, float]]:
    """Budgets of the whole model, totals evenly between 20 and 60 %: by turns all alike, drawn by block, drawn by layer around the total."""
    chance, sizes = random.Random(seed), {layer.name: layer.parameters for layer in layers}
    low, high = _TOTALS
    budgets = []
    for place in range(count):
        total = low + (high - low) * (place + 0.5) / count
        if place % 3 == 0:
            shares = dict.fromkeys(sizes, total)
        else:
            key = (lambda layer: layer.block) if place % 3 == 1 else (lambda layer: layer.name)
            drawn = {unit: chance.uniform(-_AROUND, _AROUND) for unit in dict.fromkeys(map(key, layers))}
            shares = {layer.name: min(max(total + drawn[key(layer)], 0.0), 0.9) for layer in layers}
            shares = redistribute(shares, sizes, total)
        budgets.append({name: round(share, 4) for name, share in shares.items()})
    return budgets


def kept_at(loaded: LoadedModel, ask: Curves, inputs: Sequence[Tensor], seed: int) -> Path:
    """The file that holds these curves: named by all that decides them."""
    told = {"format": FORMAT, "ask": ask.model_dump(mode="json"), "seed": seed, "torch": torch.__version__, "threads": torch.get_num_threads(),
            "dtype": str(next(loaded.model.parameters()).dtype), "device": loaded.device.type, "shapes": [list(part.shape) for part in inputs]}  # fmt: skip
    name = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    name.update(fingerprint(loaded.location).encode())
    for part in inputs:
        name.update(part.detach().cpu().contiguous().numpy().tobytes())
    return cache_dir() / "curves" / f"{name.hexdigest()[:32]}.json"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = folder.read_json(path)
    except (OSError, ValueError):
        return None  # cut off by a full disk: measured again
    return found if isinstance(found, dict) and found.get("format") == FORMAT else None
