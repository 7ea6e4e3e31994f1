"""A shorter vocabulary: the order against plain recursion, the cutting of text against the tokenizer that there was, logits against the whole head."""

from __future__ import annotations

import json
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from core import folder, summary
from core.errors import ModelError, RecipeError
from core.events import Silent
from core.model.files import export
from core.model.loading import from_module, load
from core.model.pruning.step import prune
from core.model.pruning.vocabulary import order_of_going, shortened, tokenizer_json
from core.model.steps import run_model
from core.recipe import Prune, parse
from core.report import Report
from core.run import Clock
from studio.parts import cards
from tests import tiny_models
from tests.model_folders import tiny

pytestmark = pytest.mark.quick
WORDS = [
    "the",
    "then",
    "there",
    "other",
    "others",
    "mother",
    "another",
    "bother",
    "lather",
    "gather",
    "hen",
    "here",
    "her",
    "hers",
    "were",
    "where",
]
TEXT = " ".join(WORDS * 5) + " the other mother was there, and gathered others; "


def trained() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 40 merges, whose special tokens lie behind the others and are put around a text."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=256 + 40, initial_alphabet=alphabet, show_progress=False))
    raw.add_special_tokens(["<s>", "</s>"])
    first, last = raw.token_to_id("<s>"), raw.token_to_id("</s>")
    template = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", first), ("</s>", last)])
    raw.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def loaded_llama(extra_rows: int = 6, **changes):
    """A tiny Llama with that tokenizer, with more rows than the tokenizer has tokens."""
    tokenizer = trained()
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": [tokenizer.eos_token_id],
        "pad_token_id": tokenizer.pad_token_id,
    }
    out = from_module(tiny_models.llama(vocab_size=len(tokenizer) + extra_rows, **ids | changes), "tiny")
    out.tokenizer = tokenizer
    return out


def cut(loaded, share, text=TEXT, **fields):
    ids = torch.tensor([loaded.tokenizer(text)["input_ids"]])
    return prune(
        loaded, Prune(method="unused_tokens", structure="vocabulary", sparsity=share, **fields), lambda: ids, 0, Silent()
    )


def plain_order(said, rows, counts, stay):
    """Uses of a token: the most of its own and of all that is made of it, by recursion; those never made by a merge never go."""
    vocabulary = said["model"]["vocab"]
    merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in said["model"]["merges"]]

    def uses(token: str) -> float:
        own = float("inf") if vocabulary[token] in stay else counts[vocabulary[token]]
        return max([own, *(uses(a + b) for a, b in merges if token in (a, b))])

    rank = {}
    for number, (a, b) in enumerate(merges):
        rank.setdefault(a + b, number)
    named = set(vocabulary.values()) | {token["id"] for token in said["added_tokens"]}
    empty = [row for row in range(rows - 1, -1, -1) if row not in named and row not in stay]
    going = sorted((uses(token), -number, vocabulary[token]) for token, number in rank.items() if uses(token) < float("inf"))
    return [*empty, *(token for _, _, token in going)]


@pytest.mark.parametrize("text", ["the other hen", TEXT, "", "gathered mothers bother"])
def test_the_order_is_that_of_plain_recursion(text):
    tokenizer = trained()
    said, ids = tokenizer_json(tokenizer), tokenizer(text)["input_ids"]
    counts = torch.bincount(torch.tensor(ids), minlength=len(tokenizer) + 6)
    stay = {
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        said["model"]["vocab"]["the"],
    }
    assert order_of_going(said, len(counts), counts, stay) == plain_order(said, len(counts), counts.tolist(), stay)


