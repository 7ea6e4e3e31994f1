"""Masks over a model and what may be learned of them, against plain whole-model references: copies of the model with changed weights."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace

import pytest
import torch

from core.errors import ModelError, RecipeError, ResourceError, Stopped
from core.events import Silent
from core.method import get
from core.model.course import Course
from core.model.gates import laid_over
from core.model.groups import unit_groups
from core.model.learned_pruning import check_learnable
from core.model.loading import from_module
from core.model.masks import generator
from core.model.pruning import prune, pruner
from core.model.texts import NO_TEXTS, Texts
from core.prune.bonsai import _regressed
from core.prune.hard_concrete import _drawn, _over
from core.recipe import Prune
from kernels.swaps import swapped
from tests import tiny_models

IDS = torch.randint(0, 300, (9, 16), generator=torch.Generator().manual_seed(3))
HEAD = 8


def run(model, watcher=None, ids=IDS, seed=0, texts=NO_TEXTS, **fields):
    return prune(from_module(model, "tiny"), Prune(**fields), lambda: ids, seed, watcher or Silent(), texts)


def course(model, method="movement", ids=IDS, structure="unstructured", sparsity=0.5, **fields) -> Course:
    loaded = from_module(model, "tiny")
    places = loaded.anatomy.layers
    if structure in ("neurons", "heads"):
        places = unit_groups(loaded.model, loaded.anatomy.blocks, loaded.anatomy.family, structure)
    step = Prune(method=method, structure=structure, sparsity=sparsity, **fields)
    return Course(loaded, step, pruner(method), tuple(places), ids, 0, Silent())


def plain_loss(model, rows=None) -> torch.Tensor:
    """transformers' own, of all these sequences together: all are of one length."""
    ids = IDS if rows is None else IDS[rows]
    return model(input_ids=ids, labels=ids, use_cache=False).loss


