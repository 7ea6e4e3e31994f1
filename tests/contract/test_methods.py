"""Every registered method keeps the contract of its kind. Parametrised from the registry: a new file is tested the moment it is there."""

import inspect
import json
import re
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from core import catalogue
from core.cost import Price
from core.data.clusters import spherical_kmeans, unit
from core.data.dataset import Dataset
from core.data.evidence import Beside, Evidence
from core.events import Silent
from core.method import METHODS, cards, load_methods
from core.model.mixture.routing import Routed
from core.model.observe import NO_STATISTIC, have
from core.model.units.groups import STRUCTURES as UNITS
from core.recipe import Embedding
from kernels.masks import keep_highest

EVIDENCE = {"rows", "row", "vectors", "clusters", "centroids", "labels", "texts", "frame", "generator", "neighbours", "dynamics", "loaded",
            "watcher"}  # fmt: skip
load_methods()
BY_KIND: dict[str, list] = {}
for (kind, _), method in sorted(METHODS.items()):
    BY_KIND.setdefault(kind, []).append(method)


def of(kind: str) -> list:
    return [pytest.param(method, id=method.card.name) for method in BY_KIND.get(kind, [])]


def statistics(method, features: int) -> dict[str, torch.Tensor]:
    """What the method's needs look like for a layer of that many inputs, made by the statistics themselves from one random batch."""
    inputs = torch.randn(3, 5, features, generator=torch.Generator().manual_seed(1))
    seen = {"layer": (inputs,), "block": (inputs, inputs + 0.1), "gradient": (inputs[0, :4],), "experts": (_routed(inputs),)}
    seen["expert weights"] = (inputs[0], torch.rand(5, generator=torch.Generator().manual_seed(6)))
    seen["general gradient"] = (inputs[1, :4],)
    out = {}
    for name in method.needs - NO_STATISTIC:
        statistic = METHODS["statistic", name]
        out[name] = statistic.extra["finish"](statistic.function(None, *seen[statistic.extra["of"]]), 3)
    return out


