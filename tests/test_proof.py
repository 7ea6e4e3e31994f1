"""The arithmetic of a proof against plain references and by hand, and its pictures."""

import json

import numpy as np
import pytest

from core import proof, scaling
from studio.charts import proof as charts
from studio.charts import proof_time

pytestmark = pytest.mark.quick


def lines(*gaps, share=0.3, opposite=None, **more):
    made = [{"share": 1.0, "selector": "all", "seed": 0, "accuracy": 0.9, "rows": 80, **more}]
    for seed, gap in enumerate(gaps):
        who = {"random": 0.8, "prototypes": 0.8 + gap} | ({} if opposite is None else {"opposite": 0.8 + opposite})
        made += [
            {"share": share, "selector": name, "seed": seed, "accuracy": value, "rows": 24, **more} for name, value in who.items()
        ]
    return made


def test_an_interval_is_students_t():
    """0.8, 0.82, 0.84: mean 0.82, s = 0.02, t(2, 97.5 %) = 4.3027: half 4.302653 * 0.02 / sqrt 3 = 0.049683."""
    from scipy import stats

    mean, _, high = proof.interval([0.8, 0.82, 0.84])
    assert (mean, high - mean) == pytest.approx((0.82, 0.049683), abs=1e-6)
    values = np.random.default_rng(0).normal(size=7)
    assert proof.interval(values)[1:] == pytest.approx(stats.t.interval(0.95, 6, values.mean(), stats.sem(values)))
    assert proof.interval([0.5]) == (0.5, None, None)


def test_differences_are_paired_by_seed_so_that_what_seeds_share_is_no_noise():
    one, other = {0: 0.70, 1: 0.80, 2: 0.92, 3: 0.5}, {0: 0.69, 1: 0.79, 2: 0.90, 9: 0.1}
    mean, low, _, seeds = proof.paired(one, other)
    assert seeds == 3 and mean == pytest.approx(0.04 / 3) and low > -0.002
    assert proof.interval(list(one.values()))[2] - proof.interval(list(one.values()))[1] > 0.1
    assert proof.paired({0: 1.0}, {1: 1.0}) is None and not proof.clear(proof.paired({0: 1.0}, {0: 0.5}))


def test_time_to_a_figure_counts_choice_and_teacher():
    """Trained 1 s and 2 s; 3 s of choosing and 4 of teaching come before: the goal of 0.8 is reached after 3 + 4 + 2 = 9 s."""
    line = {"selection_seconds": 3.0, "teacher_seconds": 4.0, "training_seconds": 2.0, "history": [[1, 1.0, 0.7], [2, 2.0, 0.8]]}
    assert proof.seconds_to(line, 0.8, "accuracy") == 9.0 and proof.seconds_to(line, 0.9, "accuracy") is None
    assert proof.seconds_to(line, 0.75, "perplexity") == 8.0 and proof.seconds_to({}, 0.5, "accuracy") is None
    assert proof.seconds([line]) == 9.0 and proof.seconds(lines(0.1)) is None
    whole = {"share": 1.0, "selector": "all", "seed": 0, "accuracy": 1.0, "rows": 9}
    two = [whole, {**line, "share": 0.5, "selector": "p", "seed": 0, "accuracy": 0.99, "rows": 4},
           {**line, "share": 0.5, "selector": "p", "seed": 1, "accuracy": 0.8, "history": [[1, 1.0, 0.2]], "rows": 4}]  # fmt: skip
    assert proof.target_of(two) == pytest.approx(0.98)
    found = next(one for one in proof.times(two, 0.8) if one["selector"] == "p")
    assert found == {"share": 0.5, "selector": "p", "seconds": None, "before": 7.0, "reached": 1, "seeds": 2}


def test_a_power_law_is_found_again_and_poor_ones_say_so():
    rows = np.array([40, 80, 200, 400, 1000.0])
    fit = scaling.power_law(rows, 2.0 * rows**-0.5 + 0.03)
    assert fit.good and (fit.a, fit.b, fit.c) == pytest.approx((2.0, 0.5, 0.03), rel=1e-3)
    assert "twice the data would take it from 0.0932 to 0.0747, and no data below 0.03" in fit.words
    assert (
        not scaling.power_law(rows[:3], [0.3, 0.2, 0.1]).good
        and "needs 4 sizes; there are 3" in scaling.power_law(rows[:3], [3, 2, 1]).words
    )
    assert "A poor fit" in scaling.power_law(rows, [0.3, 0.1, 0.35, 0.08, 0.2]).words
    assert "did not lower the error" in scaling.power_law(rows, [0.1, 0.12, 0.15, 0.2, 0.3]).words
    assert "the same at every size" in scaling.power_law(rows, [0.2] * 5).words
    assert "ran to its bound" in scaling.power_law(rows, [0.5, 0.01, 0.001, 0.001, 0.001]).words


def test_the_half_life_of_repetition_is_found_again():
    """Steps as in the paper, for whole epochs: error falls by (k / (k - 1))^-(b 0.5^((k - 1) / c)); the continuous form lies near it."""
    epochs, b, c = np.linspace(1, 20, 39), 0.8, 4.0
    fine = np.geomspace(1, 20, 4000)
    slope = b * 0.5 ** ((fine - 1) / c)
    fallen = np.concatenate([[0], np.cumsum(0.5 * (slope[1:] + slope[:-1]) * np.diff(np.log(fine)))])
    errors = 0.6 * np.exp(-np.interp(epochs, fine, fallen))
    fit = scaling.half_life(epochs, errors)
    assert fit.good and (fit.b, fit.c) == pytest.approx((b, c), rel=0.05) and "every 4.0 epochs" in fit.words
    never = scaling.half_life(epochs, 0.6 * epochs**-0.5)
    assert never.good and "had not worn off after 20 epochs" in never.words
    assert "needs 6 moments" in scaling.half_life([1, 2, 3], [3, 2, 1]).words
    assert "A poor fit" in scaling.half_life(epochs, np.random.default_rng(0).uniform(0.1, 0.9, 39)).words


