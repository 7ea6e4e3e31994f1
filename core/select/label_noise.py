"""Labels that the other rows contradict."""

from __future__ import annotations

import warnings
from typing import Annotated

import numpy as np

from core.data.dynamics import standardised
from core.errors import DataError
from core.method import Paper, Param, data_score


@data_score(
    "label_noise",
    label="Label noise",
    paper=Paper("Northcutt, Jiang, Chuang", 2019, "Confident Learning: Estimating Uncertainty in Dataset Labels", "1911.00068"),
    needs={"vectors", "labels"},
    place="training",
    decides=True,
)
def label_noise(
    vectors: np.ndarray,
    labels: np.ndarray,
    row: np.ndarray,
    generator: np.random.Generator,
    *,
    folds: Annotated[int, Param("Folds", 2, 20)] = 5,
) -> np.ndarray:
    """Keep rows whose label a learner that never saw them agrees with; rows whose label it confidently contradicts go first.

    vectors (rows, features), labels int (rows,). p: softmax regression's probabilities for each row, trained on the other folds. t of a
    class: mean p of that class over the rows that bear it. A row is suspected where the likeliest class with p >= t is not its own, nor
    is its own the likeliest of all. m = p(own) - p(best other). Returns float32 (rows,): (m - 1) / 2 for the suspected (below 0), (m + 1)
    / 2 for the others. Where the recipe says no share to keep, exactly the suspected go.

    Intuition: the threshold of each class is how sure the learner usually is of it, so a class that it always doubts is not suspected as
    a whole.

    When it lies: rare and hard rows look like noise to a weak learner; and noise that follows a rule (all sixes called nines) is learnt,
    not found.

    Ours: the confident joint and its off-diagonal rows as cleanlab finds them, in a few lines here; the learner is linear, on the
    embedding.
    """
    names, sizes = np.unique(labels, return_counts=True)
    if len(names) < 2:
        raise DataError("All rows have the same label, so none can be doubted.", "Choose another column with `label:`.")
    alone = np.flatnonzero(np.isin(labels, names[sizes == 1]))
    if len(alone):
        shown = ", ".join(str(one) for one in row[alone[:5]])
        raise DataError(
            f"{len(alone)} rows are the only one of their class, so no other row can speak for them (row numbers {shown}).",
            "Remove those rows, or join their classes with others.",
        )
    own_class = np.searchsorted(names, labels)
    p = _out_of_fold(standardised(vectors), own_class, min(folds, int(sizes.min())), generator)
    here = np.arange(len(p))
    own, others = p[here, own_class], p.copy()
    others[here, own_class] = -np.inf
    margin = own - others.max(axis=1)
    usual = np.array([p[own_class == k, k].mean() for k in range(len(names))])
    confident = np.where(p >= usual - 1e-6, p, 0.0)
    named = confident.argmax(axis=1)
    suspected = (confident.max(axis=1) > 0) & (named != own_class) & (p.argmax(axis=1) != own_class)
    return np.where(suspected, (margin - 1) / 2 - 1e-6, (margin + 1) / 2).astype(np.float32)


def _out_of_fold(inputs: np.ndarray, labels: np.ndarray, folds: int, generator: np.random.Generator) -> np.ndarray:
    """Probabilities (rows, classes) of each row by a learner of the other folds; every class is spread over the folds."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    fold = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        mine = generator.permutation(np.flatnonzero(labels == label))
        fold[mine] = np.arange(len(mine)) % folds
    out = np.zeros((len(labels), int(labels.max()) + 1))
    for k in range(folds):
        model = LogisticRegression(C=0.1, max_iter=200)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # 200 passes are enough to rank suspects
            model.fit(inputs[fold != k], labels[fold != k])
        out[np.ix_(fold == k, model.classes_)] = model.predict_proba(inputs[fold == k])
    return out
