"""Do the orderings that papers on data pruning publish hold here? Proofs on three built-in sets with 5 seeds, reported either way."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from core import catalogue, folder, proof, recipe
from core.data.loading import load
from core.data.steps import run_data
from core.errors import PrunariumError
from core.events import Silent
from core.recipe import Data
from tests.bench import Figure

SEEDS, SHARES = 5, (0.1, 0.3, 0.5)
ABOUT = (
    f"Proofs with {SEEDS} seeds at {', '.join(f'{100 * share:g} %' for share in SHARES)} kept: a fifth of every class held out, as many passes for every share "
    "(20 epochs). mnist5k: the small CNN; TREC and Rotten Tomatoes: the MLP on TF-IDF (128 dimensions). Figures are mean accuracy, brackets the 95 % interval "
    "(t over seeds), differences are paired by seed. Distillation: half the loss, temperature 2. DSIR: a mixture of TREC questions and film reviews."
)
SETS: dict[str, dict[str, Any]] = {
    "mnist5k": {"data": {"source": "builtin:mnist5k"}, "prove": {"learner": "cnn"}},
    "TREC": {
        "data": {"source": "builtin:trec"},
        "embedding": {"source": "tfidf", "params": {"dimensions": 128}},
        "prove": {"learner": "mlp"},
    },
    "Rotten Tomatoes": {
        "data": {"source": "builtin:rotten-tomatoes"},
        "embedding": {"source": "tfidf", "params": {"dimensions": 128}},
        "prove": {"learner": "mlp"},
    },
}
WAYS: dict[str, dict[str, Any]] = {  # the first brings the baselines
    "EL2N, highest": {"score": "el2n", "selector": "top"},
    "CCS on EL2N": {"score": "el2n", "selector": "ccs"},
    "prototypes, hard": {"method": "prototypes", "params": {"prefer": "hard"}},
    "prototypes, easy": {"method": "prototypes", "params": {"prefer": "easy"}},
}
BASELINES = {"all": "all", "random": "random", "rs2": "RS2", "random + distillation": "random + distillation"}
Found = dict[tuple[str, float], dict[int, float]]  # (who, share) -> {seed: accuracy}


def proven(name: str) -> tuple[Found, list[Figure]]:
    """All ways to choose on one data set, and a figure for each that could not be tried."""
    found: Found = {}
    failed = []
    for at, (way, select) in enumerate(WAYS.items()):
        asked = SETS[name]
        section = {
            **asked["prove"],
            "shares": SHARES,
            "seeds": SEEDS,
            "baselines": ["random", "rs2", "distillation"] if not found else ["random"],
        }
        whole = {"recipe": 1, "name": "fidelity", **asked, "select": {**select, "keep": SHARES[0]}, "prove": section}
        try:
            lines = _lines(whole)
        except PrunariumError as error:
            failed.append(Figure(f"{name}, {way}", str(error), "can be tried", False))
            continue
        for line in lines:
            who = BASELINES.get(line["selector"], way)
            found.setdefault((who, line["share"]), {})[line["seed"]] = line["accuracy"]
        print(f"  {name}: {way} ({at + 1} of {len(WAYS)})", flush=True)
    return found, failed


def _lines(whole: dict[str, Any]) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="prunarium-fidelity-") as room:
        return run_data(catalogue.resolve(recipe.parse(whole)), Path(room), Silent())["prove"]


def measure() -> list[Figure]:
    out = []
    for name in SETS:
        found, failed = proven(name)
        out += [*_table(name, found), *failed, *_claims(name, found)]
    return [*out, _dsir()]


def _table(name: str, found: Found) -> list[Figure]:
    """A line a way to choose, its accuracy at each share."""
    out = []
    for who in dict.fromkeys(who for who, _ in found):
        cells = []
        for share in (1.0,) if who == "all" else SHARES:
            mean, low, high = proof.interval(list(found[who, share].values()))
            spread = f" ({100 * low:.1f} to {100 * high:.1f})" if low is not None and high is not None else ""
            cells.append(f"{100 * share:g} %: {100 * mean:.2f}{spread}")
        out.append(Figure(f"{name}, {who}", " · ".join(cells)))
    return out


def _claims(name: str, found: Found) -> list[Figure]:
    """What the papers say, against these figures. "At least" holds where the paired interval does not lie wholly below 0."""
    out = []
    if name == "mnist5k" and ("EL2N, highest", 0.5) in found:
        gap = proof.paired(found["EL2N, highest", 0.5], found["all", 1.0])
        out.append(Figure("mnist5k: EL2N's half minus all rows", _said(gap), "within noise", not _below(gap)))
    if ("CCS on EL2N", 0.1) in found and ("EL2N, highest", 0.1) in found:
        above = proof.paired(found["CCS on EL2N", 0.1], found["random", 0.1])
        worse = proof.paired(found["random", 0.1], found["EL2N, highest", 0.1])
        out.append(Figure(f"{name}, 90 % pruned: CCS minus random", _said(above), "above 0", bool(above and above[0] > 0)))
        out.append(
            Figure(f"{name}, 90 % pruned: random minus highest EL2N", _said(worse), "above 0", bool(worse and worse[0] > 0))
        )
    for share in SHARES:
        clever = {way: found[way, share] for way in WAYS if (way, share) in found}
        taught = found.get(("random + distillation", share))
        if not clever or not taught:
            continue
        best = max(clever, key=lambda way: sum(clever[way].values()))
        gap = proof.paired(taught, clever[best])
        out.append(
            Figure(
                f"{name}, {100 * share:g} %: random + distillation minus the best choice ({best})",
                _said(gap),
                "at least 0",
                not _below(gap),
            )
        )
    return out


def _said(gap: tuple[float, float | None, float | None, int] | None) -> str:
    if gap is None or gap[1] is None or gap[2] is None:
        return "not measured"
    return f"{100 * gap[0]:+.2f} points ({100 * gap[1]:+.2f} to {100 * gap[2]:+.2f}, {gap[3]} seeds)"


def _below(gap: tuple[float, float | None, float | None, int] | None) -> bool:
    return gap is None or (gap[2] is not None and gap[2] < 0)


def _dsir() -> Figure:
    """The share of questions among what DSIR keeps of questions and reviews, the target being other questions."""
    questions, reviews = load(Data(source="builtin:trec")), load(Data(source="builtin:rotten-tomatoes"))
    assert questions.texts and reviews.texts
    target, mixed = questions.texts[:500], questions.texts[500:1500] + reviews.texts[:4000]
    what = "DSIR: questions among the 20 % kept of 1,000 questions and 4,000 reviews"
    with tempfile.TemporaryDirectory(prefix="prunarium-fidelity-") as room:
        place = Path(room)
        pd.DataFrame({"text": target}).to_csv(place / "target.csv", index=False)
        pd.DataFrame({"text": mixed}).to_csv(place / "mixed.csv", index=False)
        select = {"method": "dsir", "keep": 0.2, "params": {"target": str(place / "target.csv")}}
        whole = {
            "recipe": 1,
            "name": "dsir",
            "data": {"source": str(place / "mixed.csv")},
            "embedding": {"source": "tfidf"},
            "select": select,
        }
        try:
            run_data(catalogue.resolve(recipe.parse(whole)), place, Silent())
        except PrunariumError as error:
            return Figure(what, str(error), "more than 20 %", False)
        frame = pd.read_parquet(place / folder.SELECTION)
    share = float((frame.loc[frame["kept"], "row"] < 1000).mean())
    return Figure(what, f"{100 * share:.1f} % (20 % before)", "more than 20 %", share > 0.2)