TOKENIZER = trained()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 40), st.lists(st.sampled_from([*WORDS, "xyz", "é"]), max_size=6), st.lists(st.sampled_from(WORDS), max_size=12)
)
def test_a_text_without_a_removed_token_is_cut_as_before_and_any_text_comes_back(removed, words, corpus):
    said = tokenizer_json(TOKENIZER)
    counts = torch.bincount(torch.tensor(TOKENIZER(" ".join(corpus))["input_ids"]), minlength=len(TOKENIZER))
    gone = set(order_of_going(said, len(TOKENIZER), counts, set(TOKENIZER.all_special_ids))[:removed])
    kept = [row for row in range(len(TOKENIZER)) if row not in gone]
    short = shortened(TOKENIZER, said, {old: new for new, old in enumerate(kept)})
    text = " ".join(words)
    before, after = TOKENIZER(text)["input_ids"], short(text)["input_ids"]
    assert short.decode(after, skip_special_tokens=True) == text and len(short) == len(kept)
    if not gone & set(before):
        assert [kept[token] for token in after] == before
    else:
        assert len(after) > len(before)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("share", [0.02, 0.1])
def test_tokens_that_are_left_get_the_logits_they_had_in_memory_and_loaded_again(share, tied, tmp_path):
    loaded = loaded_llama(tie_word_embeddings=tied)
    old, rows = loaded.tokenizer, loaded.model.config.vocab_size
    text = "the other mother"
    ids = torch.tensor([old(text)["input_ids"]])
    with torch.no_grad():
        whole = loaded.model(ids).logits
    done = cut(loaded, share, text)
    left = rows - int(share * rows + 0.5)
    assert (
        done.said["rows_after"]
        == left
        == done.loaded.model.config.vocab_size
        == done.loaded.model.get_input_embeddings().num_embeddings
    )
    short = torch.tensor([done.loaded.tokenizer(text)["input_ids"]])
    assert short.shape == ids.shape and done.said["uses_removed"] == 0
    kept = sorted(old.get_vocab()[token] for token in done.loaded.tokenizer.get_vocab())
    export.save(done.loaded, tmp_path / "model")
    again, plain = load(str(tmp_path / "model")), LlamaForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    for model in (done.loaded.model, again.model, plain):
        with torch.no_grad():
            assert torch.allclose(model(short).logits[..., : len(kept)], whole[..., kept], atol=1e-6)
        assert (model.lm_head.weight is model.model.embed_tokens.weight) is tied
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer(text)["input_ids"] == again.tokenizer(text)["input_ids"] == short[0].tolist()
    assert (
        tokenizer.convert_ids_to_tokens(plain.config.bos_token_id) == "<s>" == tokenizer.convert_ids_to_tokens(short[0, 0].item())
    )
    assert plain.config.eos_token_id == [tokenizer.eos_token_id] and plain.generation_config.eos_token_id == [
        tokenizer.eos_token_id
    ]
    assert plain.model.padding_idx == tokenizer.pad_token_id == plain.config.pad_token_id
    written = plain.generate(short[:, :3], max_new_tokens=8, do_sample=False)
    assert int(written.max()) < left and isinstance(tokenizer.decode(written[0]), str)


def test_what_no_merge_makes_stays_however_much_is_asked():
    loaded, watcher = loaded_llama(), Silent()
    rows = loaded.model.config.vocab_size
    step = Prune(method="unused_tokens", structure="vocabulary", sparsity=1.0)
    done = prune(loaded, step, lambda: torch.zeros(1, 4, dtype=torch.long), 0, watcher)
    assert done.said["rows_after"] == 258 and set("abc") < set(done.loaded.tokenizer.get_vocab())
    assert any(f"{rows - 258} of {rows} rows went" in said.text for said in watcher.heard)
    assert (
        done.loaded.tokenizer.decode(done.loaded.tokenizer("Grüße, 世界!")["input_ids"], skip_special_tokens=True)
        == "Grüße, 世界!"
    )


