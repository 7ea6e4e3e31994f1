"""What a method that learns masks may ask of the model: its loss with masks on, which way that would move, and what a mask is at a share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from core.errors import ModelError
from core.events import Progress, Watcher
from core.method import Method, get
from core.model.allocating import allocate, asked_of_layers, gather, needs_of_allocation
from core.model.anatomy import Layer
from core.model.blocks import BATCH_TOKENS, known_ids
from core.model.choosing import units_by_hand
from core.model.gates import Masks, laid_over, listening
from core.model.gradients import gradient_statistics
from core.model.groups import Group
from core.model.likelihood import token_losses
from core.model.loading import LoadedModel
from core.model.masks import decide, generator, nearest
from core.model.memory import available_bytes, check_fits
from core.model.observe import of_kind
from core.model.scoring import layer_scores
from core.model.training import KEPT_SHARE, activation_bytes, recomputed
from core.recipe import Prune, n_of_m
from kernels.masks import keep_highest

Scores = dict[str, Tensor]
Target = tuple[tuple[str, ...], int]
FORWARD_ONLY = "Use a method that needs no gradient, such as bonsai (neurons, heads) or wanda, or fewer and shorter samples."


@dataclass
class Course:
    """A step that learns masks, under way. places: the layers or groups whose masks are learned. ids (sequences, tokens)."""

    loaded: LoadedModel
    step: Prune
    method: Method
    places: tuple[Layer, ...] | tuple[Group, ...]
    ids: Tensor
    seed: int
    watcher: Watcher
    fresh: Callable[[], Iterator[Tensor]] | None = None
    losses: list[float] = field(default_factory=list)
    _dense: dict[nn.Parameter, Tensor] = field(default_factory=dict)
    _hooks: list[RemovableHandle] = field(default_factory=list)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """(units,) of a group, (out, in) of a layer."""
        return {
            place.name: (place.units,) if isinstance(place, Group) else (place.shape[0], torch.Size(place.shape[1:]).numel())
            for place in self.places
        }

    @cached_property
    def shares(self) -> dict[str, float] | None:
        """The share that each gives; None where only the scores can say (an allocator that ranks all of them together)."""
        allocation = self.step.allocation
        if allocation.method != "by_hand" and "scores" in get("allocator", allocation.method).needs:
            return None
        if self.step.structure in ("neurons", "heads"):
            if allocation.method == "by_hand":
                return units_by_hand(allocation.shares, self.loaded.anatomy, self.places)
            return get("allocator", allocation.method)(
                {"sizes": self._sizes(), "sparsity": self.step.sparsity}, allocation.params
            )
        needs, gradients, inputs = needs_of_allocation(self.step, self.method), {}, lambda: self.ids
        if names := of_kind(needs, "gradient"):
            gradients = gradient_statistics(self.loaded, self.places, names, inputs, self.watcher)
        known = gather(self.loaded, self.step, self.method, self.places, needs, gradients, inputs, self.seed, self.watcher)
        asked = asked_of_layers(self.loaded, self.step, self.method, self.places, None)
        return allocate(self.loaded, asked, self.method, self.places, known, inputs, self.seed, self.watcher)

    @cached_property
    def targets(self) -> tuple[Target, ...]:
        """Which masks lose how many entries together: each its own number, or all of them one."""
        if self.shares is None:
            total = sum(self._sizes().values())
            return ((tuple(self.shapes), min(nearest(self.step.sparsity * total), total - len(self.places))),)
        return tuple(((name,), self._count(name, share)) for name, share in self.shares.items())

    def decide(self, scores: Scores, part: float = 1.0) -> Scores:
        """{name: bool, True = kept}: the lowest scores go, as many as `part` of the shares asks for. N:M has one share only."""
        shares = self.final_shares(scores, part)
        if self.step.structure in ("neurons", "heads"):
            return {name: keep_highest(scores[name][None], self._count(name, shares[name]))[0] for name in self.shapes}
        return {name: decide(scores[name], self.step.structure, shares[name], "layer", name) for name in self.shapes}

    def final_shares(self, scores: Scores, part: float = 1.0) -> dict[str, float]:
        if self.shares is not None:
            return {name: part * share for name, share in self.shares.items()}
        given = {"sizes": self._sizes(), "sparsity": part * self.step.sparsity,
                 "scores": lambda name: scores[name].detach().float().flatten().cpu()}  # fmt: skip
        return get("allocator", self.step.allocation.method)(given, self.step.allocation.params)

    def loss(self, masks: Masks, rows: Sequence[int] | None = None) -> float:
        """Mean negative log-likelihood in nats a token of these sequences (all where left out) with the masks on; infinite where it is no number."""
        total, ids = 0.0, self.ids if rows is None else self.ids[list(rows)]
        with laid_over(self.loaded, self.places, masks), torch.no_grad():
            for batch in self._batches(ids):
                self.watcher.check()
                total += float(token_losses(self.loaded.model, batch).double().sum())
        mean = total / (ids.shape[0] * (ids.shape[1] - 1))
        return mean if mean == mean else float("inf")

    def draw(self, size: int) -> Tensor:
        """Ids (size, tokens) that nobody has trained on yet: at random places of the whole calibration source. Where only the sampled sequences
        are known, `size` of those, any of them again."""
        if self.fresh is None:
            return self.ids[torch.randint(len(self.ids), (size,), generator=self._lots)]
        return torch.cat([known_ids(self.loaded, next(self._windows)) for _ in range(size)])

    @cached_property
    def _lots(self) -> torch.Generator:
        return generator(self.seed, "draw")

    @cached_property
    def _windows(self) -> Iterator[Tensor]:
        return self.fresh()

    def backward(self, masks: Masks, ids: Tensor) -> float:
        """The mean loss on these ids, and its gradient added to whatever the masks were made from (and to `weights`, where they were asked for)."""
        leaves = {name: mask.detach().requires_grad_(True) for name, mask in masks.items()}
        total, count = 0.0, ids.shape[0] * (ids.shape[1] - 1)
        for batch in self._batches(ids):
            self.watcher.check()
            with ExitStack() as stack:
                if not self._keeps_activations:
                    stack.enter_context(recomputed(self.loaded.model))
                stack.enter_context(torch.enable_grad())
                stack.enter_context(laid_over(self.loaded, self.places, leaves))
                loss = token_losses(self.loaded.model, batch).sum() / count
                loss.backward()
            total += float(loss.detach())
        if not total < float("inf"):
            raise ModelError(
                "The loss with the masks on is not a number.", "Use a lower learning rate, or check the model's weights."
            )
        made = [name for name, mask in masks.items() if mask.requires_grad]
        reached = [torch.zeros_like(leaves[name]) if leaves[name].grad is None else leaves[name].grad for name in made]
        torch.autograd.backward([masks[name] for name in made], reached)
        return total

    def activity(self, masks: Masks) -> Scores:
        """{group: (units,)}: the mean size of what the reading layer is given of each unit, with the masks on. Neurons and heads only."""
        sums: Scores = {}
        tokens = [0]

        def hear(group: Group, values: Tensor) -> None:
            sums[group.name] = sums.get(group.name, 0) + values.float().abs().sum(0)
            tokens[0] += len(values) if group is self.places[0] else 0

        with listening(self.loaded, self.places, hear):
            self.loss(masks)
        return {
            group.name: (sums[group.name] / tokens[0])[group.reader.index.to(sums[group.name].device)].mean(1).cpu()
            for group in self.places
        }

    def scores(self, criterion: str) -> Scores:
        """{layer: what a registered criterion for single weights gives it in the dense model, with default parameters}."""
        method, inputs = get("score", criterion), lambda: self.ids
        gradients = {}
        if names := of_kind(method.needed(), "gradient"):
            gradients = gradient_statistics(self.loaded, self.places, names, inputs, self.watcher)
        step = self.step.model_copy(update={"method": criterion, "params": {}})
        known = gather(self.loaded, step, method, self.places, method.needed(), gradients, inputs, self.seed, self.watcher)
        return {
            layer.name: layer_scores(self.loaded, layer, method, {}, known.layers[layer.name], self.seed) for layer in self.places
        }

    def weights(self) -> list[nn.Parameter]:
        """The weights under the masks, which `backward` then gives gradients too. What is zero already stays zero. Put back where the step fails."""
        paths = dict.fromkeys(part.path for place in self.places for part in getattr(place, "everything", (place,)))
        found = [self.loaded.module(path).weight for path in paths]
        check_fits(20 * sum(weight.numel() for weight in found), "Training the weights under the masks",
                   "Leave the weights as they are (weight_rate: 0).")  # fmt: skip
        for weight in found:
            self._dense[weight] = weight.detach().clone()
            weight.requires_grad_(True)
            self._hooks.append(weight.register_post_accumulate_grad_hook(self._still_where_zero))
        return found

    def _still_where_zero(self, weight: Tensor) -> None:
        weight.grad.mul_(self._dense[weight] != 0)

    def note(self, done: int, total: int, loss: float) -> None:
        """Tell how far the method is, and obey a stop."""
        self.losses.append(loss)
        self.watcher.say(Progress(f"learn: {self.method.card.name}", done, total, values={"loss": loss}))
        self.watcher.check()

    def put_back(self) -> None:
        with torch.no_grad():
            for weight, dense in self._dense.items():
                weight.copy_(dense)

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._dense.clear()

    def check_memory(self) -> None:
        """Raise ResourceError where the masks, their gradients and the way back do not fit."""
        if self.loaded.device.type != "cpu":
            return
        entries = sum(self._sizes().values())
        needed = self.method.extra["bytes_each"] * entries
        if self.method.extra["gradients"]:
            whole = activation_bytes(self.loaded.model, self.ids[: self._batch])
            needed += int(whole if self._keeps_activations else whole / max(len(self.loaded.anatomy.blocks), 1))
        remedy = (
            FORWARD_ONLY if self.method.extra["gradients"] else "Take fewer layers at a time with `only`, or shorter samples."
        )
        check_fits(needed, f"Learning {len(self.places)} masks with their gradients", remedy)

    @property
    def _batch(self) -> int:
        return max(BATCH_TOKENS // self.ids.shape[1], 1)

    @cached_property
    def _keeps_activations(self) -> bool:
        return activation_bytes(self.loaded.model, self.ids[: self._batch]) <= KEPT_SHARE * available_bytes()

    def _batches(self, ids: Tensor) -> Sequence[Tensor]:
        return ids.to(self.loaded.device).split(self._batch)

    def _sizes(self) -> dict[str, int]:
        return {name: torch.Size(shape).numel() for name, shape in self.shapes.items()}

    def _count(self, name: str, share: float) -> int:
        """How many entries of a mask go. Of units one always stays."""
        size = self._sizes()[name]
        if pattern := n_of_m(self.step.structure):
            return size - size // pattern[1] * pattern[0]
        return min(nearest(share * size), size - (self.step.structure in ("neurons", "heads")))
