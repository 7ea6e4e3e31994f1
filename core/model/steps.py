"""The model half of a run: measure dense, prune, reconstruct, recover, measure again, save; and what it leaves in the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from safetensors.torch import save
from torch import Tensor

from core import folder
from core.errors import ModelError
from core.events import Progress, Watcher
from core.method import get
from core.model import resuming
from core.model.blocks import known_ids
from core.model.checking import check_steps
from core.model.files import export
from core.model.inputs import text
from core.model.inputs.texts import Texts
from core.model.loading import LoadedModel
from core.model.looking.evolving import evolve_formulas
from core.model.looking.xray import observe_model
from core.model.masks import PackedMask, narrowed, sparsity_of, weight_under, write_masks
from core.model.measuring import comparing, measure, running
from core.model.measuring.lean import counts_of
from core.model.mixture.experts import ExpertLayer
from core.model.pruning.pruned import UnitCut
from core.model.pruning.step import Pruned, prune
from core.model.reconstructing.step import opener, reconstruct
from core.model.units.groups import UNITS
from core.model.unsaved import figures_kept
from core.model.width.narrow import entries, stored_axis
from core.model.width.stream_width import STRUCTURE as WIDTH
from core.recipe import Prune, Recipe, Reconstruct, Recover, Text
from core.report import LayerRow, Metrics, Report

if TYPE_CHECKING:
    from core.run import Clock


def run_model(recipe: Recipe, path: Path, watcher: Watcher, loaded: LoadedModel, clock: Clock) -> dict[str, Any]:
    """Do what a resolved recipe says about its model, write its artefacts into `path`, and return report fields."""
    state = _State(recipe, path, watcher, loaded, clock)
    if recipe.observe:
        with clock.stage("observe"):
            found = observe_model(loaded, recipe.observe, state.calibration, recipe.seed, watcher)
        folder.write_json(path / folder.OBSERVATIONS, found)
    evolved = state.evolved() if recipe.evolve else None
    if not recipe.steps:
        return {"protocol": state.protocol, "formulas": evolved}
    check_steps(recipe, loaded)
    begun = state.taken_up() if recipe.resume else 0
    if state.dense is None:
        state.dense = state.metrics("dense")
    state.remember(begun)
    for number, step in enumerate(recipe.steps):
        if number < begun:
            continue
        before = state.nonzero()
        kind, method = next((name, part.method) for name, part in step if part is not None)
        with clock.stage(kind):
            state.take(kind, getattr(step, kind))
        if kind != "recover":
            state.keep()  # now, so that a stop or a failure later loses no mask
        done = {"kind": kind, "method": method, "nonzero_before": before, "nonzero_after": state.nonzero()}
        state.steps.append(done | state.said)
        following = next(
            (name for later in recipe.steps[number + 1 : number + 2] for name, part in later if part is not None), None
        )
        if kind != "recover" and following not in ("prune", "reconstruct"):
            state.last = state.pruned = state.metrics("pruned")
        elif kind == "recover" and following != "recover":
            state.last = state.recovered = state.metrics("recovered")
        state.remember(number + 1)
    state.save()
    (path / folder.RESUME).unlink(missing_ok=True)
    return state.fields() | {"formulas": evolved}


class _State:
    """What a model run has done so far. One object for one run; nothing outlives it."""

    def __init__(self, recipe: Recipe, path: Path, watcher: Watcher, loaded: LoadedModel, clock: Clock) -> None:
        self.recipe, self.path, self.watcher, self.loaded, self.clock = recipe, path, watcher, loaded, clock
        self.dense: Metrics | None = None
        self.pruned: Metrics | None = None
        self.recovered: Metrics | None = None
        self.last: Metrics | None = None
        self.masks: dict[str, PackedMask] = {}
        self.units: dict[str, Tensor] = {}  # {blocks.I.mlp.neurons, as numbered in the source: bool, one a unit of the source}
        self.kept_blocks = [block.index for block in loaded.anatomy.blocks]
        self.blocks = len(self.kept_blocks)
        self.source_shapes = resuming.shapes(loaded)
        self.parts: list[tuple[int, str]] = []
        self.rows: list[LayerRow] = []
        self.scores: dict[str, Tensor] = {}
        self.steps: list[dict[str, Any]] = []
        self.said: dict[str, Any] = {}
        self.protocol: dict[str, Any] = {}
        self.other_tokens = False

    @cached_property
    def _calibration(self) -> Tensor:
        return calibration_inputs(self.loaded, self.recipe.calibration, self.recipe.seed)

    def calibration(self) -> Tensor:
        with self.clock.stage("calibration text"):
            return self._calibration

    def _texts(self, part: Prune) -> Texts:
        at, tokenizer, seed = self.recipe.calibration, self.loaded.tokenizer, self.recipe.seed
        return Texts(
            lambda: calibration_inputs(self.loaded, part.general, seed + 1),  # other windows where the texts are the same
            lambda: text.stream(at.source, tokenizer, 1, at.tokens, seed + 2, at.column),
        )

    @cached_property
    def _prepared(self) -> measure.Prepared:
        return measure.prepare(self.loaded, self.recipe.measure)

    def evolved(self) -> dict[str, Any]:
        """What a genetic search over formulas found; the model is left as it was."""
        held_out = self._prepared.sequences if self.recipe.measure.perplexity else None
        with self.clock.stage("evolve"):
            found = evolve_formulas(self.recipe, self.path, self.loaded, self.calibration, held_out, self.watcher)
        self.protocol |= self._prepared.protocol if held_out is not None else {}
        return found

    def metrics(self, name: str) -> Metrics:
        with self.clock.stage("measure"):
            figures = measure.metrics(self.loaded, self._prepared, self.watcher, name)
        self.protocol |= self._prepared.protocol
        if self.other_tokens and "perplexity" in self.protocol:
            self.protocol["perplexity"]["dense_has_other_tokens"] = True
        return figures

    def remember(self, steps_done: int) -> None:
        """Keep what is finished for a run that takes this one up, where the model is still of the source's shape. Whoever does not stop needs it not."""
        if (
            self.loaded.lazy
            or resuming.shapes(self.loaded) != self.source_shapes
            or self.loaded.location.kind == "module"
            or (steps_done == len(self.recipe.steps) and not self.recipe.save.model)
        ):
            return
        figures = {"dense": self.dense, "pruned": self.pruned, "recovered": self.recovered}
        weights = resuming.changed_weights(self.loaded, self.recipe, steps_done)
        known = resuming.Taken(
            steps_done, figures, self.steps, self.rows, self.protocol, self.masks, self.scores, weights, torch.get_rng_state()
        )
        if not resuming.keep(self.path, self.recipe, self.loaded, known):
            self.watcher.say(
                Progress("keep", kind="note", text="The disk has no room to keep what is finished for a later resume.")
            )

    def taken_up(self) -> int:
        """Go on from the run that the recipe names. Returns how many steps are done."""
        taken = resuming.take_up(self.recipe, self.loaded)
        self.watcher.say(Progress("load", kind="note", text=resuming.words(self.recipe, taken)))
        if taken is None:
            return 0
        with self.clock.stage("measure"):
            measure.hear_dense(self.loaded, self._prepared)
        self.protocol |= self._prepared.protocol
        self.protocol |= taken.protocol
        self._prepared.protocol.update(taken.protocol)
        resuming.restore(self.loaded, taken)
        self.dense, self.pruned, self.recovered = (taken.figures[name] for name in ("dense", "pruned", "recovered"))
        before = self.recipe.steps[: taken.steps_done]
        self.last = self.recovered if before and before[-1].recover else self.pruned
        self.steps, self.rows, self.masks, self.scores = taken.steps, taken.rows, taken.masks, taken.scores
        if taken.steps_done:
            self.keep()
        return taken.steps_done

    def nonzero(self) -> int:
        return counts_of(self.loaded).nonzero

    def take(self, kind: str, part: Any) -> None:
        """Carry out one step."""
        self.said = {}
        if kind == "prune":
            watcher = running.telling(self.watcher, self.loaded, part, self._prepared)
            texts = self._texts(part)
            self._took(prune(self.loaded, part, self.calibration, self.recipe.seed, watcher, texts, put_back=False))
        elif kind == "recover":
            self._recover(part)
        else:
            self._reconstruct(part)

    def _reconstruct(self, part: Reconstruct) -> None:
        kept, source = self.kept_blocks, opener(self.loaded)
        done = reconstruct(self.loaded, part, self.masks, source, kept, self.calibration, self.watcher, put_back=False)
        self.masks |= done.masks
        self.said = done.said()

    def _took(self, done: Pruned) -> None:
        if done.loaded.tokenizer is not self.loaded.tokenizer:  # ids read so far mean other tokens now
            self.other_tokens = True
            for name in ("_calibration", "_prepared"):
                vars(self).pop(name, None)
        self.loaded = done.loaded
        if done.rewritten:
            stems = tuple(f"{self.loaded.anatomy.blocks[0].path.rpartition('.')[0]}.{index}." for index in done.rewritten)
            self.masks = {path: mask for path, mask in self.masks.items() if not path.startswith(stems)}
        if done.removed:
            self.masks = _renumbered(self.masks, done.removed, self.loaded)
            gone = tuple(f"blocks.{self.kept_blocks[place]}." for place in done.removed)
            self.units = {name: kept for name, kept in self.units.items() if not name.startswith(gone)}
            self.kept_blocks = [index for place, index in enumerate(self.kept_blocks) if place not in done.removed]
            self.said = {"removed_blocks": [row.name for row in done.rows if row.sparsity == 1.0]}
        if done.parts:
            self.masks = {path: mask for path, mask in self.masks.items() if weight_under(self.loaded.model, path) is not None}
            self.parts += [(self.kept_blocks[place], part) for place, part in done.parts]
        for name, mask in done.masks.items():
            self.masks[name] = PackedMask(mask.bits & self.masks[name].bits, mask.shape) if name in self.masks else mask
        if done.masks:
            self.said = {"sparsity": sparsity_of(done.masks)}
        if done.cuts:
            self._cut(done.cuts)
        self.said |= done.said
        self.rows += done.rows
        self.scores |= done.scores

    def _cut(self, cuts: tuple[UnitCut, ...]) -> None:
        """Note which units of the source are left, and narrow the masks of the layers that lost rows or columns."""
        for done in cuts:
            name = done.key
            if name.startswith("blocks."):
                block, _, rest = name.removeprefix("blocks.").partition(".")
                name = f"blocks.{self.kept_blocks[int(block)]}.{rest}"
            left = self.units.setdefault(name, torch.ones(len(done.keep), dtype=torch.bool))
            left[left.clone()] = done.keep
            if (inside := self.units.get(name.removesuffix(".heads") + ".query_heads")) is not None and name.endswith(".heads"):
                inside[inside.clone()] = done.keep.repeat_interleave(
                    int(inside.sum()) // len(done.keep)
                )  # a whole group takes its own
            if isinstance(done.group, ExpertLayer):
                self._cut_inside(done.group, done.keep)
            for part in done.group.everything:
                if part.path in self.masks:
                    axis = stored_axis(self.loaded.module(part.path), part.axis)
                    self.masks[part.path] = narrowed(self.masks[part.path], axis, entries(part, done.keep))
        total, kept = sum(len(done.keep) for done in cuts), sum(int(done.keep.sum()) for done in cuts)
        self.said = {"sparsity": 1 - kept / total, "removed_units": total - kept}

    def _cut_inside(self, layer: ExpertLayer, keep: Tensor) -> None:
        """Leave masks inside experts to those that are left; where a merge has put weights in the place of zeros, a mask holds no longer."""
        for path in [path for path in self.masks if path.startswith(f"{layer.path}.")]:
            mask, (_, weight) = narrowed(self.masks.pop(path), 0, keep.nonzero().flatten()), weight_under(self.loaded.model, path)
            if not torch.count_nonzero(weight.detach().cpu()[~mask.unpack()]):
                self.masks[path] = mask

    def _recover(self, part: Recover) -> None:
        source = part.data or self.recipe.calibration
        place = self.recipe.calibration.source if source.source == "auto" else source.source
        stream = text.stream(place, self.loaded.tokenizer, part.batch, part.tokens, self.recipe.seed, source.column)
        batches = (known_ids(self.loaded, next(stream)).to(self.loaded.device) for _ in range(part.steps))
        masks = {name: mask.unpack().to(self.loaded.device) for name, mask in self.masks.items()}
        before = self.nonzero()
        method = get("recovery", part.method)
        have = {"model": self.loaded.model, "batches": batches, "masks": masks, "steps": part.steps, "watcher": self.watcher}
        losses = method(have | {"learning_rate": part.learning_rate or method.card.learning_rate}, part.params)
        assert_zeros(self.loaded, masks)
        self.said = {"losses": [round(loss, 5) for loss in losses], "nonzero_change": self.nonzero() - before}

    def keep(self) -> None:
        """Leave mask, scores and layers in the run folder."""
        mask: dict[str, PackedMask | Tensor] = {
            weight_under(self.loaded.model, path)[0]: packed for path, packed in self.masks.items()
        }
        mask |= self.units
        if len(self.kept_blocks) < self.blocks:
            mask["blocks"] = torch.tensor([index in self.kept_blocks for index in range(self.blocks)])
        for part in sorted({part for _, part in self.parts}):
            mask[f"blocks.{part}"] = torch.tensor([(index, part) not in self.parts for index in range(self.blocks)])
        if self.masks:
            self.protocol["heads"] = comparing.heads_of(self.loaded)
        if mask:
            write_masks(self.path / folder.MASK, mask)
        if self.scores:
            scores = {name: value.float().contiguous() for name, value in sorted(self.scores.items())}
            folder.write_bytes(self.path / folder.SCORES, save(scores))
        if self.rows:
            frame = pd.DataFrame([asdict(row) | {"shape": list(row.shape)} for row in self.rows])
            folder.write_bytes(self.path / folder.LAYERS, frame.to_parquet(index=False))

    def save(self) -> None:
        """Leave the model, where asked."""
        if self.recipe.save.model:
            self.watcher.say(Progress("save", 0, 1))
            with figures_kept(self.path, self.protocol, self._report), self.clock.stage("save"):
                saved = export.save(self.loaded, self.path / folder.MODEL, self.recipe, self.fields())
            self.protocol["saved"] = saved
            self.watcher.say(Progress("save", 1, 1))

    def _report(self) -> Report:
        return Report(self.recipe.name, self.recipe.seed, seconds=self.clock.seconds, **self.fields())

    def fields(self) -> dict[str, Any]:
        """The report's fields about the model."""
        figures = self.last
        sparsity: dict[str, float] = {}
        if figures and self.dense and self.dense.parameters and figures.nonzero is not None:
            sparsity["all_parameters"] = 1 - figures.nonzero / self.dense.parameters
        if self.masks:
            sparsity["pruned_layers"] = sparsity_of(self.masks)
        for structure in (*UNITS, WIDTH, "experts"):
            if units := [kept for name, kept in self.units.items() if name.endswith(f".{structure}")]:
                sparsity[structure] = 1 - float(torch.cat(units).float().mean())
        if self.blocks and len(self.kept_blocks) < self.blocks:
            sparsity["blocks"] = 1 - len(self.kept_blocks) / self.blocks
        if self.parts:
            sparsity["sublayers"] = len(self.parts) / (2 * self.blocks)
        return {
            "dense": self.dense, "pruned": self.pruned, "recovered": self.recovered, "sparsity": sparsity,
            "steps": tuple(self.steps), "layers": tuple(self.rows), "protocol": self.protocol,
        }  # fmt: skip