def test_the_demo_model_with_half_its_rows_reads_and_writes_as_before():
    loaded = load("builtin:tiny-llama")
    text = "The castle was built in the early part of the century by the king , and it was used as a prison until the war ended ."
    before = loaded.tokenizer(text)["input_ids"]
    with torch.no_grad():
        whole = loaded.model(torch.tensor([before])).logits
        written = loaded.tokenizer.decode(loaded.model.generate(torch.tensor([before]), max_new_tokens=5, do_sample=False)[0])
    counted = Counter(loaded.tokenizer(written)["input_ids"] + before)
    old, ids = loaded.tokenizer, torch.tensor([list(counted.elements())])
    parameters = loaded.anatomy.parameters
    done = prune(loaded, Prune(method="unused_tokens", structure="vocabulary", sparsity=0.5), lambda: ids, 0, Silent())
    after = done.loaded.tokenizer(text)["input_ids"]
    kept = sorted(old.get_vocab()[token] for token in done.loaded.tokenizer.get_vocab())
    assert len(kept) == 2048 and [kept[token] for token in after] == before
    assert done.loaded.anatomy.parameters == parameters - 2048 * 192
    with torch.no_grad():
        assert torch.allclose(done.loaded.model(torch.tensor([after])).logits, whole[..., kept], atol=1e-4)
        again = done.loaded.model.generate(torch.tensor([after]), max_new_tokens=5, do_sample=False)[0]
    assert done.loaded.tokenizer.decode(again) == written


def test_what_has_no_such_tokenizer_or_rows_is_refused_before_anything_changes():
    loaded = loaded_llama()
    loaded.tokenizer = None
    step = Prune(method="unused_tokens", structure="vocabulary", sparsity=0.1)

    def refused(model, says):
        with pytest.raises(ModelError, match=says):
            prune(model, step, lambda: torch.zeros(1, 4, dtype=torch.long), 0, Silent())

    refused(loaded, "no tokenizer.json")
    raw = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    loaded.tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]")
    refused(loaded, "WordLevel, not BPE")
    refused(from_module(tiny("bert"), "x"), "not a decoder")
    loaded = loaded_llama()
    loaded.model.register_buffer("seen", torch.zeros(loaded.model.config.vocab_size))
    refused(loaded, "as long as its vocabulary")
    loaded = loaded_llama()
    loaded.model.generation_config.suppress_tokens = [3]
    refused(loaded, "suppress_tokens")
    with pytest.raises(RecipeError, match="no part can be chosen"):
        cut(loaded_llama(), 0.1, only=("blocks.0",))


def test_ids_in_the_saved_tokenizer_file_have_no_gap(tmp_path):
    done = cut(loaded_llama(), 0.1)
    done.loaded.tokenizer.save_pretrained(tmp_path)
    said = json.loads((tmp_path / "tokenizer.json").read_text())
    ids = {*said["model"]["vocab"].values(), *(token["id"] for token in said["added_tokens"])}
    assert ids == set(range(len(done.loaded.tokenizer)))


def test_a_run_that_shortens_the_vocabulary_compares_bits_a_byte_and_says_why(tmp_path):
    (tmp_path / "t.txt").write_text(TEXT * 4)
    place = str(tmp_path / "t.txt")
    asked = parse({
        "recipe": 1, "name": "x", "model": {"source": "x"}, "calibration": {"source": place, "samples": 2, "tokens": 16},
        "steps": [{"prune": {"method": "unused_tokens", "structure": "vocabulary", "sparsity": 0.1}}],
        "measure": {"perplexity": {"source": place, "samples": 4, "tokens": 16}},
    })  # fmt: skip
    loaded = loaded_llama()
    fields = run_model(asked, folder.create(tmp_path / "run"), Silent(), loaded, Clock())
    dense, pruned = fields["dense"], fields["pruned"]
    assert fields["protocol"]["perplexity"]["dense_has_other_tokens"]
    assert pruned.bits_per_byte == pytest.approx(
        math.log2(pruned.perplexity) * 4 * 15 / fields["protocol"]["perplexity"]["bytes"]
    )
    report = Report("x", 0, **fields).to_dict()
    said = summary.text(report)
    assert "do not compare their perplexities; compare bits a byte" in said and f"{dense.bits_per_byte:.3f}" in said
    for card, metrics in zip(cards.moments(report), (dense, pruned), strict=True):
        assert card["big"] == f"{metrics.bits_per_byte:.3f}" and card["unit"].startswith("bits a byte")
        assert next(row for row in card["rows"] if row[0] == "Perplexity")[2] == ""
    plain = {**report, "protocol": {}}
    assert "do not compare" not in summary.text(plain) and cards.moments(plain)[0]["unit"] == "perplexity"
