from __future__ import annotations

from typing import Annotated

from torch import Tensor

from core.method import Paper, Param, score


@score(
    "contextual",
    label="Unused in this domain (Mini-GPTs)",
    paper=Paper(
        "Valicenti, Vidal, Patnaik", 2023, "Mini-GPTs: Efficient Large Language Models through Contextual Pruning", "2312.12682"
    ),
    needs={"input_mean_size"},
    compare="model",
    structures=("neurons",),
    spares_above="ceiling",
    place="criterion/activations only",
)
def contextual(input_mean_size: Tensor, *, ceiling: Annotated[float, Param("Unused means at most", 0.0, 1e6)] = 1e-3) -> Tensor:
    """Keep the neurons that a domain uses: only those that its text leaves nearly still may go, however many are asked for.

    input_mean_size (units, 1): the mean over all tokens of the calibration text of the size of a neuron's activation, |a|. Returns it, (units,). The
    lowest go first, and none above `ceiling`, so the share is a limit, and may not be reached: the report says what was. Give the domain's own text
    as calibration. For the domain's tokens see unused_tokens.

    Intuition: a model made for all topics has neurons for topics that your text never touches; on it they are still.
    When it lies: the text must be as the domain is; what it lacks is cut without a word. Where gates are smooth no neuron is ever quite still, so the
    ceiling decides all: a neuron's size has the units of the model, so look at the scores in the report before you choose. A neuron that is
    small and read by large weights counts as unused.
    Deviations from the paper: whole neurons go (its code sets rows and columns of every linear layer to zero, attention's too, and keeps them);
    its rule for embeddings by counts is a method of its own. All tokens count alike (of batches its code reads the first sequence's activations only).
    """
    return input_mean_size[:, 0]