def calibration_inputs(loaded: LoadedModel, source: Text, seed: int) -> Tensor:
    """Calibration ids (samples, tokens), or pixels (samples, c, h, w) for an image classifier."""
    if loaded.anatomy.kind == "image_classifier":
        if source.choose:
            raise ModelError("Calibration images are drawn by chance.", "Leave calibration.choose out for an image classifier.")
        from core.data.images import labelled_images

        return torch.from_numpy(labelled_images(source.source, source.samples, seed, loaded.location.path)[0])
    if loaded.tokenizer is None:
        raise ModelError(
            "This criterion reads text, and the model has no tokenizer.", "Use magnitude or random, which need no text."
        )
    from core.data.chosen_windows import windows

    return known_ids(loaded, windows(source, loaded, seed))


def _renumbered(masks: Mapping[str, PackedMask], removed: tuple[int, ...], loaded: LoadedModel) -> dict[str, PackedMask]:
    """Masks under the module paths that they have after the blocks went: a mask made before keeps its layer."""
    stem = loaded.anatomy.blocks[0].path.rpartition(".")[0] + "."
    out = {}
    for path, mask in masks.items():
        if path.startswith(stem):
            index, _, rest = path.removeprefix(stem).partition(".")
            if int(index) in removed:
                continue
            path = f"{stem}{int(index) - sum(gone < int(index) for gone in removed)}.{rest}"
        out[path] = mask
    return out


def assert_zeros(loaded: LoadedModel, masks: Mapping[str, Tensor]) -> None:
    """Recovery must not bring back a pruned weight: not one."""
    for name, keep in masks.items():
        back = int(torch.count_nonzero(weight_under(loaded.model, name)[1].detach()[~keep]))
        if back:
            raise ModelError(
                f"Recovery brought back {back} pruned weights of {name}.", "This is a fault of the recovery method; use another."
            )
