"""What is measured is what is said to be measured: against plain computations in float64 and values worked by hand."""

from __future__ import annotations

from dataclasses import replace
from math import exp

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from torch import nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
)

from core.errors import ModelError, Stopped
from core.events import Silent
from core.model.inputs.text import predicted_bytes
from core.model.loading import from_module, load
from core.model.measuring.counts import counts, flops_per_token, size_when_saved_bytes
from core.model.measuring.latency import _peak_memory_bytes, latency, resident_rise_bytes
from core.model.measuring.likelihood import HEAD_TOKENS
from core.model.measuring.measure import accuracy, generate, metrics, perplexity, prepare, wilson
from core.recipe import Accuracy, Latency, Measure, Perplexity
from tests.tiny_models import VOCABULARY, bert, gpt2, llama, resnet, tokenizer

pytestmark = pytest.mark.quick
IDS = torch.randint(0, VOCABULARY, (3, HEAD_TOKENS + 72), generator=torch.Generator().manual_seed(3))
SMALL = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}  # fmt: skip


def gemma2() -> Gemma2ForCausalLM:
    """Its head caps the logits softly: calling lm_head alone would miss that."""
    torch.manual_seed(0)
    return Gemma2ForCausalLM(Gemma2Config(**SMALL, head_dim=8, final_logit_softcapping=0.5)).eval()


def opt() -> OPTForCausalLM:
    """Its body lies two levels deep."""
    torch.manual_seed(0)
    config = {"vocab_size": VOCABULARY, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return OPTForCausalLM(OPTConfig(**config, word_embed_proj_dim=32, max_position_embeddings=256)).eval()


def mixtral() -> MixtralForCausalLM:
    torch.manual_seed(0)
    return MixtralForCausalLM(MixtralConfig(**SMALL, num_local_experts=4, num_experts_per_tok=2, tie_word_embeddings=True)).eval()


def in_float64(model: nn.Module, ids: torch.Tensor) -> float:
    """Perplexity the plain way: all logits of each sequence at once, everything after them in float64."""
    losses = []
    with torch.no_grad():
        for row in ids:
            logits = model(input_ids=row[None]).logits[0].double().log_softmax(-1)
            losses += [-logits[place, row[place + 1]] for place in range(len(row) - 1)]
    return exp(float(torch.stack(losses).mean()))


@pytest.mark.parametrize("build", [llama, gpt2, gemma2, opt, mixtral])
def test_perplexity_equals_a_plain_full_logits_computation_in_float64(build):
    model = build()
    model.get_output_embeddings().weight.data.mul_(20)  # or it would guess nearly evenly, and any mistake would pass
    expected = in_float64(model, IDS)
    assert perplexity(from_module(model, "tiny"), IDS, Silent()) == pytest.approx(expected, rel=1e-5)
    assert abs(expected - VOCABULARY) > 10


def test_a_model_that_guesses_evenly_has_its_vocabulary_as_perplexity():
    """Hand value: all logits 0 -> each token has probability 1/300 -> exp(log 300) = 300."""
    model = llama()
    model.model.norm.weight.data.zero_()
    assert perplexity(from_module(model, "tiny"), IDS[:, :9], Silent()) == pytest.approx(300.0, rel=1e-6)


def test_each_sequence_is_read_alone():
    loaded = from_module(llama(), "tiny")
    one, two = (perplexity(loaded, IDS[row : row + 1], Silent()) for row in (0, 1))
    assert perplexity(loaded, IDS[:2], Silent()) == pytest.approx((one * two) ** 0.5, rel=1e-6)


def test_logits_never_exceed_one_chunk_of_tokens():
    loaded, seen = from_module(llama(), "tiny"), []
    loaded.model.lm_head.register_forward_hook(lambda module, args, output: seen.append(output.numel()))
    perplexity(loaded, IDS, Silent())
    assert max(seen) <= HEAD_TOKENS * VOCABULARY and len(seen) == 6


def test_a_perplexity_that_is_no_number_is_none_with_a_note():
    model, watcher = llama(), Silent()
    model.model.norm.weight.data.fill_(float("nan"))
    assert perplexity(from_module(model, "tiny"), IDS, watcher) is None
    assert "not a finite number" in watcher.heard[-1].text


@pytest.mark.parametrize(
    "build", [bert, lambda: bert().bert, resnet, lambda: nn.Linear(3, 3)], ids=["masked", "bare", "images", "own"]
)
def test_a_model_that_predicts_no_next_token_has_no_perplexity_and_says_so(build):
    with pytest.raises(ModelError, match="no perplexity"):
        perplexity(from_module(build(), "tiny"), IDS[:, :9], Silent())


def test_a_stop_is_obeyed_between_two_sequences():
    model, watcher = llama(), Silent()

    def stop_after_the_first(*_):
        watcher.stop = True

    calls = []
    model.model.register_forward_hook(stop_after_the_first)
    model.model.embed_tokens.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(Stopped):
        perplexity(from_module(model, "tiny"), IDS, watcher)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [(8, 10, 0.49016, 0.94331), (0, 10, 0.0, 0.27753), (10, 10, 0.72247, 1.0), (985, 1000, 0.97540, 0.99089)],
)
def test_the_wilson_interval_has_its_known_values(right, total, low, high):
    assert wilson(right, total) == pytest.approx((low, high), abs=1e-5)


