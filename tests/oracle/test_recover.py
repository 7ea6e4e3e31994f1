"""Recovery against plain references: the mask holds, the gradients are right, nothing else moves, and a failed training leaves no trace."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from core.errors import ModelError, Stopped
from core.events import Silent
from core.model.adapters import _MaskedLinear
from core.model.loading import from_module
from core.model.training import batch_loss, rate_share, train
from core.recover.last_blocks import last_blocks
from core.recover.lora import lora
from core.recover.masked_tuning import masked_tuning
from core.recover.norms_and_biases import norms_and_biases
from core.recover.perp import perp
from core.recover.spp import spp
from tests.tiny_models import VOCABULARY, gpt2, halved, llama, resnet

pytestmark = pytest.mark.quick
RATE = 1e-2


def batches(steps: int, seed: int = 5) -> list[torch.Tensor]:
    """One text again and again, so that a few steps are enough to learn it."""
    return [torch.randint(0, VOCABULARY, (4, 24), generator=torch.Generator().manual_seed(seed))] * steps


def loss_of(model) -> float:
    with torch.no_grad():
        return float(batch_loss(model, batches(1)[0]))


def pruned(build):
    model = build()
    return model, halved(model, [layer.path for layer in from_module(model, "tiny").anatomy.layers])


def state(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def moved(model, before) -> set[str]:
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


@pytest.mark.parametrize("build", [llama, gpt2])
@pytest.mark.parametrize(("method", "by"), [(lora, 0.2), (masked_tuning, 0.2), (last_blocks, 0.2), (spp, 0.005), (perp, 0.02)])
def test_every_zero_stays_and_the_loss_falls(build, method, by):
    model, masks = pruned(build)
    zeros = {path: model.get_submodule(path).weight == 0 for path in masks}
    dense = loss_of(model)
    losses = method(model, batches(30), masks, 30, RATE, Silent())
    assert losses[0] == pytest.approx(dense, rel=1e-5) and loss_of(model) < dense - by
    for path, zero in zeros.items():
        assert torch.equal(model.get_submodule(path).weight == 0, zero)


@pytest.mark.parametrize("build", [llama, gpt2])
def test_lora_touches_the_pruned_layers_and_nothing_else(build):
    model, masks = pruned(build)
    masks = dict(list(masks.items())[1:])
    before = state(model)
    lora(model, batches(3), masks, 3, RATE, Silent())
    assert moved(model, before) == {f"{path}.weight" for path in masks}


def test_lora_without_masks_trains_every_linear_layer_but_the_head():
    model = llama(tie_word_embeddings=False)
    before = state(model)
    lora(model, batches(3), {}, 3, RATE, Silent())
    assert moved(model, before) == {f"{layer.path}.weight" for layer in from_module(model, "tiny").anatomy.layers}


def test_a_weight_that_was_zero_before_stays_zero_where_there_is_no_mask():
    model, _ = pruned(llama)
    zero = model.model.layers[0].mlp.up_proj.weight == 0
    lora(model, batches(3), {}, 3, RATE, Silent())
    assert torch.equal(model.model.layers[0].mlp.up_proj.weight == 0, zero)


@pytest.mark.parametrize("build", [llama, gpt2])
def test_only_the_models_own_modules_remain(build):
    model, masks = pruned(build)
    model.requires_grad_(False)
    keys, modules, own = list(model.state_dict()), [type(m) for m in model.modules()], {id(p) for p in model.parameters()}
    attributes = set(vars(model))
    lora(model, batches(2), masks, 2, RATE, Silent())
    assert list(model.state_dict()) == keys and [type(m) for m in model.modules()] == modules and set(vars(model)) == attributes
    assert {id(p) for p in model.parameters()} == own and not any(
        p.requires_grad or p.grad is not None for p in model.parameters()
    )
    assert not any("forward" in vars(module) for module in model.modules())


def test_the_masked_layers_gradient_is_the_plain_one():
    """Against finite differences in float64."""
    generator = torch.Generator().manual_seed(0)
    inputs, a, b, weight, bias = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((2, 3, 5), (2, 5), (4, 2), (4, 5), (4,))
    )
    keep = torch.rand(4, 5, generator=generator) > 0.5
    for tensor in (inputs, a, b, bias):
        tensor.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x, a, b, c: _MaskedLinear.apply(x, a, b, weight, c, keep, 0.7), (inputs, a, b, bias))


def test_lora_equals_plain_training_of_the_masked_weights(monkeypatch):
    """Reference: W + keep * (B A) * alpha / rank made by hand, the whole model called with it, torch's own optimizer and gradients."""
    model, masks = pruned(llama)
    plain, text, starts = copy.deepcopy(model), batches(1)[0], []

    def noting_where_a_starts(model, parameters, *rest):
        starts.extend(p.detach().clone() for p in parameters[::2])
        return train(model, parameters, *rest)

    monkeypatch.setattr("core.model.adapters.train", noting_where_a_starts)
    losses = lora(model, batches(4), masks, 4, RATE, Silent())
    pairs = {path: (a, torch.zeros(len(masks[path]), 8)) for path, a in zip(masks, starts, strict=True)}
    flat = [tensor.requires_grad_(True) for pair in pairs.values() for tensor in pair]
    optimizer = torch.optim.AdamW(flat, lr=RATE, weight_decay=0.0)

    def weights():
        return {f"{p}.weight": plain.get_submodule(p).weight.detach() + masks[p] * (b @ a) * 2.0 for p, (a, b) in pairs.items()}

    expected = []
    for step in range(1, 5):
        optimizer.param_groups[0]["lr"] = RATE * rate_share(step, 4)
        logits = functional_call(plain, weights(), (text,)).logits
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), text[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(flat, 1.0)
        optimizer.step()
        expected.append(loss.item())
    assert losses == pytest.approx(expected, rel=1e-5)
    for name, weight in weights().items():
        assert torch.allclose(model.get_parameter(name), weight, atol=2e-5), name


ALL = [lora, spp, perp, masked_tuning, last_blocks, norms_and_biases]


@pytest.mark.parametrize("method", ALL)
def test_the_same_seed_gives_the_same_weights_bit_for_bit(method):
    found = []
    for drawn_before in (0, 13):
        model, masks = pruned(llama)
        torch.manual_seed(4)
        torch.rand(drawn_before)  # what else draws random numbers does not matter
        method(model, batches(5), masks, 5, RATE, Silent())
        found.append(state(model))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_another_seed_starts_lora_elsewhere_and_the_callers_random_stream_is_left_alone():
    found = []
    for seed in (4, 5):
        model, masks = pruned(llama)
        torch.manual_seed(seed)
        expected = torch.Generator().manual_seed(seed)
        lora(model, batches(5), masks, 5, RATE, Silent())
        assert torch.equal(torch.rand(3), torch.rand(3, generator=expected))
        found.append(model.model.layers[0].mlp.up_proj.weight)
    assert not torch.equal(*found)


@pytest.mark.parametrize("build", [llama, gpt2])
def test_norms_and_biases_move_and_no_matrix_does(build):
    model, masks = pruned(build)
    before, first = state(model), loss_of(model)
    norms_and_biases(model, batches(30), masks, 30, RATE, Silent())
    assert moved(model, before) == {name for name, tensor in before.items() if tensor.ndim == 1}
    assert loss_of(model) < first


def test_an_image_classifier_recovers_on_labelled_images():
    model, masks = pruned(resnet)
    images, labels = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(2)), torch.arange(12) % 3
    losses = norms_and_biases(model, [(images, labels)] * 20, masks, 20, RATE, Silent())
    assert losses[-1] < losses[0]


