"""Masks found by forwards and by exchanges (Bonsai, iCBS) against plain loops."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch

from core.events import Silent
from core.model.masks import generator
from core.prune.bonsai import _regressed
from kernels.swaps import swapped
from tests.oracle.learned import IDS, masked, plain_loss, run


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