def test_accuracy_counts_right_answers_over_uneven_batches():
    loaded = from_module(resnet(), "tiny")
    images = torch.randn(70, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        labels = loaded.model(images).logits.argmax(-1)
    labels[[0, 30, 69]] = (labels[[0, 30, 69]] + 1) % 3
    share, (low, high) = accuracy(loaded, images, labels, Silent())
    assert share == pytest.approx(67 / 70) and (low, high) == wilson(67, 70)


def test_a_tied_head_is_counted_once_and_zeros_are_not_counted_as_weights():
    """Hand value: embedding 300 x 32; a block: q and o 32 x 32, k and v 16 x 32, three MLP 48 x 32, two norms 32; one norm at the end."""
    model = llama()
    by_hand = 300 * 32 + 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 48 * 32 + 2 * 32) + 32
    assert counts(model).parameters == counts(model).nonzero == by_hand
    model.model.layers[0].mlp.up_proj.weight.data.zero_()
    assert counts(model).nonzero == by_hand - 48 * 32 and counts(model).parameters == by_hand
    assert 0 < size_when_saved_bytes(model, torch.float32) - 4 * by_hand < 8000
    assert size_when_saved_bytes(model, torch.float32) - size_when_saved_bytes(model, torch.bfloat16) == pytest.approx(
        2 * by_hand, abs=64
    )


def test_flops_have_the_value_worked_by_hand():
    """2 x (block weights + head 300 x 32) + 2 blocks x 4 x 32 x (context + 1) / 2, the tied head being a product all the same."""
    model = llama()
    block = 2 * 32 * 32 + 2 * 16 * 32 + 3 * 48 * 32
    loaded = from_module(model, "tiny")
    assert flops_per_token(loaded, context=9) == 2 * (2 * block + 300 * 32) + 2 * 4 * 32 * 5
    model.model.layers[1].mlp.up_proj.weight.data.zero_()
    assert flops_per_token(loaded, context=9, nonzero=True) == flops_per_token(loaded, context=9) - 2 * 48 * 32


def test_flops_of_a_mixture_count_the_experts_that_a_token_visits():
    """4 experts of 3 x 48 x 32, 2 visited; a router of 4 x 32."""
    attention = 2 * 32 * 32 + 2 * 16 * 32
    by_hand = 2 * (2 * (attention + 4 * 32 + 2 * 3 * 48 * 32) + 300 * 32) + 2 * 4 * 32 * 5
    assert flops_per_token(from_module(mixtral(), "tiny"), context=9) == by_hand


def test_flops_of_an_image_count_each_place_of_a_convolution():
    """Images of 8 x 8: stem 7 x 7 to 4 x 4 places; pooled to 2 x 2; stage 1 (no stride): two 3 x 3 of 8 x 8; stage 2 (stride 2, 1 place)."""
    stem = 8 * 1 * 49 * 16
    first = 2 * (8 * 8 * 9) * 4
    second = 16 * 8 * 9 + 16 * 16 * 9 + 16 * 8  # with the 1 x 1 shortcut
    assert flops_per_token(from_module(resnet(), "tiny")) == 2 * (stem + first + second + 16 * 3)


