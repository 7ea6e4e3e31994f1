"""What models are compared by: divergence token by token, corrupted images, geometry of features, and the figure while a step prunes."""

import math

import numpy as np
import pytest
import torch

from core.data.corruptions import KINDS, corrupted
from core.events import Progress, Silent
from core.model.loading import load
from core.model.measuring import comparing, measure, running
from core.recipe import Measure, Perplexity, Prune


@pytest.fixture(scope="module")
def llama():
    return load("builtin:tiny-llama")


def test_a_model_does_not_diverge_from_itself_and_diverges_once_it_is_changed(llama):
    texts = comparing.written(llama, measure.continued(llama, ["The city was founded in"], 12))
    told = comparing.divergence(llama, texts)[0]
    assert len(told["tokens"]) == len(told["kl"]) == 12
    assert "".join(told["tokens"]) == measure.generate(llama, ["The city was founded in"], 12)[0]
    assert max(told["kl"]) < 1e-5 and told["dense"] == told["pruned"]
    weight = llama.model.model.layers[0].mlp.down_proj.weight
    before = weight.data.clone()
    weight.data.zero_()
    try:
        other = comparing.divergence(llama, texts)[0]
    finally:
        weight.data.copy_(before)
    with torch.no_grad():
        logits = llama.model(input_ids=texts[0].ids).logits[0, texts[0].start - 1].log_softmax(-1)
    assert told["dense"][0] == pytest.approx(float(logits[texts[0].ids[0, texts[0].start]].exp()), abs=1e-4)
    assert max(other["kl"]) > 0.1 and other["dense"] == told["dense"] and other["tokens"] == told["tokens"]


@pytest.mark.quick
@pytest.mark.parametrize("kind", KINDS)
def test_a_corruption_is_the_same_each_time_and_worse_at_each_severity(kind):
    images = np.zeros((4, 28, 28), np.float32)
    images[:, 8:20, 12:16] = 1.0
    distances = [float(np.abs(corrupted(images, kind, severity) - images).mean()) for severity in (1, 3, 5)]
    assert 0 < distances[0] < distances[1] < distances[2]
    again = corrupted(images, kind, 3)
    assert (
        np.array_equal(again, corrupted(images, kind, 3)) and again.min() >= 0 and again.max() <= 1 and again.dtype == np.float32
    )


@pytest.mark.quick
def test_the_margin_is_the_distance_to_the_nearest_border_by_hand():
    """Two features, three classes along e1, e2 and -e1; a point at (2, 1) of class 0: 1/sqrt(2) from the border with e2, 2 from that with -e1."""
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    features, labels = torch.tensor([[2.0, 1.0], [2.0, 1.0]]), torch.tensor([0, 1])
    margins = comparing._margins(features @ weight.T, weight, labels)
    assert margins.tolist() == pytest.approx([1 / math.sqrt(2), -1 / math.sqrt(2)])


@pytest.mark.parametrize("name", ["tiny-cnn", "tiny-vit"])
def test_a_classifier_is_robust_and_posed_as_measured_and_turns_once_it_is_changed(name):
    loaded = load(f"builtin:{name}")
    noise = {"samples": 60, "kinds": ["noise"], "severities": [1, 5]}
    asked = Measure.model_validate({"accuracy": {"samples": 60}, "corruptions": noise, "geometry": {"samples": 60}})
    prepared = measure.prepare(loaded, asked)
    dense = measure.metrics(loaded, prepared, Silent(), "dense")
    assert dense.corruptions["clean"] == dense.accuracy > 0.9
    assert dense.corruptions["noise"]["5"] < dense.corruptions["noise"]["1"] <= 1.0
    assert "turned" not in dense.geometry and dense.geometry["margin"]["at"][2] > 0
    again = measure.metrics(loaded, prepared, Silent(), "pruned")
    assert again.geometry["turned"]["at"][-1] < 0.1 and again.right == dense.right
    head = comparing.last_linear(loaded)
    layer = next(
        part for part in loaded.model.modules() if isinstance(part, (torch.nn.Conv2d, torch.nn.Linear)) and part is not head
    )
    layer.weight.data.mul_(torch.rand_like(layer.weight) > 0.6)
    assert measure.metrics(loaded, prepared, Silent(), "pruned").geometry["turned"]["at"][2] > 1.0


def test_quality_is_told_while_a_step_prunes_and_never_where_it_would_not_be_true(llama):
    asked = Measure(perplexity=Perplexity(source="builtin:wikitext2/valid", samples=2, tokens=32))
    prepared, heard = measure.prepare(llama, asked), Silent()
    watcher = running.telling(heard, llama, Prune(method="wanda", sparsity=0.5), prepared)
    watcher.say(Progress("prune: wanda", 0, 2))
    watcher.say(Progress("calibration", 1, 2))
    assert [set(told.values) for told in heard.heard] == [{"running_perplexity"}, set()]
    assert heard.heard[0].values["running_perplexity"] == pytest.approx(
        measure.perplexity(llama, prepared.sequences, Silent()), rel=1e-4
    )
    cut = running.telling(heard, llama, Prune(method="flap", structure="neurons", sparsity=0.5), prepared)
    assert cut is heard
