"""What a method that learns masks may ask of the model: its loss with masks on, which way that would move, and what a mask is at a share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from core.errors import ModelError
from core.events import Progress
from core.method import get
from core.model.anatomy import Layer
from core.model.blocks import BATCH_TOKENS, known_ids
from core.model.budgets.allocating import allocate, asked_of_layers, gather, needs_of_allocation
from core.model.budgets.asked import check_met
from core.model.gradients import gradient_statistics
from core.model.learned.gates import Masks, laid_over, listening
from core.model.masks import decide, generator, nearest
from core.model.measuring.likelihood import mean_loss, token_losses
from core.model.memory import available_bytes, check_fits
from core.model.observe import of_kind
from core.model.pruning.choosing import units_by_hand
from core.model.pruning.scoring import layer_scores
from core.model.pruning.task import Task
from core.model.training import KEPT_SHARE, activation_bytes, recomputed
from core.model.units.groups import Group
from core.recipe import n_of_m
from kernels.masks import keep_highest

Scores = dict[str, Tensor]
Target = tuple[tuple[str, ...], int]
FORWARD_ONLY = "Use a method that needs no gradient, such as bonsai (neurons, heads) or wanda, or fewer and shorter samples."


@dataclass
class Course:
    """A step that learns masks, under way. places: the layers or groups whose masks are learned."""

    task: Task
    places: tuple[Layer, ...] | tuple[Group, ...]
    losses: list[float] = field(default_factory=list)
    _dense: dict[nn.Parameter, Tensor] = field(default_factory=dict)
    _hooks: list[RemovableHandle] = field(default_factory=list)

    @cached_property
    def ids(self) -> Tensor:
        """The calibration sequences, (sequences, tokens)."""
        return self.task.inputs()

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
        allocation = self.task.step.allocation
        if allocation.method != "by_hand" and "scores" in get("allocator", allocation.method).needs:
            return None
        if self.task.step.structure in ("neurons", "heads"):
            if allocation.method == "by_hand":
                return units_by_hand(allocation.shares, self.task.loaded.anatomy, self.places)
            return get("allocator", allocation.method)(
                {"sizes": self._sizes(), "sparsity": self.task.step.sparsity}, allocation.params
            )
        needs, gradients, task = needs_of_allocation(self.task.step, self.task.method), {}, self.task
        if names := of_kind(needs, "gradient"):
            gradients = gradient_statistics(task.loaded, self.places, names, task.inputs, task.watcher)
        return allocate(task, asked_of_layers(task, self.places), self.places, gather(task, self.places, needs, gradients))

    @cached_property
    def targets(self) -> tuple[Target, ...]:
        """Which masks lose how many entries together: each its own number, or all of them one."""
        if self.shares is None:
            total = sum(self._sizes().values())
            return ((tuple(self.shapes), min(nearest(self.task.step.sparsity * total), total - len(self.places))),)
        return tuple(((name,), self._count(name, share)) for name, share in self.shares.items())

    def decide(self, scores: Scores, part: float = 1.0) -> Scores:
        """{name: bool, True = kept}: the lowest scores go, as many as `part` of the shares asks for. N:M has one share only."""
        shares = self.final_shares(scores, part)
        if self.task.step.structure in ("neurons", "heads"):
            return {name: keep_highest(scores[name][None], self._count(name, shares[name]))[0] for name in self.shapes}
        return {name: decide(scores[name], self.task.step.structure, shares[name], "layer", name) for name in self.shapes}

    def final_shares(self, scores: Scores, part: float = 1.0) -> dict[str, float]:
        if self.shares is not None:
            return {name: part * share for name, share in self.shares.items()}
        given = {"sizes": self._sizes(), "sparsity": part * self.task.step.sparsity,
                 "scores": lambda name: scores[name].detach().float().flatten().cpu()}  # fmt: skip
        shares = get("allocator", self.task.step.allocation.method)(given, self.task.step.allocation.params)
        if part == 1.0:
            check_met(sum(share * self._sizes()[name] for name, share in shares.items()), self.task.step, self._sizes())
        return shares

    def loss(self, masks: Masks, rows: Sequence[int] | None = None) -> float:
        """Mean negative log-likelihood in nats a token of these sequences (all where left out) with the masks on; infinite where it is no number."""
        ids = self.ids if rows is None else self.ids[list(rows)]
        with laid_over(self.task.loaded, self.places, masks), torch.no_grad():
            return mean_loss(self.task.loaded.model, self._batches(ids), self.task.watcher)

    def draw(self, size: int) -> Tensor:
        """Ids (size, tokens) that nobody has trained on yet: at random places of the whole calibration source. Where only the sampled sequences
        are known, `size` of those, any of them again."""
        if self.task.texts.fresh is None:
            return self.ids[torch.randint(len(self.ids), (size,), generator=self._lots)]
        return torch.cat([known_ids(self.task.loaded, next(self._windows)) for _ in range(size)])

    @cached_property
    def _lots(self) -> torch.Generator:
        return generator(self.task.seed, "draw")

    @cached_property
    def _windows(self) -> Iterator[Tensor]:
        return self.task.texts.fresh()

    def backward(self, masks: Masks, ids: Tensor) -> float:
        """The mean loss on these ids, and its gradient added to whatever the masks were made from (and to `weights`, where they were asked for)."""
        leaves = {name: mask.detach().requires_grad_(True) for name, mask in masks.items()}
        total, count = 0.0, ids.shape[0] * (ids.shape[1] - 1)
        for batch in self._batches(ids):
            self.task.watcher.check()
            with ExitStack() as stack:
                if not self._keeps_activations:
                    stack.enter_context(recomputed(self.task.loaded.model))
                stack.enter_context(torch.enable_grad())
                stack.enter_context(laid_over(self.task.loaded, self.places, leaves))
                loss = token_losses(self.task.loaded.model, batch).sum() / count
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

        with listening(self.task.loaded, self.places, hear):
            self.loss(masks)
        return {
            group.name: (sums[group.name] / tokens[0])[group.reader.index.to(sums[group.name].device)].mean(1).cpu()
            for group in self.places
        }

    def scores(self, criterion: str) -> Scores:
        """{layer: what a registered criterion for single weights gives it in the dense model, with default parameters}."""
        method, gradients = get("score", criterion), {}
        if names := of_kind(method.needed(), "gradient"):
            gradients = gradient_statistics(self.task.loaded, self.places, names, self.task.inputs, self.task.watcher)
        step = self.task.step.model_copy(update={"method": criterion, "params": {}})
        task = replace(self.task, step=step, method=method)
        known = gather(task, self.places, method.needed(), gradients).layers
        return {layer.name: layer_scores(task.loaded, layer, method, {}, known[layer.name], task.seed) for layer in self.places}

    def weights(self) -> list[nn.Parameter]:
        """The weights under the masks, which `backward` then gives gradients too. What is zero already stays zero. Put back where the step fails."""
        paths = dict.fromkeys(part.path for place in self.places for part in getattr(place, "everything", (place,)))
        found = [self.task.loaded.module(path).weight for path in paths]
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
        self.task.watcher.say(Progress(f"learn: {self.task.method.card.name}", done, total, values={"loss": loss}))
        self.task.watcher.check()

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
        if self.task.loaded.device.type != "cpu":
            return
        entries = sum(self._sizes().values())
        needed = self.task.method.extra["bytes_each"] * entries
        if self.task.method.extra["gradients"]:
            whole = activation_bytes(self.task.loaded.model, self.ids[: self._batch])
            needed += int(whole if self._keeps_activations else whole / max(len(self.task.loaded.anatomy.blocks), 1))
        remedy = (
            FORWARD_ONLY
            if self.task.method.extra["gradients"]
            else "Take fewer layers at a time with `only`, or shorter samples."
        )
        check_fits(needed, f"Learning {len(self.places)} masks with their gradients", remedy)

    @property
    def _batch(self) -> int:
        return max(BATCH_TOKENS // self.ids.shape[1], 1)

    @cached_property
    def _keeps_activations(self) -> bool:
        return activation_bytes(self.task.loaded.model, self.ids[: self._batch]) <= KEPT_SHARE * available_bytes()

    def _batches(self, ids: Tensor) -> Sequence[Tensor]:
        return ids.to(self.task.loaded.device).split(self._batch)

    def _sizes(self) -> dict[str, int]:
        return {name: torch.Size(shape).numel() for name, shape in self.shapes.items()}

    def _count(self, name: str, share: float) -> int:
        """How many entries of a mask go. Of units one always stays."""
        size = self._sizes()[name]
        if pattern := n_of_m(self.task.step.structure):
            return size - size // pattern[1] * pattern[0]
        return min(nearest(share * size), size - (self.task.step.structure in ("neurons", "heads")))