def _routed(inputs: torch.Tensor) -> Routed:
    """A batch at a mixture of four experts of which each token visits two; the last is visited by none."""
    config = MixtralConfig(hidden_size=inputs.shape[-1], intermediate_size=4, num_local_experts=4)
    experts, flat = MixtralExperts(config), inputs.flatten(0, 1)
    for number, parameter in enumerate(experts.parameters()):
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(number))
    gates = torch.rand(len(flat), 2, generator=torch.Generator().manual_seed(3))
    return Routed(experts, 4, flat, torch.tensor([[0, 1], [2, 0], [1, 2]]).repeat(len(flat) // 3 + 1, 1)[: len(flat)], gates)


@pytest.mark.parametrize("method", [m for kind in BY_KIND for m in of(kind)])
def test_a_card_says_what_it_keeps_where_it_lies_and_is_bounded(method):
    card = method.card
    assert re.fullmatch(r"[a-z][a-z0-9_]*", card.name)
    assert card.summary.endswith(".") and len(card.summary) <= 140
    assert card.label and card.version >= 1
    for param in card.params:
        numbers, text = param.low is not None and param.high is not None, param.type == "str" and param.longest
        assert param.choices or param.type == "bool" or numbers or text, f"{param.name} has no bounds"
        assert catalogue.fill(card, {})[param.name] == param.default
    if card.kind in ("score", "search", "transform", "learned", "allocator", "data_score") and "baseline" not in card.place:
        assert "When it lies" in card.doc
    if card.paper:
        assert re.fullmatch(r"\d{4}\.\d{4,5}|", card.paper.arxiv)


def _scored(method, weight: torch.Tensor) -> torch.Tensor:
    given = have(weight.clone(), (4, 6), torch.Generator().manual_seed(2), statistics(method, 6))
    return method(given, catalogue.fill(method.card, {}))


def _scored_units(method, entries: int) -> torch.Tensor:
    """Four units, each read at `entries` places by 5 outputs and made from 7 weights an entry."""
    generator = torch.Generator().manual_seed(0)
    known = statistics(method, 4 * entries)
    given = {name: value.reshape(4, entries) for name, value in known.items() if value.dim() == 1}
    of_weights = {name: torch.rand(4, entries, 7, generator=generator) for name, value in known.items() if value.dim() == 2}
    given["parts"] = tuple({"weight": torch.randn(4, entries, 7, generator=generator), **of_weights} for _ in range(3))
    given |= {
        "out_of": torch.randn(4, 5 * entries, generator=generator),
        "into": torch.randn(4, 7 * entries, generator=generator),
    }
    given |= {"shape": (4,), "generator": torch.Generator().manual_seed(2), "weight": None}
    return method(given, catalogue.fill(method.card, {}))


@pytest.mark.parametrize("method", of("score"))
def test_a_method_that_adds_a_bias_has_the_switch_and_the_mean_that_it_needs(method):
    if method.card.adds_bias:
        switch = next(param for param in method.card.params if param.name == method.card.adds_bias)
        assert switch.type == "bool" and "input_mean" in method.needs


@pytest.mark.parametrize("method", of("score"))
def test_a_method_that_spares_units_has_the_ceiling(method):
    if method.card.spares_above:
        assert next(param for param in method.card.params if param.name == method.card.spares_above).type == "float"


def _solver_given(method) -> dict:
    """Four units of two columns each, read by five outputs, of which two are to go."""
    weight = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    known = statistics(method, 8)
    return {**known, "weight": weight, "index": torch.arange(8).reshape(4, 2), "count": 2, "share": 0.5, "watcher": Silent()}


@pytest.mark.parametrize("method", of("solver"))
def test_a_solver_for_units_removes_as_many_as_asked_and_repeats(method):
    if not set(UNITS) & set(method.card.structures):
        pytest.skip("solves for single weights")
    (first, keep), (again, kept) = (method(_solver_given(method), catalogue.fill(method.card, {})) for _ in range(2))
    assert torch.equal(first, again) and torch.equal(keep, kept)
    assert first.shape == (5, 8) and torch.isfinite(first).all() and keep.dtype == torch.bool and int(keep.sum()) == 2


@pytest.mark.parametrize("method", of("score"))
def test_a_score_is_finite_has_the_weights_shape_and_repeats(method):
    if "unstructured" in method.card.structures:
        weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
        first, again = (_scored(method, weight) for _ in range(2))
        assert first.shape == (4, 6) and torch.isfinite(first).all()
        assert torch.equal(first, again)
    if "unstructured" not in method.card.structures and {*UNITS, "width"} & set(method.card.structures):
        for entries in (1, 3) if {"heads", "width"} & set(method.card.structures) else (1,):
            first, again = (_scored_units(method, entries) for _ in range(2))
            assert first.shape == (4,) and torch.isfinite(first).all()
            assert torch.equal(first, again)
    if "experts" in method.card.structures and "unstructured" not in method.card.structures:
        given = have(None, (4,), torch.Generator().manual_seed(2), statistics(method, 6)) | _routers(method)
        first, again = (method(given, catalogue.fill(method.card, {})) for _ in range(2))
        assert first.shape == (4,) and torch.isfinite(first).all()
        assert torch.equal(first, again) and first.argmin() == 3  # what no token visits, or no second model has otherwise
    if "blocks" in method.card.structures:
        assert np.isfinite(float(method(have(None, (), torch.Generator().manual_seed(2), statistics(method, 6)))))


def _seconds(method) -> list[str]:
    return [param.name for param in method.card.params if param.grammar == "model"]


def _routers(method) -> dict[str, torch.Tensor]:
    """Rows of a router of four experts; those of second models are others, but for the last expert."""
    rows = torch.randn(4, 6, generator=torch.Generator().manual_seed(4))
    others = torch.cat((2 * rows[:3], rows[3:]))
    return {"router": rows} | {f"{name}_router": others for name in _seconds(method)}


@pytest.mark.parametrize("method", of("score"))
def test_a_score_leaves_the_weight_as_it_was(method):
    if "unstructured" not in method.card.structures:
        pytest.skip("scores whole blocks or units")
    weight = torch.randn(4, 6)
    before = weight.clone()
    method(have(weight, (4, 6), torch.Generator(), statistics(method, 6)))
    assert torch.equal(weight, before)


def _evidence(sizes: dict[str, int], shapes: dict[str, tuple[int, ...]]) -> dict:
    """All that an allocator may name, for layers of these sizes: random weights, the third layer's larger than the first's, convex curves."""
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.rand(shape, generator=generator).flatten(1) * (i + 1) for i, (name, shape) in enumerate(shapes.items())
    }
    norms = {name: torch.rand(weight.shape[1], generator=generator) + 0.1 for name, weight in weights.items()}
    levels = [level / 10 for level in range(11)]
    return {
        "sizes": sizes, "shapes": shapes, "weights": weights.__getitem__, "scores": lambda name: weights[name].flatten(),
        "blocks": {"a": "blocks.0", "b": "blocks.0", "c": "blocks.1"}, "statistics": lambda name: {"input_norm": norms[name]},
        "influence": {"blocks.0": 0.4, "blocks.1": 0.1, "blocks.2": 0.2}, "angle": {"blocks.0": 0.3, "blocks.1": 0.1, "blocks.2": 0.2},
        "curves": {name: {x: x ** (i + 1) for x in levels} for i, name in enumerate(sizes)},
        "prices": {name: Price.linear(size, 1.0) for name, size in sizes.items()}, "watcher": Silent(), "sequences": 4,
        "fitness": lambda shares, sequences: sum((i + 1) * shares[name] ** 2 for i, name in enumerate(sizes)),
        "generator": torch.Generator().manual_seed(2),
    }  # fmt: skip


@pytest.mark.parametrize("method", of("allocator"))
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_an_allocation_meets_the_total_and_stays_between_0_and_1(method, sparsity):
    shapes = {"a": (20, 30), "b": (40, 30), "c": (10, 4, 5)}
    sizes = {"a": 600, "b": 1200, "c": 200}
    shares = method({**_evidence(sizes, shapes), "sparsity": sparsity, "owed": round(sparsity * 2000)})
    assert shares.keys() == sizes.keys()
    assert all(0 <= share <= 1 for share in shares.values())
    reached = sum(round(shares[n] * sizes[n]) for n in sizes)
    if sparsity < 1:
        assert reached == pytest.approx(sparsity * 2000, abs=1 if method.card.name == "uniform" else 0)
    assert reached >= 0.9 * sparsity * 2000  # a floor of kept weights may forbid all of them


def _search_given(units: tuple[str, ...], count: int) -> dict:
    """A model of six units of unlike sizes, whose losses are a table: units gone cost their own price, and more beside each other."""
    sizes = {f"blocks.{i // 2}.{('attention', 'mlp')[i % 2]}": (100, 250)[i % 2] for i in range(6)}
    place = {name: i for i, name in enumerate(sizes)}

    def evaluate(removed: frozenset[str]) -> float:
        gone = sorted(place[name] for name in removed)
        return sum((5, 2, 4, 1, 3, 6)[i] for i in gone) + sum(b - a == 1 for a, b in pairwise(gone))

    def evaluate_each(removed, candidates):
        yield from ((name, evaluate(removed | {name})) for name in sizes if name in set(candidates))

    def errors(sets):
        return [evaluate(removed) for removed in sets]

    states = torch.randn(7, 4, 8, generator=torch.Generator().manual_seed(0))
    return {"errors": errors, "units": units, "sizes": sizes, "count": count, "share": count / 6, "evaluate": evaluate, "evaluate_each": evaluate_each,
            "last_states": lambda: states, "generator": torch.Generator().manual_seed(2), "watcher": Silent()}  # fmt: skip


@pytest.mark.parametrize("method", of("search"))
@pytest.mark.parametrize("count", [1, 3, 5])
def test_a_search_names_units_that_may_go_each_once(method, count):
    every = tuple(_search_given((), count)["sizes"])
    for units in (every, every[1:]):
        given = _search_given(units, count)
        found, again = (list(method(given, catalogue.fill(method.card, {}))) for _ in range(2))
        assert found == again and found and set(found) <= set(units) and len(set(found)) == len(found) < 6
        if {"blocks", "experts"} & set(method.card.structures):
            assert len(found) == min(count, len(units))


def _course(shapes: dict[str, tuple[int, ...]], count: int) -> dict:
    """A model whose loss is what its masked entries are worth, a few hundredths of a nat each, more in some of the four sequences than in others."""
    worth = {
        name: torch.arange(torch.Size(shape).numel()).add(3).remainder(7).add(1.0).div(50).reshape(shape)
        for name, shape in shapes.items()
    }
    kept = []

    def loss(masks, rows=None):
        rows = list(range(4)) if rows is None else rows
        lost = sum(((1 - mask) * worth[name]).sum() * (1 + 0.1 * row) for name, mask in masks.items() for row in rows)
        return lost / len(rows) if torch.is_tensor(lost) and lost.requires_grad else float(lost / len(rows))

    def backward(masks, ids):
        lost = loss(masks, ids[:, 0].tolist())
        lost.backward()
        return float(lost.detach())

    def decide(scores, part=1.0):
        return {name: keep_highest(value.detach(), round(part * count)) for name, value in scores.items()}

    return {"shapes": shapes, "targets": tuple(((name,), count) for name in shapes), "ids": torch.arange(4)[:, None],
            "draw": lambda size: torch.arange(size)[:, None] % 4, "loss": loss, "backward": backward, "decide": decide,
            "weights": lambda: [], "scores": lambda criterion: worth, "activity": lambda masks: worth,
            "note": lambda done, total, value: kept.append((done, total, value)), "generator": torch.Generator().manual_seed(2),
            "watcher": Silent()}  # fmt: skip


@pytest.mark.parametrize("method", of("learned"))
@pytest.mark.parametrize("count", [1, 3])
def test_a_learned_score_has_the_shapes_asked_for_and_repeats(method, count):
    units = set(method.card.structures) <= set(UNITS)
    shapes = {"a": (6,), "b": (6,)} if units else {"a": (2, 6), "b": (3, 4)}
    params = catalogue.fill(method.card, {"weight_rate": 0.0} if any(p.name == "weight_rate" for p in method.card.params) else {})
    first, again = (method(_course(shapes, count), params) for _ in range(2))
    assert {name: tuple(value.shape) for name, value in first.items()} == shapes
    assert all(torch.isfinite(first[name]).all() and torch.equal(first[name], again[name]) for name in shapes)
    worst = {name: keep_highest(value.detach(), count) for name, value in first.items()}
    worth = _course(shapes, count)["activity"]({})
    for name in shapes:  # what it gives up is worth no more than average
        assert float(worth[name][~worst[name]].mean()) <= float(worth[name].mean())


@pytest.mark.parametrize("method", of("selector"))
@pytest.mark.parametrize("count", [1, 7, 20])
def test_a_selector_keeps_exactly_as_many_as_asked(method, count):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((20, 3)).astype(np.float32)
    given = {"count": count, "rows": 20, "scores": rng.random(20), "vectors": vectors, "clusters": np.arange(20) % 4,
             "centroids": unit(vectors[:4]), "labels": np.arange(20) % 2, "generator": np.random.default_rng(1)}  # fmt: skip
    kept = method(given)
    assert kept.dtype == bool and kept.shape == (20,) and kept.sum() == count


@pytest.fixture(scope="module")
def language_model():
    from core.model.loading import load

    return load("builtin:tiny-llama")


@pytest.fixture(scope="module")
def target_file(tmp_path_factory):
    """Six rows like every third of the rows below."""
    file = tmp_path_factory.mktemp("target") / "target.jsonl"
    file.write_text("".join(json.dumps({"text": f"the red fox number {i}", "v": [1.0, i / 9, 0.2]}) + "\n" for i in range(6)))
    return str(file)


@pytest.mark.parametrize("method", of("data_score"))
def test_a_data_score_is_one_finite_number_a_row_and_repeats(method, language_model, target_file, tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNARIUM_CACHE", str(tmp_path))
    vectors = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
    texts = [f"{('the red fox', 'a blue whale', 'some green frogs')[i % 3]} number {i}" for i in range(20)]
    frame = pd.DataFrame({"row": np.arange(20) + 5, "text": texts, "v": list(vectors), "worth": np.arange(20) % 7 / 7})
    dataset = Dataset("twenty", frame, texts, None, np.arange(20) % 2, ("a", "b"))
    beside = Beside(None, Embedding(source="column:v"), language_model, Silent())
    given = {param.name: target_file for param in method.card.params if param.grammar == "data"}
    params = catalogue.fill(method.card, given)
    clusters = spherical_kmeans(vectors, 4, 0)
    first, again = (method(Evidence(dataset, vectors, clusters, 0, "x", method, params, beside), params) for _ in range(2))
    assert first.shape == (20,) and first.dtype == np.float32 and np.isfinite(first).all()
    assert np.array_equal(first, again)
    if method.card.decides:
        assert 1 <= (first >= 0).sum() <= 20


def test_a_score_and_a_selector_that_name_the_same_parameter_mean_the_same():
    """A selection has one set of parameters for both."""
    shapes = {
        kind: {(p.name, p.type, p.choices, p.low, p.high) for m in BY_KIND[kind] for p in m.card.params if p.grammar != "data"}
        for kind in ("data_score", "selector")
    }
    shared = {shape[0] for shape in shapes["data_score"]} & {shape[0] for shape in shapes["selector"]}
    assert {
        name for name in shared if len({shape for both in shapes.values() for shape in both if shape[0] == name}) > 1
    } == set()


def test_the_catalogue_file_is_fresh():
    assert catalogue.FILE.read_text(encoding="utf-8") == catalogue.to_json(cards()), "run: python -m core.catalogue write"


def test_every_need_is_a_registered_statistic():
    for method in BY_KIND["score"] + BY_KIND["allocator"]:
        assert all(need in NO_STATISTIC or ("statistic", need) in METHODS for need in method.needs), method.card.name


def test_a_stranger_finds_a_method_of_their_own_in_the_catalogue(tmp_path, monkeypatch):
    own = '''
from typing import Annotated
from core.method import Param, score

@score("cubed", label="Cubed")
def cubed(weight, *, power: Annotated[float, Param("Power", 1.0, 5.0)] = 3.0):
    """Keep weights whose cube is large."""
    return weight.abs() ** power
'''
    (tmp_path / "cubed.py").write_text(own)
    (tmp_path / "broken.py").write_text("import nothing_of_that_name")
    monkeypatch.setenv("PRUNARIUM_METHODS", str(tmp_path))
    try:
        found = {card.name: card for card in cards()}
        assert found["cubed"].params[0].high == 5.0
        assert "nothing_of_that_name" in found["broken"].problem
    finally:
        METHODS.pop(("score", "cubed"))


def test_every_method_function_takes_only_what_its_kind_can_give():
    offered = {
        "score": {"weight", "shape", "generator", "statistics", "out_of", "into", "router", "parts"}
        | {n for kind, n in METHODS if kind == "statistic"},
        "solver": {"weight", "share", "pattern", "watcher", "index", "count"} | {n for kind, n in METHODS if kind == "statistic"},
        "allocator": {"sizes", "sparsity", "scores", "shapes", "blocks", "weights", "statistics", "influence", "angle", "curves"}
        | {"prices", "owed", "fitness", "sequences", "generator", "watcher"},
        "search": {
            "units",
            "sizes",
            "count",
            "share",
            "evaluate",
            "evaluate_each",
            "last_states",
            "errors",
            "generator",
            "watcher",
        },
        "learned": set(_course({"a": (4,)}, 1)),
        "transform": {"loaded", "share", "units", "inputs", "generator", "watcher"},
        "recovery": {"model", "batches", "masks", "steps", "learning_rate", "watcher"},
        "embedding": {"images", "texts", "dataset", "frame", "argument", "loaded", "watcher", "seed", "start"},
        "data_score": EVIDENCE,
        "selector": EVIDENCE | {"scores", "count"},
    }
    for (kind, name), method in METHODS.items():
        if kind in offered:
            more = {f"{second}_{what}" for second in _seconds(method) for what in ("router", "model")}
            more |= {f"{param.name}_rows" for param in method.card.params if param.grammar == "data"}
            asked = {p.name for p in inspect.signature(method.function).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD}
            assert asked <= offered[kind] | more, f"{kind} {name} asks for {asked - offered[kind]}"
