"""Channels against plain references: whole-model forwards, loops over single channels, the weights named by hand."""

from __future__ import annotations

import copy
import statistics

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from core.catalogue import load as cards
from core.catalogue import resolve
from core.errors import ModelError, RecipeError, Stopped
from core.events import Silent
from core.model.depth.gone import KEY
from core.model.files import export
from core.model.loading import from_module, load
from core.model.pruning.step import prune
from core.model.units.channels import channel_groups
from core.model.width.rehearse import rehearse_together
from core.recipe import parse
from tests.families import build, inputs
from tests.model_folders import edit_config, tiny

PIXELS = torch.randn(5, 1, 32, 32, generator=torch.Generator().manual_seed(2))
STEM = "resnet.embedder.embedder.convolution"
STAGE = "resnet.encoder.stages.{}.layers.{}.{}.convolution"
# the groups of tests.model_folders' ResNet, by hand: {name: (layers that make the channels, layers that read them)}
STREAM_0 = ([STEM, STAGE.format(0, 0, "layer.1"), STAGE.format(0, 1, "layer.1")],
            [STAGE.format(0, 0, "layer.0"), STAGE.format(0, 1, "layer.0"), STAGE.format(1, 0, "shortcut"), STAGE.format(1, 0, "layer.0")])  # fmt: skip
STREAM_1 = ([STAGE.format(1, 0, "shortcut"), STAGE.format(1, 0, "layer.1"), STAGE.format(1, 1, "layer.1")],
            [STAGE.format(1, 1, "layer.0"), "classifier.1"])  # fmt: skip
GROUPS = {"stream.0": STREAM_0, "stream.1": STREAM_1} | {
    f"blocks.{2 * stage + layer}.layer.0.convolution": (
        [STAGE.format(stage, layer, "layer.0")],
        [STAGE.format(stage, layer, "layer.1")],
    )
    for stage in (0, 1)
    for layer in (0, 1)
}


def recipe(**fields):
    return parse({"recipe": 1, "name": "x", "model": {"source": "x"}, "steps": [{"prune": {"structure": "channels", **fields}}]})


def run(model, calibration=PIXELS, watcher=None, seed=0, **fields):
    step = recipe(**fields).steps[0].prune
    return prune(from_module(model, "tiny"), step, lambda: calibration, seed, watcher or Silent())


def resnet(**changes):
    """A tiny ResNet whose every number is random: its norms would otherwise hide what is cut wrongly."""
    model = tiny("resnet", **changes)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.add_((0.5 if "running_var" in name else 0.1) * torch.rand(tensor.shape, generator=generator))
    return model


def outputs(model, given=PIXELS) -> torch.Tensor:
    with torch.no_grad():
        return model(given).logits


def gone(done) -> dict[str, list[int]]:
    return {entry.group.name: (~entry.keep).nonzero().flatten().tolist() for entry in done.cuts}


def patches(model, path: str) -> torch.Tensor:
    """What a layer reads, as (images, channels, places of the kernel, positions), double."""
    seen, layer = [], model.get_submodule(path)
    handle = layer.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    outputs(model)
    handle.remove()
    if isinstance(layer, nn.Linear):
        return seen[0].double()[:, :, None, None]
    found = F.unfold(seen[0], layer.kernel_size, layer.dilation, layer.padding, layer.stride).double()
    return found.unflatten(1, (seen[0].shape[1], -1))


def weight(model, path: str) -> torch.Tensor:
    """(out, in, places of the kernel), double."""
    found = model.get_submodule(path).weight.detach().double()
    return found.reshape(*found.shape[:2], -1)


def size(model, made, read, unit) -> float:
    return sum(float(weight(model, p)[unit].abs().sum()) for p in made) + sum(
        float(weight(model, p)[:, unit].abs().sum()) for p in read
    )