def test_a_model_whose_pruned_layers_are_convolutions_gets_no_lora_and_a_remedy():
    model, masks = pruned(resnet)
    convolutions = {path: keep for path, keep in masks.items() if keep.ndim == 4}
    with pytest.raises(ModelError, match=r"linear.*norms_and_biases"):
        lora(model, [], convolutions, 5, RATE, Silent())


@pytest.mark.parametrize("method", ALL)
def test_a_loss_that_is_no_number_names_its_step_and_leaves_the_model_as_it_was(method):
    model, masks = pruned(llama)
    before, done = state(model), []

    def break_the_third(module, args, output):
        done.append(1)
        return output * float("nan") if len(done) == 3 else output

    handle = model.model.embed_tokens.register_forward_hook(break_the_third)
    with pytest.raises(ModelError, match="step 3 of 5"):
        method(model, batches(5), masks, 5, RATE, Silent())
    handle.remove()
    assert moved(model, before) == set()
    assert not any("lora" in name for name, _ in model.named_modules())


class StopsAfter(Silent):
    """Asks for a stop once so many steps are done."""

    def __init__(self, steps: int):
        super().__init__()
        self.steps = steps

    def say(self, progress):
        super().say(progress)
        self.stop = progress.done >= self.steps


@pytest.mark.parametrize("method", [lora, norms_and_biases])
def test_a_stop_keeps_the_steps_done_and_leaves_a_whole_model(method):
    model, masks = pruned(llama)
    zeros = {path: model.get_submodule(path).weight == 0 for path in masks}
    keys, first = list(model.state_dict()), loss_of(model)
    watcher = StopsAfter(8)
    with pytest.raises(Stopped):
        method(model, batches(20), masks, 20, RATE, watcher)
    assert watcher.heard[-1].done == 8 and list(model.state_dict()) == keys
    assert loss_of(model) < first
    assert all(torch.equal(model.get_submodule(path).weight == 0, zero) for path, zero in zeros.items())


def test_blocks_whose_activations_are_not_kept_train_to_the_same_bits(monkeypatch):
    """Where memory is short, blocks are computed anew on the way back; the result must not depend on that."""
    found = []
    for available in (10**12, 0):
        monkeypatch.setattr("core.model.training.available_bytes", lambda available=available: available)
        model, masks = pruned(llama)
        passes = []
        model.model.layers[0].self_attn.register_forward_hook(lambda *_, passes=passes: passes.append(1))
        torch.manual_seed(0)
        lora(model, batches(3), masks, 3, RATE, Silent())
        found.append((state(model), len(passes)))
    assert all(torch.equal(found[0][0][name], found[1][0][name]) for name in found[0][0])
    assert (found[0][1], found[1][1]) == (3, 6)