def test_flops_of_a_vision_transformer_count_its_attention():
    """16 x 16 pixels, patches of 4: 16 patches and a class token. A block: 4 x 32 x 32 + 2 x 32 x 48 weights, 4 x 32 x 17 x 17 for attention."""
    config = ViTConfig(
        image_size=16,
        patch_size=4,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_labels=3,
    )
    by_hand = 2 * (3 * 4 * 4 * 32 * 16 + (4 * 32 * 32 + 2 * 32 * 48) * 17 + 32 * 3) + 4 * 32 * 17 * 17
    assert flops_per_token(from_module(ViTForImageClassification(config), "tiny")) == by_hand


def test_flops_of_a_module_that_nobody_knows_are_unknown():
    assert flops_per_token(from_module(nn.Sequential(nn.Linear(3, 3)), "own")) is None


@pytest.mark.parametrize("build", [llama, bert, resnet])
def test_latency_is_the_median_of_the_timed_passes(build):
    loaded, passes = from_module(build(), "tiny"), []
    loaded.model.register_forward_hook(lambda *_: passes.append(1))
    timed = latency(loaded, 2, 8, 5, Silent())
    assert len(passes) == 7  # two to warm up
    assert 0 < timed.low_ms <= timed.median_ms <= timed.high_ms
    assert timed.peak_memory_mb > 0


@pytest.mark.parametrize(("times", "notes"), [([10, 10.1, 10, 10.2, 10], 0), ([10, 30, 10, 30, 11], 1)], ids=["quiet", "busy"])
def test_a_spread_that_makes_a_latency_uncertain_is_said(times, notes, monkeypatch):
    watcher, turns = Silent(), iter([1.0, 1.0, *times])
    monkeypatch.setattr("core.model.measuring.latency._timed_ms", lambda *_: next(turns))
    monkeypatch.setattr("core.model.measuring.latency._peak_memory_bytes", lambda *_: next(turns))
    assert latency(from_module(llama(), "tiny"), 1, 8, 5, watcher).median_ms == sorted(times)[2]
    assert sum("The machine was busy" in said.text for said in watcher.heard) == notes


def test_peak_memory_holds_the_weights():
    loaded = from_module(llama(), "tiny")
    assert _peak_memory_bytes(loaded, lambda: None) >= 4 * counts(loaded.model).parameters


def test_latency_of_a_module_that_nobody_knows_is_refused_in_a_sentence():
    with pytest.raises(ModelError, match="nobody knows what Sequential reads"):
        latency(from_module(nn.Sequential(nn.Linear(3, 3)), "own"), 1, 8, 2, Silent())


def test_memory_that_is_taken_and_given_back_is_seen():
    def take() -> None:
        torch.ones(50_000_000)

    assert 150e6 < resident_rise_bytes(take) < 400e6
    assert resident_rise_bytes(lambda: None) < 50e6


def test_generated_text_is_the_greedy_one_and_holds_no_special_token():
    loaded = replace(from_module(llama(), "tiny"), tokenizer=tokenizer())
    ids = loaded.tokenizer("Why?", return_tensors="pt")["input_ids"]
    for _ in range(40):
        with torch.no_grad():
            ids = torch.cat([ids, loaded.model(ids).logits[:, -1:].argmax(-1)], dim=1)
        if ids[0, -1] == 0:
            break
    expected = loaded.tokenizer.decode(ids[0, 4:], skip_special_tokens=True)
    assert generate(loaded, ["Why?", "Why?"]) == (expected, expected)


def test_a_text_that_the_model_ends_at_once_is_empty():
    """All logits 0: the greedy choice is the lowest id, which is the end of text."""
    model = llama()
    model.model.norm.weight.data.zero_()
    assert generate(replace(from_module(model, "tiny"), tokenizer=tokenizer()), ["a"]) == ("",)


def test_a_model_without_a_tokenizer_cannot_continue_a_text():
    with pytest.raises(ModelError, match="no tokenizer"):
        generate(from_module(llama(), "tiny"), ["Why?"])