@pytest.fixture(scope="module")
def trained():
    """A tiny Llama that has learnt its text by heart, so that which weights are there matters."""
    model = tiny_models.llama(2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(80):
        optimizer.zero_grad()
        plain_loss(model).backward()
        optimizer.step()
    return model.requires_grad_(True)


def masked(model, masks):
    """A copy with its weights multiplied: of layers entry by entry, of units the columns that read them."""
    model = copy.deepcopy(model)
    for name, mask in masks.items():
        index, part = int(name.split(".")[1]), model.model.layers[int(name.split(".")[1])]
        if name == f"blocks.{index}.mlp":
            part.mlp.down_proj.weight.data *= mask
        elif name == f"blocks.{index}.attention":
            part.self_attn.o_proj.weight.data *= mask.repeat_interleave(2 * HEAD)
        else:
            part.get_submodule(name.split(".", 2)[2]).weight.data *= mask
    return model


def some_masks(one: Course) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {name: torch.rand(shape, generator=generator).round() for name, shape in one.shapes.items()}


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
        monkeypatch.setattr("core.model.course.available_bytes", lambda: 0)
    monkeypatch.setattr("core.model.course.BATCH_TOKENS", 32)  # two sequences at a time
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
    with laid_over(one.loaded, one.places, masks), torch.no_grad():
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


def bonsai_by_hand(model, count, rounds, sub_models, samples, ridge):
    """Lists and loops: bottom units by mean size, sub-models and their complements in copies of the model, one least-squares problem a round."""
    draw, gone = generator(0, "bonsai"), [set(), set()]
    for turn in range(1, rounds + 1):
        due = round(count * turn / rounds) - len(gone[0])
        plain = masked(model, {f"blocks.{i}.mlp": torch.tensor([float(u not in gone[i]) for u in range(48)]) for i in range(2)})
        means, handles = {}, []
        for i in range(2):
            reader = plain.model.layers[i].mlp.down_proj
            handles.append(
                reader.register_forward_pre_hook(
                    lambda m, args, i=i, means=means: means.update({i: args[0].detach().abs().mean((0, 1))})
                )
            )
        plain(IDS)
        for handle in handles:
            handle.remove()
        rows = torch.randperm(len(IDS), generator=draw)[:samples].tolist()
        bottom = [
            sorted((u for u in range(48) if u not in gone[i]), key=lambda u, i=i: (float(means[i][u]), u)) for i in range(2)
        ]
        bottom = [sorted(units[: max(math.ceil(2 * due * len(units) / len(units) - 1e-9), 2)]) for units in bottom]
        table, found = [], []
        for number in range(sub_models):
            if number % 2 == 0:
                out = []
                for i in range(2):
                    chance = means[i].max() - means[i][bottom[i]]
                    chance = chance + 1e-6 * chance.max() + 1e-12
                    places = torch.multinomial(chance, len(bottom[i]) // 2, replacement=False, generator=draw)
                    out.append({bottom[i][place] for place in places.tolist()})
            else:
                out = [set(bottom[i]) - out[i] for i in range(2)]
            keep = {
                f"blocks.{i}.mlp": torch.tensor([float(u not in gone[i] and u not in out[i]) for u in range(48)])
                for i in range(2)
            }
            with torch.no_grad():
                found.append(-math.exp(float(plain_loss(masked(model, keep), rows))))
            table.append([float(u not in out[i]) for i in range(2) for u in bottom[i]])
        x, y = torch.tensor(table, dtype=torch.float64), torch.tensor(found, dtype=torch.float64)
        n, d = x.shape
        # mean (y - c - x b)^2 + ridge |b|^2 as one least-squares problem with an intercept that is not penalised
        left = torch.cat(
            (torch.cat((x, torch.ones(n, 1)), 1), torch.cat(((ridge * n) ** 0.5 * torch.eye(d), torch.zeros(d, 1)), 1))
        )
        worth = torch.linalg.lstsq(left.double(), torch.cat((y, torch.zeros(d)))[:, None].double()).solution[:d, 0].tolist()
        for i in range(2):
            listed = worth[: len(bottom[0])] if i == 0 else worth[len(bottom[0]) :]
            listed = [round(value / (max(map(abs, listed)) or 1.0), 5) for value in listed]
            ranked = sorted(zip(listed, [float(means[i][u]) for u in bottom[i]], bottom[i], strict=True))
            gone[i] |= {unit for _, _, unit in ranked[:due]}
    return gone


@pytest.mark.quick
def test_bonsai_removes_the_units_of_a_plain_loop(trained):
    params = {"a_round": 0.1, "sub_models": 12, "samples": 5, "ridge": 0.01}
    done = run(copy.deepcopy(trained), method="bonsai", structure="neurons", sparsity=0.25, params=params)
    expected = bonsai_by_hand(trained, 12, 3, 12, 5, 0.01)
    assert [set((~cut.keep).nonzero().flatten().tolist()) for cut in done.cuts] == expected


@pytest.mark.quick
def test_bonsais_regression_is_least_squares_with_a_free_intercept_and_finds_what_each_unit_adds():
    there = torch.rand(200, 6, generator=torch.Generator().manual_seed(0)).round().double()
    worth = torch.tensor([3.0, -1.0, 0.0, 2.0, 5.0, 0.5]).double()
    torch.testing.assert_close(_regressed(there, there @ worth - 40, 1e-12), worth, rtol=0, atol=1e-6)


@pytest.mark.quick
def test_swaps_end_where_no_exchange_helps_and_often_at_the_best_of_all():
    generator, best = torch.Generator().manual_seed(0), 0
    for _ in range(20):
        raw = torch.randn(8, 8, generator=generator, dtype=torch.float64)
        quadratic, linear = raw @ raw.T, torch.randn(8, generator=generator, dtype=torch.float64) * 3
        start = torch.arange(8) < 4

        def energy(kept, start=start, linear=linear, quadratic=quadratic):
            d = kept.double() - start.double()
            return float(linear @ d + d @ quadratic @ d / 2)

        found = swapped(start, linear, quadratic)
        assert found.sum() == 4 and energy(found) <= 0
        for a, b in itertools.product(found.nonzero().flatten().tolist(), (~found).nonzero().flatten().tolist()):
            other = found.clone()
            other[a], other[b] = False, True
            assert energy(other) >= energy(found) - 1e-9
        every = [torch.tensor([i in kept for i in range(8)]) for kept in itertools.combinations(range(8), 4)]
        best += energy(found) <= min(map(energy, every)) + 1e-9
    assert best >= 12
    assert swapped(torch.ones(3, dtype=torch.bool), linear[:3], quadratic[:3, :3]).all()


@pytest.mark.quick
def test_one_round_of_icbs_exchanges_what_a_plain_quadratic_problem_says(trained):
    """Per-sequence gradients by whole copies, the estimates and the energy by loops, one pair at a time."""
    params = {"start": "magnitude", "rounds": 1, "block": 8, "samples": 4, "ridge": 1.0}
    watcher = Silent()
    done = run(copy.deepcopy(trained), watcher, method="icbs", sparsity=0.7, params=params)
    layers = {row.name: f"model.layers.{row.name.split('.', 2)[1]}.{row.name.split('.', 2)[2]}" for row in done.rows}
    start = {}
    for name, path in layers.items():
        size = trained.get_submodule(path).weight.detach().abs()
        start[name] = torch.ones(size.numel(), dtype=torch.bool)
        start[name][size.flatten().argsort(stable=True)[: int(0.7 * size.numel() + 0.5)]] = False
    rows = torch.randperm(len(IDS), generator=generator(0, "icbs"))[:4].tolist()
    slopes = {name: [] for name in layers}
    for row in rows:
        plain = copy.deepcopy(trained)
        for name, path in layers.items():
            plain.get_submodule(path).weight.data *= start[name].reshape(plain.get_submodule(path).weight.shape)
        plain_loss(plain, [row]).backward()
        for name, path in layers.items():
            slopes[name].append(
                (plain.get_submodule(path).weight.grad * trained.get_submodule(path).weight).detach().flatten().double()
            )
    agree = []
    for name, path in layers.items():
        each, kept = torch.stack(slopes[name]), start[name].clone()
        damp = float(each.square().mean())
        promise = [
            float(each[:, i].mean()) * (-1 if kept[i] else 1) + (float(each[:, i].square().mean()) + damp) / 2
            for i in range(len(kept))
        ]
        inside = [
            sorted((i for i in range(len(kept)) if bool(kept[i]) is side), key=lambda i: promise[i])[:4] for side in (True, False)
        ]
        place = [*inside[0], *inside[1]]

        def energy(now, place=place, each=each, start=start[name], damp=damp):
            d = [float(now[i]) - float(start[i]) for i in place]
            bent = sum(
                d[a] * d[b] * (float((each[:, i] * each[:, j]).mean()) + damp * (i == j))
                for a, i in enumerate(place)
                for b, j in enumerate(place)
            )
            return sum(x * float(each[:, i].mean()) for x, i in zip(d, place, strict=True)) + bent / 2

        while True:
            trials = []
            for a in place:
                for b in place:
                    if kept[a] and not kept[b]:
                        other = kept.clone()
                        other[a], other[b] = False, True
                        trials.append((energy(other), len(trials), other))
            if not trials or min(trials)[0] >= energy(kept) - 1e-12:
                break
            kept = min(trials)[2]
        agree.append(torch.equal(done.masks[path].unpack().flatten(), kept))
        assert not torch.equal(kept, start[name])
    assert sum(agree) >= len(agree) - 1  # one near tie in float32


@pytest.mark.quick
@pytest.mark.parametrize(
    ("method", "structure", "share", "params"),
    [
        ("movement", "unstructured", 0.5, {"steps": 40, "weight_rate": 0.0}),
        ("movement", "neurons", 0.5, {"steps": 40, "weight_rate": 0.0}),
        ("movement", "tiles:8", 0.5, {"steps": 40, "weight_rate": 0.0}),
        ("hard_concrete", "neurons", 0.5, {"steps": 60}),
        ("hard_concrete", "heads", 0.5, {"steps": 60}),
        ("bonsai", "neurons", 0.5, {"sub_models": 16, "a_round": 0.1}),
        ("icbs", "unstructured", 0.7, {"start": "magnitude", "rounds": 4}),
    ],
)
def test_a_learned_mask_loses_less_than_random_ones_of_the_same_share(trained, method, structure, share, params):
    done = run(copy.deepcopy(trained), method=method, structure=structure, sparsity=share, params=params)
    one = course(copy.deepcopy(trained), structure=structure, sparsity=share)
    lots = []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        keep = one.decide({name: torch.rand(shape, generator=generator) for name, shape in one.shapes.items()})
        lots.append(one.loss({name: kept.float() for name, kept in keep.items()}))
    assert done.said["loss_after"] < (min(lots) if structure != "heads" else sum(lots) / 3 + 1e-6)
    left = done.loaded.model
    with torch.no_grad():  # the masks are no estimate: the model that is left has that very loss
        assert float(plain_loss(left)) == pytest.approx(done.said["loss_after"], rel=1e-4)


@pytest.mark.quick
def test_icbs_lowers_the_loss_of_its_first_mask_round_by_round(trained):
    first = run(copy.deepcopy(trained), method="magnitude", sparsity=0.7).loaded.model
    done = run(copy.deepcopy(trained), method="icbs", sparsity=0.7, params={"start": "magnitude", "rounds": 4})
    with torch.no_grad():
        before = float(plain_loss(first))
    losses = done.said["losses"]
    assert done.said["loss_after"] == pytest.approx(losses[-1], rel=1e-4)
    assert losses == sorted(losses, reverse=True) and done.said["loss_after"] < before - 0.1


@pytest.mark.quick
def test_training_the_weights_lowers_the_loss_and_leaves_zeros_where_they_were(trained):
    model = copy.deepcopy(trained)
    zeros = tiny_models.halved(model, ["model.layers.0.mlp.up_proj", "model.layers.1.self_attn.q_proj"])
    frozen, moving = (copy.deepcopy(model) for _ in range(2))
    losses = {}
    for name, rate, one in (("frozen", 0.0, frozen), ("moving", 0.003, moving)):
        done = run(one, method="movement", structure="neurons", sparsity=0.5, params={"steps": 40, "weight_rate": rate})
        losses[name] = done.said["loss_after"]
    assert losses["moving"] < losses["frozen"] - 0.1
    left = done.cuts[0].keep
    assert (moving.model.layers[0].mlp.up_proj.weight[~zeros["model.layers.0.mlp.up_proj"][left]] == 0).all()
    assert not any(
        module.weight._post_accumulate_grad_hooks for module in moving.modules() if isinstance(module, torch.nn.Linear)
    )


@pytest.mark.quick
@pytest.mark.parametrize(
    ("method", "structure"),
    [("movement", "unstructured"), ("hard_concrete", "neurons"), ("bonsai", "neurons"), ("icbs", "unstructured")],
)
def test_the_same_seed_gives_the_same_bits_and_another_another(trained, method, structure):
    params = {
        "movement": {"steps": 6},
        "hard_concrete": {"steps": 12},
        "bonsai": {"sub_models": 6, "a_round": 0.25},
        "icbs": {"rounds": 4, "block": 32, "samples": 3},
    }[method]
    found = []
    for seed in (0, 0, 7):
        model = copy.deepcopy(trained)
        run(model, seed=seed, method=method, structure=structure, sparsity=0.7, params=params)
        found.append(model.state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert any(not torch.equal(found[0][name], found[2][name]) for name in found[0])


@pytest.mark.quick
@pytest.mark.parametrize("structure", ["neurons", "heads"])
def test_units_that_go_are_gone_and_the_model_loads_with_transformers_alone(trained, structure, tmp_path):
    model = copy.deepcopy(trained)
    done = run(model, method="movement", structure=structure, sparsity=0.5, params={"steps": 4})
    assert all(row.sparsity == 0.5 for row in done.rows)
    assert model.config.intermediate_size == (24 if structure == "neurons" else 48)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert torch.equal(again(IDS).logits, model(IDS).logits)
    assert sum(p.numel() for p in again.parameters()) < sum(p.numel() for p in trained.parameters())


@pytest.mark.quick
@pytest.mark.parametrize("method", ["movement", "hard_concrete", "bonsai"])
def test_one_ranking_over_all_blocks_meets_the_total_and_leaves_a_unit_in_each(trained, method):
    params = {"sub_models": 6, "a_round": 0.25} if method == "bonsai" else {"steps": 10}
    done = run(
        copy.deepcopy(trained), method=method, structure="neurons", sparsity=0.5, allocation={"method": "global"}, params=params
    )
    assert sum(int((~cut.keep).sum()) for cut in done.cuts) == 48
    assert all(cut.keep.any() for cut in done.cuts)


@pytest.mark.quick
def test_a_budget_by_hand_and_only_and_n_of_m_are_kept_to(trained):
    shares = {"blocks.0": 0.25, "blocks.1.mlp.down_proj": 0.75}
    done = run(copy.deepcopy(trained), method="movement", allocation={"method": "by_hand", "shares": shares}, params={"steps": 3})
    reached = {row.name: row.sparsity for row in done.rows}
    assert (
        reached["blocks.0.mlp.up_proj"] == 0.25
        and reached["blocks.1.mlp.down_proj"] == 0.75
        and reached["blocks.1.mlp.up_proj"] == 0
    )
    done = run(copy.deepcopy(trained), method="movement", structure="2:4", only=("blocks.1.mlp",), params={"steps": 3})
    assert [row.name for row in done.rows] == [f"blocks.1.mlp.{part}_proj" for part in ("gate", "up", "down")]
    for mask in done.masks.values():
        assert (mask.unpack().reshape(mask.shape[0], -1, 4).sum(2) == 2).all()


@pytest.mark.quick
@pytest.mark.parametrize("method", ["movement", "bonsai", "hard_concrete", "icbs"])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_nothing_and_everything_can_be_asked_for(trained, method, share):
    units = method in ("bonsai", "hard_concrete")
    params = {
        "movement": {"steps": 2, "weight_rate": 0.0},
        "bonsai": {"sub_models": 2, "a_round": 1.0},
        "hard_concrete": {"steps": 2},
        "icbs": {"rounds": 1},
    }
    model = copy.deepcopy(trained)
    done = run(model, method=method, structure="neurons" if units else "unstructured", sparsity=share, params=params[method])
    if share == 0:
        assert all(torch.equal(value, trained.state_dict()[name]) for name, value in model.state_dict().items())
    else:
        assert {row.sparsity for row in done.rows} == ({47 / 48} if units else {1.0})


def untouched(model, before):
    return all(torch.equal(before[name], value) for name, value in model.state_dict().items()) and not any(
        module._forward_pre_hooks or "weight" in vars(module) for module in model.modules()
    )


@pytest.mark.quick
def test_a_stop_in_the_middle_leaves_the_model_as_it_was_weights_trained_or_not(trained):
    class After(Silent):
        def check(self):
            if sum(said.stage == "learn: movement" for said in self.heard) > 2:
                raise Stopped

    model, watcher = copy.deepcopy(trained), After()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(Stopped):
        run(model, watcher, method="movement", sparsity=0.5, params={"steps": 50, "weight_rate": 0.01})
    assert untouched(model, before) and all(p.requires_grad and p.grad is None for p in model.parameters())
    said = [progress for progress in watcher.heard if progress.stage == "learn: movement"]
    assert [(progress.done, progress.total) for progress in said] == [(1, 50), (2, 50), (3, 50)] and said[0].values["loss"] > 0


@pytest.mark.quick
@pytest.mark.parametrize("make", [tiny_models.bert, tiny_models.resnet])
def test_a_model_without_a_loss_on_text_is_refused(make):
    model = make()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ModelError, match="predicts no next token") as caught:
        run(model, method="movement", sparsity=0.5)
    assert caught.value.remedy and untouched(model, before)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("method", "structure", "names"), [("movement", "unstructured", "bonsai"), ("bonsai", "neurons", "shorter")]
)
def test_too_little_memory_is_refused_with_both_figures_and_a_remedy(monkeypatch, method, structure, names):
    model = tiny_models.llama(2)
    before = copy.deepcopy(model.state_dict())
    monkeypatch.setenv("PRUNARIUM_MEMORY_GB", "0.0000001")
    with pytest.raises(ResourceError, match=r"needs .* of memory, and this machine has .* left") as caught:
        run(model, method=method, structure=structure, sparsity=0.5)
    assert names in caught.value.remedy and untouched(model, before)


@pytest.mark.quick
def test_too_little_memory_for_the_weights_says_how_to_go_without(monkeypatch):
    model = tiny_models.llama(2)
    monkeypatch.setattr("core.model.course.Course.check_memory", lambda self: None)
    monkeypatch.setenv("PRUNARIUM_MEMORY_GB", "0.0000001")
    with pytest.raises(ResourceError, match="Training the weights") as caught:
        run(model, method="movement", sparsity=0.5, params={"steps": 1})
    assert "weight_rate: 0" in caught.value.remedy


@pytest.mark.quick
@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"method": "movement", "sparsity": 0.5, "only": ("blocks.9",)}, RecipeError, "blocks.9"),
        ({"method": "movement", "sparsity": 0.5, "protect": ("super_weights",)}, RecipeError, "single ones cannot be protected"),
        ({"method": "movement", "structure": "2:5"}, RecipeError, "multiple of 5"),
        ({"method": "movement", "structure": "2:4", "allocation": {"method": "global"}}, RecipeError, "fixes the share"),
        ({"method": "bonsai", "structure": "neurons", "sparsity": 0.5, "protect": ("blocks.*",)}, RecipeError, "all are protected"),
        ({"method": "hard_concrete", "structure": "neurons", "allocation": {"method": "by_hand", "shares": {"blocks.7": 0.5}}}, RecipeError, "blocks.7"),
        ({"method": "movement", "sparsity": 0.5, "damage": True}, ModelError, "not a number"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_a_sentence_and_the_model_is_as_it_was(fields, error, says):
    model, fields = tiny_models.llama(2), dict(fields)
    if fields.pop("damage", False):
        model.model.norm.weight.data[0] = float("nan")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error) as caught:
        run(model, **fields)
    assert says in caught.value.problem and caught.value.remedy
    assert all(torch.equal(before[n].nan_to_num(7), v.nan_to_num(7)) for n, v in model.state_dict().items())


@pytest.mark.quick
def test_training_draws_fresh_windows_of_the_source_and_the_report_tells_the_loss_on_the_sampled_ones(trained):
    asked = []

    def fresh():
        while True:
            asked.append(torch.randint(0, 300, (1, 16), generator=torch.Generator().manual_seed(len(asked))))
            yield asked[-1]

    params = {"steps": 3, "batch": 2, "weight_rate": 0.0}
    found = run(copy.deepcopy(trained), texts=Texts(fresh=fresh), method="movement", sparsity=0.5, params=params)
    assert len(asked) == 6 and found.said["losses"][0] > 2  # nobody has learnt those by heart
    assert found.said["loss_before"] == pytest.approx(float(plain_loss(trained).detach()), rel=1e-5)


@pytest.mark.quick
def test_a_model_left_in_its_file_is_refused():
    model = tiny_models.llama(2)
    loaded = replace(from_module(model, "tiny"), lazy=object())
    with pytest.raises(ModelError, match="block at a time") as caught:
        check_learnable(loaded)
    assert "wanda" in caught.value.remedy
