"""The run of curves on the built-in language model: what it measures, that it leaves the weights alone, that it is found again."""

import pytest
import torch

from core.budget import CostCurves, estimate
from core.events import Progress, Silent
from core.model.inputs import text
from core.model.loading import load
from core.model.looking import curves
from core.model.looking import meter as meter_module
from core.model.looking.meter import Meter
from core.recipe import Curves

ASK = Curves(samples=2, tokens=128, together=4, levels=(0.6,))


class Notes(Silent):
    def __init__(self):
        self.said = []

    def say(self, progress: Progress) -> None:
        self.said.append(progress)


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    """(the model, its weights before, curves made in a cache of its own, curves asked for again, what was said then)."""
    loaded = load("builtin:tiny-llama")
    before = {name: weight.clone() for name, weight in loaded.model.state_dict().items()}
    ids = text.sequences("builtin:wikitext2/train", loaded.tokenizer, 4, 128, 0)
    notes = Notes()
    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("cache")
        patch.setattr(curves, "cache_dir", lambda: cache)
        found = curves.measure_curves(loaded, ASK, ids, 0, Silent())
        again = curves.measure_curves(loaded, ASK, ids, 0, notes)
        other = curves.kept_at(loaded, ASK, (ids[:2],), 0)
        assert len(list((cache / "curves").iterdir())) == 1 and not other.exists()
    return loaded, before, found, again, notes.said


def test_the_weights_are_put_back_to_the_bit(tried):
    loaded, before, *_ = tried
    assert all(torch.equal(before[name], weight) for name, weight in loaded.model.state_dict().items())


def test_the_same_model_and_settings_are_not_measured_twice(tried):
    *_, found, again, said = tried
    assert again["cost"] == {name: list(curve) for name, curve in found["cost"].items()}
    assert [note.text for note in said if note.kind == "note"] == [
        "These curves were measured before, with the same model and settings, and are used again."
    ]


def test_every_layer_has_a_rising_curve_and_every_group_was_tried_alone(tried):
    loaded, _, found, *_ = tried
    assert list(found["cost"]) == [layer.name for layer in loaded.anatomy.layers]
    for curve in found["cost"].values():
        assert len(curve) == len(found["levels"]) and curve[0] == 0 and list(curve) == sorted(curve)
    told = found["measured"]
    assert (len(told["alone"]), len(told["roles"]), len(told["together"])) == (12, 7, 4)
    assert {len(probe["shares"]) for probe in told["alone"]} == {4, 3}  # four projections of attention, three of the MLP
    assert all(0 <= error <= 1 for curve in told["errors"].values() for error in curve)


def test_groups_that_diverge_more_alone_are_predicted_to_cost_more(tried):
    _, _, found, *_ = tried
    known = CostCurves(
        tuple(found["levels"]), {k: tuple(v) for k, v in found["cost"].items()}, found["dense"], power=found["power"]
    )
    dear = sorted((probe for probe in found["measured"]["alone"] if probe["cost"] > 0.01), key=lambda probe: probe["cost"])
    assert len(dear) > 4 and all(probe["cost"] > 0 for probe in found["measured"]["alone"])  # a divergence is never below 0
    said = [estimate(known, dict.fromkeys(known.cost, 1), probe["shares"]).quality for probe in dear]
    assert said == sorted(said) and said[0] > known.dense


def test_the_budgets_tried_meet_their_totals_and_repeat(tried):
    layers = tried[0].anatomy.layers
    budgets = curves.draw_budgets(layers, 6, 0)
    assert budgets == curves.draw_budgets(layers, 6, 0) != curves.draw_budgets(layers, 6, 1)
    sizes = {layer.name: layer.parameters for layer in layers}
    totals = [sum(shares[name] * size for name, size in sizes.items()) / sum(sizes.values()) for shares in budgets]
    assert totals == pytest.approx([0.2 + 0.4 * (place + 0.5) / 6 for place in range(6)], abs=1e-3)
    assert len(set(budgets[0].values())) == 1 and len(set(budgets[1].values())) == 6 and len(set(budgets[2].values())) > 30


def test_a_cache_that_cannot_be_written_loses_no_curves(tried, tmp_path, monkeypatch):
    loaded, _, found, *_ = tried
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(curves, "cache_dir", lambda: tmp_path / "file")  # a folder in a file: the disk refuses
    monkeypatch.setattr(curves, "measured_anew", lambda *asked: found)
    notes = Notes()
    ids = text.sequences("builtin:wikitext2/train", loaded.tokenizer, 1, 64, 0)
    assert curves.measure_curves(loaded, ASK, ids, 0, notes) is found
    assert any("could not be kept" in note.text for note in notes.said)


class _Answers:
    """A check of three batches of four predictions among eight answers, all of which `shift` moves."""

    batches, batch = 3, 1

    def __init__(self):
        self.logits, self.shift = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(1)), torch.zeros(8)

    def read(self, number):
        return (self.logits[number] + self.shift).log_softmax(-1), torch.tensor([0, 1, 2, 3])


def test_divergence_and_loss_are_read_together_and_equal_the_rule_written_out():
    check = _Answers()
    before = check.logits.log_softmax(-1)
    meter = Meter(check, Silent())
    right = torch.arange(4)
    assert meter.dense == pytest.approx(float(torch.exp(-before[:, range(4), right].double().mean())), rel=1e-6)
    assert meter.read(Silent(), True) == pytest.approx((0.0, 0.0, 0.0), abs=1e-7)
    check.shift = torch.arange(8) / 4
    after = (check.logits + check.shift).log_softmax(-1)
    change = (before - after)[:, range(4), right].double()
    far = float((before[0].exp() * (before[0] - after[0])).sum(-1).mean())  # of the first batch: one in six, at least one
    assert meter.read(Silent()) == pytest.approx((far,), rel=1e-5)
    assert meter.read(Silent(), True) == pytest.approx((far, float(change.mean()), float(change.std() / 12**0.5)), rel=1e-5)


def test_a_large_vocabulary_keeps_fewer_answers_evenly_spaced(monkeypatch):
    monkeypatch.setattr(meter_module, "MOST_KEPT", 17)  # two predictions of eight answers, where there are four
    check = _Answers()
    before = check.logits.log_softmax(-1)
    meter = Meter(check, Silent())
    assert meter.compared == 2 and sum(kept.numel() for kept in meter._answers) <= 17
    check.shift = torch.arange(8) / 4
    after = (check.logits + check.shift).log_softmax(-1)
    far = (before[0, ::2].exp() * (before[0, ::2] - after[0, ::2])).sum(-1).mean()
    assert meter.read(Silent())[0] == pytest.approx(float(far), rel=1e-5)


def test_each_block_has_its_share_of_outliers(tried):
    loaded, _, found, *_ = tried
    shares = found["measured"]["outliers"]
    assert list(shares) == [block.name for block in loaded.anatomy.blocks] and all(0 < share < 0.1 for share in shares.values())