def test_the_regime_is_said_in_words_only_where_the_seeds_can_tell():
    gaps = ((0.049, 0.051, 0.05), (-0.05, -0.049, -0.051))
    rich, poor = (lines(*some, share=at, opposite=0.0) for some, at in zip(gaps, (0.6, 0.1), strict=True))
    assert proof.regime([*rich, *poor], "prototypes", "hard") == (
        "With this little data (24 rows) keep the easy ones (5.0 points better); with 24 rows keep the hard rows (5.0 points better)."
    )
    assert proof.regime(rich, "prototypes", "easy") == "With 24 rows, keep the easy rows: 5.0 points better than the hard ones."
    assert "cannot be told apart" in proof.regime(lines(0.1, -0.1, opposite=0.0), "el2n")
    assert proof.regime(lines(0.1, 0.1), "prototypes", "hard") == ""


@pytest.mark.parametrize(
    ("gaps", "says"),
    [
        ((0.029, 0.031), "At 30 % kept, Hard beats random by 3.0 points (+1.7 to +4.3) over 2 seeds"),
        ((-0.029, -0.031), "At 30 % kept, Hard loses to random by 3.0 points (-4.3 to -1.7) over 2 seeds"),
        ((-0.01, 0.02, 0.01), "At 30 % kept, Hard and random cannot be told apart (-3.1 to +4.5 points) over 3 seeds"),
        ((0.02,), "At 30 % kept, Hard is 2.0 points above random, over 1 seed only"),
    ],
)
def test_the_finding_of_a_proof_claims_no_more_than_its_interval(gaps, says):
    picture = charts.accuracy(lines(*gaps), "Hard", 0.28)
    assert picture.finding == says and json.loads(picture.figure.to_json())
    assert picture.rows[-1][:4] == ("100 %", "All rows", "80", "90.0 %") and len(picture.rows) == 3
    assert proof_time.time_to(lines(*gaps), "Hard", 0.3).figure is None  # an old report took no times


def test_a_proof_of_chance_alone_says_what_chance_reaches():
    alone = [line for line in lines(0.0, 0.0) if line["selector"] != "prototypes"]
    assert charts.accuracy(alone, "Random", 0.3).finding == "A random 30 % reaches 80.0 %"


def full(figure="accuracy"):
    """Three shares, three seeds, histories: what a proof of a learner with epochs leaves. The choice is good and dear, chance poor and free."""
    made = []
    for seed in range(3):
        for share, who, good, before in (
            (1.0, "all", 0.95, 0.0), (0.1, "random", 0.7, 0.0), (0.1, "p", 0.8, 5.0), (0.1, "opposite", 0.6, 5.0), (0.3, "random", 0.8, 0.0),
            (0.3, "p", 0.94, 5.0), (0.3, "opposite", 0.7, 5.0), (0.6, "random", 0.9, 0.0), (0.6, "p", 0.95, 5.0), (0.6, "opposite", 0.8, 5.0),
        ):  # fmt: skip
            value = (good if figure == "accuracy" else 200 * (1 - good)) + 0.001 * seed
            history = [
                [k, 10 * share * k, value * (0.5 + 0.0625 * k) if figure == "accuracy" else value * (9 - k)] for k in range(1, 9)
            ]
            made.append({"share": share, "selector": who, "seed": seed, "accuracy": None, figure: value, "rows": round(1000 * share), "history": history,
                         "selection_seconds": before, "teacher_seconds": 0.0, "training_seconds": 80 * share})  # fmt: skip
    return made


def test_the_time_and_the_law_have_findings_and_twins():
    found = full()
    told = proof.told(found, "p", "hard")
    time = proof_time.time_to(found, "Hard", 0.3)
    assert time.finding == "Hard is first at 93.2 %: 30 % of the rows, 29.0 s; all rows take 1.3 min"
    assert ("30 %", "Hard", "29.00", "5.00", "3 of 3") in time.rows and ("30 %", "Random", "never", "0.00", "0 of 3") in time.rows
    law = charts.scaling(found, told, "Hard")
    assert law.finding.startswith("With 100 rows up to 600 rows, keep the hard rows: 20.0 points better than the easy ones")
    assert [row[0] for row in law.rows] == ["Hard", "Random", "Its other end", "Repeating"]
    for picture in (time, law):
        assert json.loads(picture.figure.to_json())
    assert charts.scaling(lines(0.1), {}, "Hard").figure is None


def test_a_language_model_is_judged_by_perplexity_where_less_is_better():
    found = full("perplexity")
    assert proof.measure(found) == "perplexity" and proof.figures(found, "p", 0.3)[0] == pytest.approx(12.0)
    assert charts.accuracy(found, "Hard", 0.3).finding.startswith("At 30 % kept, Hard beats random by 28.0 of perplexity")
    told = proof.told(found, "p")
    assert told["regime"].startswith("With 100 rows up to 600 rows, keep the rows that p puts first") and told["target"] > 10
    assert "perplexity of" in proof_time.time_to(found, "Hard", 0.3).finding