def test_each_step_says_its_loss():
    model, watcher = llama(), Silent()
    losses = train(model, [model.model.norm.weight], batches(3), 3, RATE, watcher)
    assert [(said.stage, said.done, said.total) for said in watcher.heard] == [("recover", step, 3) for step in range(4)]
    assert [said.values["loss"] for said in watcher.heard[1:]] == losses


def test_the_rate_climbs_for_a_tenth_and_falls_to_the_end():
    """Hand values for 20 steps: warm-up 2 steps, then from 1 at step 2 down to 1/19 at step 20."""
    assert [rate_share(step, 20) for step in (1, 2, 11, 20)] == pytest.approx([0.5, 1.0, 10 / 19, 1 / 19])
    assert rate_share(1, 1) == 1.0


def test_spp_equals_plain_training_of_the_scales(monkeypatch):
    """Reference: W * (1 + (B A) * scale / rank) by hand, the whole model called with it, torch's own optimizer and gradients."""
    model, masks = pruned(llama)
    plain, text, starts = copy.deepcopy(model), batches(1)[0], []

    def noting_where_a_starts(model, parameters, *rest):
        starts.extend(p.detach().clone() for p in parameters[::2])
        return train(model, parameters, *rest)

    monkeypatch.setattr("core.model.adapters.train", noting_where_a_starts)
    losses = spp(model, batches(3), masks, 3, RATE, Silent(), rank=2, scale=6.0)
    pairs = {path: (a, torch.zeros(len(masks[path]), 2)) for path, a in zip(masks, starts, strict=True)}
    flat = [tensor.requires_grad_(True) for pair in pairs.values() for tensor in pair]
    optimizer = torch.optim.AdamW(flat, lr=RATE, weight_decay=0.0)
    expected = []
    for step in range(1, 4):
        optimizer.param_groups[0]["lr"] = RATE * rate_share(step, 3)
        weights = {f"{p}.weight": plain.get_submodule(p).weight.detach() * (1 + (b @ a) * 3.0) for p, (a, b) in pairs.items()}
        logits = functional_call(plain, weights, (text,)).logits
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), text[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(flat, 1.0)
        optimizer.step()
        expected.append(loss.item())
    assert losses == pytest.approx(expected, rel=1e-5)


def test_perp_trains_the_pruned_layers_norms_and_biases_and_nothing_else():
    model, masks = pruned(gpt2)
    before = state(model)
    perp(model, batches(3), masks, 3, RATE, Silent())
    assert moved(model, before) == {f"{path}.weight" for path in masks} | {n for n, t in before.items() if t.ndim == 1}


@pytest.mark.parametrize(("head", "tied"), [(True, False), (False, False), (True, True), (False, True)])
def test_last_blocks_moves_the_end_of_the_model_and_nothing_else(head, tied):
    model = llama(layers=3, tie_word_embeddings=tied)
    before = state(model)
    last_blocks(model, batches(3), {}, 3, RATE, Silent(), blocks=1, head=head)
    end = {name for name in before if name.startswith(("model.layers.2.", "model.norm."))}
    assert moved(model, before) == end | ({"lm_head.weight"} if head else set()) | (
        {"model.embed_tokens.weight"} if head and tied else set()
    )


def test_last_blocks_leaves_every_kind_of_embedding_alone():
    model = gpt2()
    before = state(model)
    last_blocks(model, batches(3), {}, 3, RATE, Silent(), blocks=1, head=False)
    found = moved(model, before)
    assert found and all(name.startswith(("transformer.h.1.", "transformer.ln_f.")) for name in found)


@pytest.mark.parametrize("method", [masked_tuning, last_blocks])
def test_a_zero_of_an_earlier_run_stays_zero_where_no_mask_names_it(method):
    model, masks = pruned(llama)
    zeros = {path: model.get_submodule(path).weight == 0 for path in masks}
    method(model, batches(3), {}, 3, RATE, Silent())
    assert all(torch.equal(model.get_submodule(path).weight == 0, zero) for path, zero in zeros.items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_trains_in_small_steps_and_no_masked_weight_becomes_nan(dtype):
    model, masks = pruned(llama)
    model.to(dtype)
    start = loss_of(model)
    masked_tuning(model, batches(20), masks, 20, 3e-3, Silent())
    assert loss_of(model) < start - 0.05
    for path, keep in masks.items():
        weight = model.get_submodule(path).weight
        assert weight.dtype == dtype and not weight[~keep].any() and torch.isfinite(weight).all()


def test_last_blocks_says_what_it_cannot_train():
    with pytest.raises(ModelError, match="Neither a block nor the head"):
        last_blocks(llama(), batches(1), {}, 1, RATE, Silent(), blocks=0, head=False)


def test_masked_tuning_trains_every_parameter_and_lays_no_hook_for_good():
    model, masks = pruned(llama)
    before = state(model)
    masked_tuning(model, batches(3), masks, 3, RATE, Silent())
    assert moved(model, before) == set(before)
    assert not any(p._backward_hooks for p in model.parameters())
