"""The width of the stream against plain references: whole-model forwards with hooks, tensors copied by hand into a model built narrower."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from core import folder
from core.catalogue import load as cards
from core.catalogue import resolve
from core.errors import ModelError, RecipeError
from core.events import Silent
from core.method import get
from core.model.files.export import save
from core.model.loading import from_module, load
from core.model.pruning.step import prune
from core.model.steps import run_model
from core.model.width import stream_width
from core.recipe import parse
from core.run import Clock
from tests.model_folders import tiny
from tests.tiny_models import VOCABULARY, llama, tokenizer

pytestmark = pytest.mark.quick
IDS = torch.randint(0, VOCABULARY, (11, 16), generator=torch.Generator().manual_seed(3))


def recipe(**fields):
    return parse({"recipe": 1, "name": "x", "model": {"source": "x"}, "steps": [{"prune": {"structure": "width", **fields}}]})


def run(model, calibration=IDS, **fields):
    return prune(from_module(model, "tiny"), recipe(**fields).steps[0].prune, lambda: calibration, 0, Silent())


def uneven(**changed):
    """A Llama whose channels differ: norms of many sizes."""
    model = llama(3, **changed)
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data = torch.rand(parameter.shape, generator=generator) * 3
    return model


def norm_outputs(model) -> list[torch.Tensor]:
    """What each norm before an attention or MLP says in one forward of the whole model, each (sequences, tokens, channels)."""
    seen, handles = [], []
    for block in model.model.layers:
        for norm in (block.input_layernorm, block.post_attention_layernorm):
            handles.append(norm.register_forward_hook(lambda module, args, out: seen.append(out.detach().double())))
    with torch.no_grad():
        model(IDS)
    for handle in handles:
        handle.remove()
    return seen


def plain_minitron(model) -> list[float]:
    scores, outputs = [], norm_outputs(model)
    for channel in range(model.config.hidden_size):
        total = 0.0
        for said in outputs:
            means = [float(sum(abs(float(value)) for value in sequence[:, channel])) / sequence.shape[0] for sequence in said]
            total += sum(mean * mean for mean in means) ** 0.5
        scores.append(total)
    return scores


def plain_activation(model) -> list[float]:
    outputs = norm_outputs(model)
    return [
        sum(float(said[:, :, channel].square().sum()) / len(IDS) for said in outputs) ** 0.5
        for channel in range(model.config.hidden_size)
    ]


def plain_magnitude(model) -> list[float]:
    scores = []
    for channel in range(model.config.hidden_size):
        total = 0.0
        for block in model.model.layers:
            attention, mlp = block.self_attn, block.mlp
            for layer in (attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj):
                total += float(layer.weight.detach()[:, channel].abs().double().sum())
            for layer in (attention.o_proj, mlp.down_proj):
                total += float(layer.weight.detach()[channel].abs().double().sum())
        scores.append(total)
    return scores


def plain_taylor(model, squared: bool) -> list[float]:
    model = copy.deepcopy(model).requires_grad_(True)
    grads = {}
    for row in IDS:
        model.zero_grad()
        model(row[None], labels=row[None]).loss.backward()
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and "layers" in name:
                grads[name] = grads.get(name, 0) + (parameter.grad.double() ** (2 if squared else 1)) / len(IDS)
    scores = torch.zeros(model.config.hidden_size, dtype=torch.float64)
    for name, parameter in model.named_parameters():
        if name in grads:
            weight = parameter.detach().double()
            found = weight.square() * grads[name] if squared else (weight * grads[name]).abs()
            scores += found.sum(1) if ("o_proj" in name or "down_proj" in name) else found.sum(0)
    return scores.tolist()


def by_hand(model, kept: list[int]):
    """A Llama of a narrower config, every tensor copied channel by channel."""
    config = copy.deepcopy(model.config)
    small = LlamaForCausalLM(
        LlamaConfig(
            **{**config.to_dict(), "hidden_size": len(kept), "head_dim": config.hidden_size // config.num_attention_heads}
        )
    ).eval()
    there, state = model.state_dict(), {}
    for name, tensor in there.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")) or "norm" in name:
            state[name] = torch.stack([tensor[channel] for channel in kept])
        else:
            state[name] = torch.stack([tensor[:, channel] for channel in kept], 1)
    small.load_state_dict(state)
    return small


@pytest.mark.parametrize(
    ("method", "plain"),
    [
        ("minitron", plain_minitron),
        ("activation", plain_activation),
        ("magnitude", plain_magnitude),
        ("taylor", lambda model: plain_taylor(model, False)),
        ("fisher", lambda model: plain_taylor(model, True)),
    ],
)
@pytest.mark.parametrize("tied", [True, False])
def test_the_channels_that_score_lowest_go_everywhere(method, plain, tied):
    model = uneven(tie_word_embeddings=tied)
    scores = plain(model)
    order = sorted(range(32), key=lambda channel: (scores[channel], channel))
    kept = sorted(order[8:])
    expected = by_hand(model, kept)
    before = copy.deepcopy(model.state_dict())
    done = run(model, method=method, sparsity=0.25)
    small = done.loaded.model
    assert torch.allclose(done.scores["stream.width"].double(), torch.tensor(scores).double(), rtol=2e-4)
    assert done.cuts[0].keep.nonzero().flatten().tolist() == kept and done.said == {"width": 24, "width_before": 32}
    assert small.config.hidden_size == 24 and small.config.head_dim == 8
    assert torch.equal(small.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)
    with torch.no_grad():
        assert torch.allclose(small(IDS).logits, expected(IDS).logits, atol=1e-6)
    assert (small.lm_head.weight is small.model.embed_tokens.weight) == tied
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in before.items())  # the old one stays as it was


def test_random_channels_are_those_of_the_seed():
    done, again = (run(uneven(), method="random", sparsity=0.5) for _ in range(2))
    assert torch.equal(done.cuts[0].keep, again.cuts[0].keep) and int(done.cuts[0].keep.sum()) == 16


@pytest.mark.parametrize(("share", "width"), [(0.1, 28), (0.05, 28), (0.99, 4), (1.0, 4), (0.0, 32)])
def test_the_width_is_the_nearest_that_the_family_accepts(share, width):
    """Llama wants a multiple of its 4 heads; of two as near the wider one: 30 lies between 28 and 32, and 32 is no narrower one."""
    done = run(uneven(), method="magnitude", sparsity=share)
    assert done.loaded.model.config.hidden_size == width
    assert done.rows[0].sparsity == 1 - width / 32


def test_saved_it_loads_with_transformers_alone_and_says_the_same(tmp_path):
    loaded = from_module(uneven(), "tiny")
    loaded.tokenizer = tokenizer()
    done = prune(loaded, recipe(method="minitron", sparsity=0.5).steps[0].prune, lambda: IDS, 0, Silent())
    assert save(done.loaded, tmp_path / "model")["loads_with"] == "from_pretrained"
    again = LlamaForCausalLM.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(again(IDS).logits, done.loaded.model(IDS).logits)
    small = load(str(tmp_path / "model"))
    for structure in ("neurons", "heads", "width"):  # and it can be pruned further
        small = prune(
            small,
            parse(
                {
                    "recipe": 1,
                    "name": "x",
                    "model": {"source": "x"},
                    "steps": [{"prune": {"method": "wanda", "structure": structure, "sparsity": 0.5}}],
                }
            )
            .steps[0]
            .prune,
            lambda: IDS,
            0,
            Silent(),
        ).loaded
    assert small.model.config.hidden_size == 8


def test_masks_made_before_lose_the_same_channels(tmp_path):
    steps = [
        {"prune": {"method": "magnitude", "sparsity": 0.5}},
        {"prune": {"method": "minitron", "structure": "width", "sparsity": 0.25}},
    ]
    asked = {"recipe": 1, "name": "x", "model": {"source": "x"}, "steps": steps, "calibration": {"source": "x"}}
    text = tmp_path / "text.txt"
    text.write_text("a line of some text, and another. " * 200)
    asked["calibration"] = {"source": str(text), "samples": 4, "tokens": 16}
    loaded = from_module(uneven(), "tiny")
    loaded.tokenizer = tokenizer()
    found = run_model(resolve(parse(asked), cards()), tmp_path, Silent(), loaded, Clock())
    masks = load_file(tmp_path / folder.MASK)
    assert int(masks["stream.width"].sum()) == 24
    assert masks["model.layers.0.self_attn.q_proj.weight"].shape == (32, 24)
    assert masks["model.layers.0.mlp.down_proj.weight"].shape == (24, 48)
    assert found["sparsity"]["width"] == 0.25 and found["steps"][1]["removed_units"] == 8


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"allocation": {"method": "by_hand", "shares": {"blocks.0": 0.5}}}, "nothing to allocate"),
        ({"only": ["blocks.0"]}, "no part can be chosen"),
        ({"protect": ["blocks.0"]}, "no part can be chosen"),
    ],
)
def test_a_part_of_the_stream_cannot_be_chosen(fields, said):
    model = uneven()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RecipeError, match=said) as error:
        run(model, method="magnitude", sparsity=0.25, **fields)
    assert error.value.remedy
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in before.items())


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("gpt2", "another way than by losing channels"),
        ("bert", "size of its heads follows"),
        ("opt", "other parts"),
        ("falcon", "another way|no other width"),
        ("resnet", "no stream of one width"),
    ],
)
def test_a_family_that_cannot_is_refused_in_a_sentence(family, said):
    with pytest.raises(ModelError, match=said) as error:
        run(tiny(family), method="magnitude", sparsity=0.25)
    assert error.value.problem.endswith(".") and error.value.remedy


def test_a_config_that_no_longer_says_its_shapes_is_refused():
    step = {"method": "magnitude", "structure": "heads", "sparsity": 0.5, "only": ["blocks.0"]}
    loaded = prune(
        from_module(uneven(), "tiny"),
        parse({"recipe": 1, "name": "x", "model": {"source": "x"}, "steps": [{"prune": step}]}).steps[0].prune,
        lambda: IDS,
        0,
        Silent(),
    ).loaded
    with pytest.raises(ModelError, match="no longer says all its shapes") as error:
        prune(loaded, recipe(method="magnitude", sparsity=0.25).steps[0].prune, lambda: IDS, 0, Silent())
    assert "first" in loaded.anatomy.refused["width"] or error.value.remedy


def test_what_is_remembered_of_a_model_half_cut_is_not_said_of_a_whole_one():
    loaded = from_module(uneven(vocab_size=301), "tiny")
    stream_width._found.clear()  # so that the model half cut is the first to be looked at
    step = {"method": "magnitude", "structure": "neurons", "sparsity": 0.5, "only": ["blocks.0"]}
    asked = parse({"recipe": 1, "name": "x", "model": {"source": "x"}, "steps": [{"prune": step}]})
    left = prune(loaded, asked.steps[0].prune, lambda: IDS, 0, Silent()).loaded
    assert "width" in left.anatomy.refused
    assert "width" not in from_module(uneven(vocab_size=301), "tiny").anatomy.refused


def test_global_allocation_of_the_width_is_refused_by_the_recipe():
    with pytest.raises(RecipeError, match="does not apply to width"):
        resolve(recipe(method="magnitude", sparsity=0.5, allocation="global"), cards())
    with pytest.raises(RecipeError, match="does not work on width"):
        resolve(recipe(method="flap", sparsity=0.5), cards())


def test_the_sum_worked_by_hand():
    """Two channels read at two places: 1 + 2 and 0.5 + 4."""
    assert get("score", "minitron")({"input_mean_size_norm": torch.tensor([[1.0, 2.0], [0.5, 4.0]])}).tolist() == [3.0, 4.5]
    statistic = get("statistic", "input_mean_size_norm")
    first = statistic.function(None, torch.tensor([[[1.0], [-3.0]]]))  # mean of sizes 2
    total = statistic.function(first, torch.tensor([[[1.0], [1.0]]]))  # mean of sizes 1
    assert statistic.extra["finish"](total, 2).tolist() == pytest.approx([5.0**0.5])