def test_metrics_take_all_that_is_asked_and_the_protocol_says_how(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 8)
    loaded = replace(from_module(llama(), "tiny"), tokenizer=tokenizer())
    asked = Measure(
        perplexity=Perplexity(source=str(text), samples=4, tokens=16), latency=Latency(tokens=8, repeats=2), generate=("The",)
    )
    prepared = prepare(loaded, asked)
    found = metrics(loaded, prepared, Silent(), "measure dense")
    assert found.perplexity == pytest.approx(in_float64(loaded.model, prepared.sequences), rel=1e-5)
    assert found.parameters == found.nonzero == counts(loaded.model).parameters
    assert found.latency_ms > 0 and found.peak_memory_mb > 0 and len(found.samples) == 1
    assert found.flops_per_token == flops_per_token(loaded, context=16)
    protocol = prepared.protocol["perplexity"]
    assert (protocol["samples"], protocol["tokens"], protocol["stride"], protocol["predictions"]) == (4, 16, None, 60)
    assert protocol["source"] == str(text) and protocol["joined"]
    assert prepared.protocol["latency"]["threads"] == torch.get_num_threads()


def test_nothing_asked_is_counts_and_bytes_only():
    loaded = from_module(llama(), "tiny")
    found = metrics(loaded, prepare(loaded, Measure()), Silent())
    assert found.parameters and found.size_bytes and found.flops_per_token
    assert found.perplexity is found.accuracy is found.latency_ms is found.peak_memory_mb is None and found.samples == ()


def test_a_model_left_in_its_file_is_counted_but_not_timed(tmp_path):
    llama().save_pretrained(tmp_path)
    lazy = load(str(tmp_path), lazy=True)
    figures = metrics(lazy, prepare(lazy, Measure()), Silent())
    assert figures.parameters == counts(llama()).parameters and figures.latency_ms is None
    with pytest.raises(ModelError, match="still in its file"):
        prepare(lazy, Measure(latency=Latency()))


def test_accuracy_on_images_is_refused_for_a_language_model():
    with pytest.raises(ModelError, match="does not classify images"):
        prepare(from_module(llama(), "tiny"), Measure(accuracy=Accuracy()))


def evenly(tokens: int, tokenizer):
    """A model that guesses evenly among so many tokens."""
    loaded = from_module(llama(vocab_size=tokens), "tiny")
    loaded.model.model.norm.weight.data.zero_()
    loaded.tokenizer = tokenizer
    return loaded


def test_bits_a_byte_do_not_depend_on_how_the_text_is_cut(tmp_path):
    """Hand values: 512 tokens guessed evenly are 9 bits each, a byte a token: 9 bits a byte; two bytes a token: 4.5."""
    text = "abcdefgh" * 40
    (tmp_path / "t.txt").write_text(text)
    bytes_, pairs = tokenizer(), pair_tokenizer()
    asked = Measure(perplexity=Perplexity(source=str(tmp_path / "t.txt"), samples=4, tokens=16))
    for cut, bits in ((bytes_, 9.0), (pairs, 4.5)):
        loaded = evenly(512, cut)
        prepared = prepare(loaded, asked)
        found = metrics(loaded, prepared, Silent())
        assert found.perplexity == pytest.approx(512) and found.bits_per_byte == pytest.approx(bits)
        windows = [prepared.sequences[row] for row in range(4)]
        plain = sum(len(cut.decode([int(token)]).encode()) for window in windows for token in window[1:])
        assert prepared.protocol["perplexity"]["bytes"] == plain == 4 * 15 * (1 if cut is bytes_ else 2)


def pair_tokenizer():
    """ab, cd, ef and gh are a token each."""
    letters = {letter: place for place, letter in enumerate("abcdefgh")}
    pairs = [("a", "b"), ("c", "d"), ("e", "f"), ("g", "h")]
    raw = Tokenizer(models.BPE(vocab={**letters, **{"".join(pair): 8 + place for place, pair in enumerate(pairs)}}, merges=pairs))
    raw.decoder = decoders.BPEDecoder()
    return PreTrainedTokenizerFast(tokenizer_object=raw)


def test_characters_of_several_bytes_count_as_their_bytes():
    ids = torch.tensor([tokenizer()("a\u00e9\u6771x")["input_ids"]])
    assert ids.shape == (1, 7) and predicted_bytes(tokenizer(), ids) == 6  # all but the first
