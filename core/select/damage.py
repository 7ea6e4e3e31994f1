"""What the pruned model has lost most of, for what it costs to train on."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np

from core.method import Paper, Param, data_score


@data_score(
    "damage",
    label="Damage by pruning",
    paper=Paper(
        "He, Yin, Zhen, Zhang, Yuan, Ma", 2025, "PASER: Post-Training Data Selection for Efficient Pruned Large Language Model Recovery", "2502.12594"
    ),
    needs={"texts", "damaged"},
    selector="damage_quotas",
    place="language model",
)  # fmt: skip
def damage(damaged: Any, *, cost: Annotated[float, Param("Weight of the cost", 0.0, 4.0)] = 1.0) -> np.ndarray:
    """Keep texts on which the pruned model answers most unlike the dense one, for the tokens that they cost.

    damaged: divergence, rise and tokens of each row (core.data.damaged). Returns float32 (rows,): divergence / log(2 + tokens)^cost, the divergence being
    Jensen-Shannon's between both models' next-token distributions, in nats, mean over the text's tokens; rows on which the pruned model is no worse
    (rise <= 0) come after all others, at their score minus 1.

    Intuition: training puts right most where most went wrong, and a long text costs more of the budget than a short one.

    When it lies: a text that diverges much may be noise that the dense model does not know either; healing on damage alone forgets what was
    not damaged. At equal tokens random rows with the dense model as teacher are often as good: see them beside it.

    Ours: the divergence is a mean over tokens (a sum favours long texts); the paper's graph of concepts that conflict is left out, for plain texts have
    no answer that could conflict, and what healing could only pull away from the dense model, rows that the pruned one finds likelier, comes last.
    """
    score = damaged.divergence / np.log(2.0 + damaged.tokens) ** cost
    return np.where(damaged.rise > 0, score, score - 1.0).astype(np.float32)
