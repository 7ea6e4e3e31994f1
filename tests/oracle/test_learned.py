"""Masks over a model and what may be learned of them, against plain whole-model references: copies of the model with changed weights."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from core.method import get
from core.model.learned.gates import laid_over
from core.model.masks import generator
from core.prune.hard_concrete import _drawn, _over
from tests import tiny_models
from tests.oracle.learned import HEAD, IDS, course, masked, plain_loss, run, some_masks


@pytest.mark.quick
@pytest.mark.parametrize("structure", ["unstructured", "neurons", "heads"])
def test_the_loss_with_masks_is_that_of_a_copy_with_those_weights_gone(structure):
    model = tiny_models.llama(2)
    before, one = copy.deepcopy(model.state_dict()), course(model, structure=structure)
    masks = some_masks(one)
    assert one.loss(masks) == pytest.approx(float(plain_loss(masked(model, masks)).detach()), rel=1e-6)
    assert one.loss(masks, [1, 4]) == pytest.approx(float(plain_loss(masked(model, masks), [1, 4]).detach()), rel=1e-6)
    assert list(model.state_dict()) == list(before) and all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert not any(module._forward_pre_hooks or "weight" in vars(module) for module in model.modules())


@pytest.mark.quick
@pytest.mark.parametrize("frugal", [False, True])
@pytest.mark.parametrize("structure", ["unstructured", "neurons", "heads"])
def test_the_gradient_of_a_mask_is_the_weights_gradient_times_the_weight_summed_over_the_unit(structure, frugal, monkeypatch):
    if frugal:  # each block runs again on the way back
        monkeypatch.setattr("core.model.learned.course.available_bytes", lambda: 0)
    monkeypatch.setattr("core.model.learned.course.BATCH_TOKENS", 32)  # two sequences at a time
    model = tiny_models.llama(2)
    one = course(model, structure=structure)
    masks = {name: mask.requires_grad_(True) for name, mask in some_masks(one).items()}
    model.requires_grad_(False)
    loss = one.backward({name: 1 * mask for name, mask in masks.items()}, IDS[:5])
    plain = masked(model, {name: mask.detach() for name, mask in masks.items()}).requires_grad_(True)
    whole = plain_loss(plain, list(range(5)))
    whole.backward()
    assert loss == pytest.approx(float(whole.detach()), rel=1e-5)
    for name, mask in masks.items():
        index = int(name.split(".")[1])
        here, dense = plain.model.layers[index], model.model.layers[index]
        if structure == "unstructured":
            path = name.split(".", 2)[2]
            expected = here.get_submodule(path).weight.grad * dense.get_submodule(path).weight
        else:
            path = "mlp.down_proj" if structure == "neurons" else "self_attn.o_proj"
            columns = (here.get_submodule(path).weight.grad * dense.get_submodule(path).weight).sum(0)
            expected = columns if structure == "neurons" else columns.reshape(2, 2 * HEAD).sum(1)
        torch.testing.assert_close(mask.grad, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.quick
def test_a_mask_lies_over_the_turned_weights_of_gpt2_too():
    model = tiny_models.gpt2()
    one = course(model)
    masks = some_masks(one)
    plain = copy.deepcopy(model)
    for layer in one.places:
        plain.get_submodule(layer.path).weight.data *= masks[layer.name].T
    with laid_over(one.task.loaded, one.places, masks), torch.no_grad():
        found = model(IDS).logits
    assert torch.equal(found, plain(IDS).logits)


@pytest.mark.quick
@pytest.mark.parametrize("structure", ["neurons", "heads"])
def test_what_is_read_of_a_unit_is_the_mean_size_of_the_readers_inputs(structure):
    model = tiny_models.llama(2)
    one = course(model, structure=structure)
    masks = some_masks(one)
    plain = masked(model, masks)
    for index, block in enumerate(plain.model.layers):
        reader, seen = (block.mlp.down_proj, "mlp") if structure == "neurons" else (block.self_attn.o_proj, "attention"), []
        handle = reader[0].register_forward_pre_hook(
            lambda module, args, seen=seen: seen.append(args[0].detach().abs().mean((0, 1)))
        )
        plain(IDS)
        handle.remove()
        expected = seen[0] if structure == "neurons" else seen[0].reshape(2, 2 * HEAD).mean(1)
        torch.testing.assert_close(one.activity(masks)[f"blocks.{index}.{reader[1]}"], expected)


def movement_by_hand(model, steps, batch, rate, weight_rate, share):
    """Loops over layers; Adam written out; the mask by sorting a plain list; the weights masked by hand in a copy."""
    layers = {
        f"blocks.{i}.{n}": f"model.layers.{i}.{n}"
        for i in range(2)
        for n, m in model.model.layers[i].named_modules()
        if isinstance(m, torch.nn.Linear)
    }
    dense = {name: model.get_submodule(path).weight.detach().clone() for name, path in layers.items()}
    scores = {name: torch.zeros_like(weight) for name, weight in dense.items()}
    moments = {key: [0.0, 0.0] for name in layers for key in (name, name + " weight")}
    draw = generator(0, "draw")

    def adam(key, gradient, step, lr):
        first, second = moments[key]
        moments[key] = [0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2]
        first, second = moments[key]
        return lr * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)) ** 0.5 + 1e-8)

    for step in range(1, steps + 1):
        part = 1 - (1 - min(step / (0.8 * steps), 1)) ** 3
        masks = {}
        for name, score in scores.items():
            values = score.flatten().tolist()
            order = sorted(range(len(values)), key=lambda i, values=values: (values[i], i))
            gone = order[: int(part * share * len(values) + 0.5)]
            masks[name] = torch.ones(score.numel()).index_fill(0, torch.tensor(gone, dtype=torch.long), 0.0).reshape(score.shape)
        rows = torch.randint(len(IDS), (batch,), generator=draw).tolist()
        plain = copy.deepcopy(model)
        for name, path in layers.items():
            plain.get_submodule(path).weight.data = dense[name] * masks[name]
        plain_loss(plain, rows).backward()
        for name, path in layers.items():
            gradient = plain.get_submodule(path).weight.grad
            scores[name] = scores[name] - adam(name, gradient * dense[name], step, rate)
            if weight_rate:
                dense[name] = dense[name] - adam(name + " weight", gradient * masks[name], step, weight_rate)
    return scores, dense


@pytest.mark.quick
@pytest.mark.parametrize("weight_rate", [0.0, 0.001])
def test_movement_learns_the_scores_of_a_plain_loop(trained, weight_rate):
    expected, weights = movement_by_hand(trained, 5, 3, 0.01, weight_rate, 0.5)
    model = copy.deepcopy(trained)
    params = {"steps": 5, "batch": 3, "learning_rate": 0.01, "weight_rate": weight_rate}
    done = run(model, method="movement", sparsity=0.5, params=params)
    for name, scores in expected.items():
        path = f"model.layers.{name.split('.', 2)[1]}.{name.split('.', 2)[2]}"
        keep = torch.ones(scores.numel(), dtype=torch.bool)
        keep[scores.flatten().argsort(stable=True)[: scores.numel() // 2]] = False
        found = done.masks[path].unpack()
        assert (found.flatten() != keep).float().mean() < 0.02, (
            name
        )  # Adam divides tiny gradients by tiny ones: last bits may turn a sign
        assert int(found.sum()) == scores.numel() - scores.numel() // 2
        both = found & keep.reshape(scores.shape)
        torch.testing.assert_close(
            model.get_submodule(path).weight[both], weights[name][both], rtol=0, atol=2e-3 if weight_rate else 0
        )
        assert torch.equal(model.get_submodule(path).weight != 0, found)


@pytest.mark.quick
def test_movement_by_hand():
    """Two weights 1 and -2, dL/dW = (3, 1): dL/dS = (3, -2). One step of Adam moves each S by its rate against that, so the first one goes."""
    leaf = {}

    def backward(masks, ids):
        (3.0 * masks["a"][0, 0] * 1.0 + 1.0 * masks["a"][0, 1] * -2.0).backward()
        return 0.0

    given = {"shapes": {"a": (1, 2)}, "draw": lambda size: None, "decide": lambda scores, part: {"a": torch.ones(1, 2, dtype=torch.bool)},
             "backward": backward, "weights": lambda: [], "note": lambda *said: leaf.update(said=said)}  # fmt: skip
    found = get("learned", "movement")(given, {"steps": 1, "weight_rate": 0.0, "learning_rate": 0.25})
    torch.testing.assert_close(found["a"].detach(), torch.tensor([[-0.25, 0.25]]))
    assert leaf["said"] == (1, 1, 0.0)


@pytest.mark.quick
def test_a_hard_concrete_gate_is_open_as_often_as_its_formula_says():
    gate, generator = torch.tensor([-3.0, 0.0, 2.0]), torch.Generator().manual_seed(0)
    draws = torch.stack([_drawn(gate, generator) for _ in range(20_000)])
    expected = [1 / (1 + math.exp(-(value - 2 / 3 * math.log(0.1 / 1.1)))) for value in gate.tolist()]
    torch.testing.assert_close((draws > 0).float().mean(0), torch.tensor(expected), rtol=0, atol=0.015)
    assert draws.min() == 0 and draws.max() == 1
    over = _over({"a": gate[:1], "b": gate[1:]}, ((("a",), 1), (("b",), 1), (("a", "b"), 2)), 0.5)
    removed = [1 - value for value in expected]
    plain = [removed[0] - 0.5, sum(removed[1:]) / 2 - 0.25, sum(removed) / 3 - 1 / 3]
    torch.testing.assert_close(over, torch.tensor(plain))


@pytest.mark.quick
def test_hard_concrete_learns_the_gates_of_a_plain_loop(trained):
    """Units one by one, the columns that read them scaled in a copy, Adam and the multipliers written out."""
    lots, draw, heat, rate = generator(0, "draw"), generator(0, "hard_concrete"), 2 / 3, 0.1
    gates = {f"blocks.{i}.mlp": torch.full((48,), 3.0) for i in range(2)}
    moments, multipliers = {name: [0.0, 0.0] for name in gates}, {name: [0.0, 0.0] for name in gates}
    for step in range(1, 5):
        rows = torch.randint(len(IDS), (2,), generator=lots).tolist()
        plain, opened, leaves = (
            copy.deepcopy(trained),
            {},
            {name: gate.clone().requires_grad_(True) for name, gate in gates.items()},
        )
        for index, name in enumerate(gates):
            noise = torch.rand(48, generator=draw).clamp(1e-6, 1 - 1e-6)
            soft = torch.stack(
                [1 / (1 + torch.exp(-((u.log() - (1 - u).log() + a) / heat))) for u, a in zip(noise, leaves[name], strict=True)]
            )
            opened[name] = (soft * 1.2 - 0.1).clamp(0, 1)
            reader = plain.model.layers[index].mlp.down_proj
            reader.forward = lambda x, z=opened[name], w=reader.weight: (x * z) @ w.T
        total = plain_loss(plain, rows)
        for name, gate in leaves.items():
            there = torch.sigmoid(gate - heat * math.log(0.1 / 1.1))
            over = (1 - there).mean() - min(step / 2, 1) * 24 / 48
            total = total + multipliers[name][0] * over + multipliers[name][1] * over**2
            value = float(over.detach())
            multipliers[name] = [multipliers[name][0] + value, multipliers[name][1] + value**2]
        total.backward()
        for name, gate in leaves.items():
            first, second = (0.9 * moments[name][0] + 0.1 * gate.grad, 0.999 * moments[name][1] + 0.001 * gate.grad**2)
            moments[name] = [first, second]
            gates[name] = gates[name] - rate * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
    done = run(copy.deepcopy(trained), method="hard_concrete", structure="neurons", sparsity=0.5, params={"steps": 4, "batch": 2})
    for cut in done.cuts:
        torch.testing.assert_close(done.scores[cut.key], gates[cut.group.name], rtol=0, atol=2e-3)
        assert int(cut.keep.sum()) == 24