def wanda(model, made, read, unit) -> float:
    total = 0.0
    for path in {*made, *read}:
        norms = patches(model, path).square().sum((0, 3)).div(len(PIXELS)).sqrt()
        scored = weight(model, path).abs() * norms
        total += float(scored[unit].sum()) if path in made else 0.0
        total += float(scored[:, unit].sum()) if path in read else 0.0
    return total


def loudness(model, made, read, unit) -> float:
    return sum(float(patches(model, path)[:, unit].square().sum()) / len(PIXELS) for path in read) ** 0.5


def fluctuations(model, made, read, unit) -> list[float]:
    """One for each place of each layer that reads the channel."""
    found = []
    for path in read:
        seen, column = patches(model, path)[:, unit], weight(model, path)[:, unit]
        for place in range(seen.shape[1]):
            found.append(statistics.variance(seen[:, place].flatten().tolist()) * float(column[:, place].square().sum()))
    return found


def fluctuation(model, made, read, unit) -> float:
    return sum(fluctuations(model, made, read, unit))


@pytest.mark.quick
@pytest.mark.parametrize(
    ("method", "score", "params"),
    [("magnitude", size, {}), ("wanda", wanda, {}), ("activation", loudness, {}), ("flap", fluctuation, {"compensate": False})],
)
def test_the_channels_that_go_are_those_of_a_plain_reference_on_the_dense_model(method, score, params):
    model = resnet()
    expected = {}
    for name, (made, read) in GROUPS.items():
        units = model.get_submodule(made[0]).weight.shape[0]
        scores = [score(model, made, read, unit) for unit in range(units)]
        expected[name] = sorted(sorted(range(units), key=lambda unit: (scores[unit], unit))[: units // 4])
    assert gone(run(model, method=method, sparsity=0.25, params=params)) == expected


@pytest.mark.quick
def test_the_groups_are_those_that_the_architecture_says():
    found = {g.name: ([p.path for p in g.parts], [p.path for p in g.readers]) for g in channel_groups(from_module(resnet(), "x"))}
    assert {name: tuple(map(sorted, sides)) for name, sides in found.items()} == {
        name: tuple(map(sorted, sides)) for name, sides in GROUPS.items()
    }


@pytest.mark.quick
def test_a_global_ranking_takes_the_lowest_channels_wherever_they_are_by_flap():
    model = resnet()
    ranked = []
    for name, (made, read) in GROUPS.items():
        raw = [fluctuations(model, made, read, unit) for unit in range(model.get_submodule(made[0]).weight.shape[0])]
        entries = [value for each in raw for value in each]
        mean, spread = statistics.mean(entries), statistics.pstdev(entries)
        ranked += [((statistics.mean(each) - mean) / spread, name) for each in raw]
    lost = [name for _, name in sorted(ranked)[: len(ranked) // 4]]
    fields = {"allocation": {"method": "global", "params": {"floor": 0.0}}, "params": {"compensate": False}}
    done = gone(run(model, method="flap", sparsity=0.25, **fields))
    assert {name: len(units) for name, units in done.items()} == {name: lost.count(name) for name in GROUPS}


@pytest.mark.quick
@pytest.mark.parametrize("sparsity", [0.25, 0.5])
@pytest.mark.parametrize("family", ["ResNet", "MobileNetV2", "ConvNeXt"])
def test_without_channels_a_model_says_what_it_said_with_zeros_in_their_place_and_so_does_the_saved_one(
    family, sparsity, tmp_path
):
    model = resnet() if family == "ResNet" else build(family)
    given = PIXELS if family == "ResNet" else inputs(model)
    zeroed, groups = copy.deepcopy(model), {group.name: group for group in channel_groups(from_module(model, "x"))}
    done = run(model, calibration=given, method="random", sparsity=sparsity)
    with torch.no_grad():
        for name, units in gone(done).items():
            assert len(units) == round(sparsity * groups[name].units) and units
            for part in groups[name].readers:
                zeroed.get_submodule(part.path).weight[:, part.index[units].flatten()] = 0
    expected = outputs(zeroed, given)
    assert (outputs(model, given) - expected).abs().max() <= 1e-5 * expected.abs().max().clamp_min(1)
    said = export.save(done.loaded, tmp_path / "model")
    dense = sum(t.numel() * t.itemsize for t in zeroed.state_dict().values())
    assert said["size_bytes"] < (1 - sparsity / 2) * dense and said["difference"] <= 1e-5
    assert torch.equal(outputs(load(str(tmp_path / "model")).model, given), outputs(model, given))
    if family == "ResNet":  # streams and insides are alike again, so its own config says it
        plain = type(model).from_pretrained(tmp_path / "model")
        assert not hasattr(plain.config, KEY) and torch.equal(outputs(plain.eval(), given), outputs(model, given))
        assert plain.config.hidden_sizes == [round(8 * (1 - sparsity)), round(16 * (1 - sparsity))]
    else:
        with pytest.raises(RuntimeError, match="mismatch"):
            type(model).from_pretrained(tmp_path / "model")


@pytest.mark.quick
def test_a_second_cut_starts_from_the_first(tmp_path):
    model = resnet()
    run(model, method="magnitude", sparsity=0.25, only=("blocks.1",))
    assert model.config.prunarium["widths"][STAGE.format(0, 1, "layer.1")] == [8, 6]
    again = run(model, method="wanda", sparsity=0.5, allocation="global", protect=("blocks.3",))
    export.save(again.loaded, tmp_path / "model")
    assert torch.equal(outputs(load(str(tmp_path / "model")).model), outputs(model))


@pytest.mark.quick
@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        ({"only": ("blocks.1",)}, ["blocks.1.layer.0.convolution"]),
        ({"only": ("stream.1",)}, ["stream.1"]),
        ({"protect": ("stream.*", "blocks.0", "blocks.2")}, ["blocks.1.layer.0.convolution", "blocks.3.layer.0.convolution"]),
        # a stream goes through these blocks, so it may not change where one of them is protected
        ({"protect": ("blocks.3", "blocks.1", STAGE.format(0, 0, "layer.0"))}, ["blocks.2.layer.0.convolution"]),
    ],
)
def test_only_and_protect_choose_groups_and_a_block_that_is_protected_protects_the_stream_through_it(chosen, names):
    before = resnet()
    done = run(model := copy.deepcopy(before), method="magnitude", sparsity=0.5, **chosen)
    assert list(gone(done)) == names
    if "only" in chosen and "blocks.1" in chosen["only"]:
        changed = [n for n, t in model.state_dict().items() if t.shape != before.state_dict()[n].shape]
        assert {name.rpartition("stages.0.layers.1.layer.")[2].partition(".")[0] for name in changed} == {"0", "1"}


@pytest.mark.quick
def test_flap_leaves_the_mean_of_what_went_in_the_layers_that_read_it_and_the_saved_model_has_those_biases(tmp_path):
    model = resnet()
    path = STAGE.format(0, 1, "layer.1")
    seen = {}

    def mean(of) -> torch.Tensor:
        handle = of.get_submodule(path).register_forward_hook(lambda module, args, out: seen.update(out=out.detach()))
        outputs(of)
        handle.remove()
        return seen["out"].mean((0, 2, 3))

    before, plain = mean(model), copy.deepcopy(model)
    shares = {"method": "by_hand", "shares": {"blocks.1": 0.5}}
    done = run(model, method="flap", allocation=shares)
    run(plain, method="flap", allocation=shares, params={"compensate": False})
    torch.testing.assert_close(mean(model), before, atol=1e-5, rtol=1e-5)
    assert (mean(plain) - before).abs().max() > 1e-3
    export.save(done.loaded, tmp_path / "model")
    assert torch.equal(outputs(load(str(tmp_path / "model")).model), outputs(model))


@pytest.mark.quick
def test_a_depthwise_convolution_scores_each_channel_by_its_own_inputs():
    model = build("MobileNetV2")
    given, path = inputs(model), "mobilenet_v2.layer.3."
    made, read = [f"{path}expand_1x1.convolution", f"{path}conv_3x3.convolution"], f"{path}reduce_1x1.convolution"
    seen = {}
    for name in (*made, read):
        model.get_submodule(name).register_forward_pre_hook(lambda module, args, name=name: seen.update({name: args[0].detach()}))
    outputs(model, given)
    expected = torch.zeros(48, dtype=torch.float64)
    for name in (*made, read):
        layer = model.get_submodule(name)
        found = F.unfold(seen[name], layer.kernel_size, 1, layer.padding, layer.stride).double()
        norms = found.square().sum((0, 2)).div(len(given)).sqrt().reshape(seen[name].shape[1], -1)
        for unit in range(48):
            if name == read:
                expected[unit] += float((weight(model, name)[:, unit].abs() * norms[unit]).sum())
            elif layer.groups > 1:
                expected[unit] += float((weight(model, name)[unit, 0].abs() * norms[unit]).sum())
            else:
                expected[unit] += float((weight(model, name)[unit].abs() * norms).sum())
    done = run(copy.deepcopy(model), calibration=given, method="wanda", sparsity=0.25, only=("blocks.3.*",))
    torch.testing.assert_close(done.scores["blocks.3.expand_1x1.convolution.channels"], expected.float())


class Body(nn.Module):
    """Two convolutions side by side (neither's channels are an axis of their own), then one whose channels go on alone."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(1, 4, 3, padding=1)
        self.middle, self.norm, self.last = nn.Conv2d(8, 6, 3), nn.GroupNorm(2, 6), nn.Conv2d(6, 5, 1)
        self.head = nn.Linear(5 * 4, 3)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        joined = torch.cat((self.left(pixels), self.right(pixels)), 1)
        return self.head(F.adaptive_avg_pool2d(self.last(self.norm(self.middle(joined))), 2).flatten(1))


@pytest.mark.quick
def test_what_is_joined_or_normed_together_stays_and_a_flattened_channel_takes_all_its_places():
    model = resnet()
    model.forward = lambda given: model.body(given)
    model.body = Body()
    found = [group for group in channel_groups(from_module(model, "x")) if group.parts[0].path.startswith("body")]
    assert [(group.parts[0].path, group.units) for group in found] == [("body.last", 5)]
    assert found[0].reader.index.tolist() == [[4 * unit + place for place in range(4)] for unit in range(5)]


@pytest.mark.quick
def test_swin_s_neurons_go_though_its_width_changes_from_stage_to_stage(tmp_path):
    model = build("Swin")
    given = inputs(model)
    layer = model.swin.encoder.layers[1].blocks[0].mlp.fc2
    seen = {}
    layer.register_forward_pre_hook(lambda module, args: seen.update(x=args[0].detach()))
    outputs(model, given)
    loud = seen["x"].double().square().flatten(0, -2).sum(0)
    step = parse({"recipe": 1, "name": "x", "model": {"source": "x"}, "steps": [{"prune": {"method": "activation", "structure": "neurons",
                  "sparsity": 0.25}}]}).steps[0].prune  # fmt: skip
    done = prune(from_module(model, "x"), step, lambda: given, 0, Silent())
    assert gone(done)["blocks.2.mlp"] == sorted(loud.argsort(stable=True)[:32].tolist())
    export.save(done.loaded, tmp_path / "model")
    assert torch.equal(outputs(load(str(tmp_path / "model")).model, given), outputs(model, given))


@pytest.mark.quick
@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"sparsity": 1.0}, RecipeError, "takes all 8 channels of stream.0"),
        ({"sparsity": 0.95}, RecipeError, "takes all 8 channels"),
        ({"allocation": {"method": "by_hand", "shares": {"blocks.1.layer.0.convolution": 1.0}}}, RecipeError, "takes all 8 channels of blocks.1"),
        ({"allocation": {"method": "by_hand", "shares": {"blocks.9": 0.5}}}, RecipeError, "'blocks.9'"),
        ({"sparsity": 0.5, "only": ("blocks.9",)}, RecipeError, "'blocks.9'"),
        ({"sparsity": 0.5, "protect": ("*",)}, RecipeError, "no channels to remove"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_before_any_weight_has_changed(fields, error, says):
    model = resnet()
    before, flags = copy.deepcopy(model.state_dict()), [parameter.requires_grad for parameter in model.parameters()]
    for method in ("magnitude", "wanda"):
        with pytest.raises(error) as caught:
            run(model, method=method, **fields)
        assert says in str(caught.value) and caught.value.remedy
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [parameter.requires_grad for parameter in model.parameters()] == flags and not hasattr(model.config, KEY)


@pytest.mark.quick
@pytest.mark.parametrize(("name", "says"), [("llama", "takes no image"), ("vit", "no convolutions"), ("bert", "takes no image")])
def test_a_model_without_channels_says_so(name, says):
    with pytest.raises(ModelError, match=says) as caught:
        run(tiny(name), method="magnitude", sparsity=0.5)
    assert caught.value.remedy


@pytest.mark.quick
def test_scores_that_are_no_numbers_a_stop_and_a_method_that_does_not_score_channels_are_told():
    model = resnet()
    model.get_submodule(STAGE.format(0, 0, "layer.0")).weight.data[0, 0] = float("nan")
    with pytest.raises(ModelError, match="not all numbers"):
        run(model, method="magnitude", sparsity=0.5)
    with pytest.raises(Stopped):
        run(resnet(), watcher=Silent(stop=True), method="flap", sparsity=0.5)
    with pytest.raises(RecipeError, match="cfsp does not work on"):
        resolve(recipe(method="cfsp", sparsity=0.5), cards())


@pytest.mark.quick
def test_a_coupling_that_was_missed_is_seen_on_a_copy():
    """Were one layer that writes a stream left out, the model would not run, or say something else."""
    loaded = from_module(resnet(), "x")
    stream = channel_groups(loaded)[0]
    broken = type(stream)(**{**vars(stream), "parts": stream.parts[1:]})
    before = copy.deepcopy(loaded.model.state_dict())
    with pytest.raises(ModelError, match="cannot do without one of its channels"):
        rehearse_together(loaded, [broken])
    wrong = stream.beside[0]
    shifted = type(stream)(**{**vars(stream), "beside": (type(wrong)(wrong.path, 0, wrong.index.roll(1, 0)), *stream.beside[1:])})
    with pytest.raises(ModelError, match="what it says changes"):
        rehearse_together(loaded, [shifted])
    assert all(torch.equal(before[name], value) for name, value in loaded.model.state_dict().items())


@pytest.mark.quick
def test_what_the_library_cannot_follow_is_told(monkeypatch):
    model = resnet()
    monkeypatch.setattr(type(model), "forward", lambda self, pixels: 1 / 0)
    with pytest.raises(ModelError, match="torch-pruning fails with ZeroDivisionError") as caught:
        channel_groups(from_module(model, "x"))
    assert caught.value.remedy and all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.quick
@pytest.mark.parametrize(
    ("widths", "says"),
    [
        ({STEM: [4, 1]}, "layers do not fit together"),
        ({STEM: [9, 1]}, "cannot be 9 by 1"),
        ({STEM: [4]}, "not two whole numbers"),
        ({"resnet.embedder.embedder.normalization": [4, 4]}, "not one whole number"),
        ({"resnet.embedder.embedder.normalization": [4]}, "layers do not fit together"),
        ({"resnet.nothing": [4, 4]}, "there is no layer"),
    ],
)
def test_widths_from_a_stranger_that_do_not_fit_end_in_one_sentence(widths, says, tmp_path):
    resnet().save_pretrained(tmp_path / "model")
    edit_config(tmp_path / "model", **{KEY: {"widths": widths, "biases": []}})
    with pytest.raises(ModelError, match=r"config\.json") as caught:
        load(str(tmp_path / "model"))
    assert says in str(caught.value) and caught.value.remedy
