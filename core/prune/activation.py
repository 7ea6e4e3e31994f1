from __future__ import annotations

from torch import Tensor

from core.method import Paper, score


@score(
    "activation",
    label="Activation",
    paper=Paper(
        "Muralidharan, Sreenivas, Joshi et al.",
        2024,
        "Compact Language Models via Pruning and Knowledge Distillation",
        "2407.14679",
    ),
    needs={"input_norm"},
    compare="layer",
    structures=("neurons", "heads", "query_heads", "channels", "width"),
    place="criterion/activations only",
)
def activation(input_norm: Tensor) -> Tensor:
    """Keep neurons and heads that speak loudly: those whose own output is largest on the calibration text.

    input_norm (units, entries): root of the mean over sequences of the squared L2 norm of what the next layer reads from each entry of a unit; of a
    channel of the stream, what each place that reads the stream, its norm before it, reads of the channel. Returns (units,): the L2 norm over entries.

    Intuition: a neuron that is hardly ever on, or a head whose values are tiny, adds little to what comes after it.
    When it lies: it never looks at the weights that read the unit, so a loud one that is multiplied by nothing stays, and a quiet one that is
    read by large weights goes; a constant but large output counts in full, though a bias could stand in for it (FLAP).
    Deviations from the paper: the norm is over all tokens of a sequence, where the paper also tries means over them; heads go by key-value group; no
    distillation follows by itself (add a recover step). For the width, minitron takes the paper's own mean.
    """
    return input_norm.square().sum(1).sqrt()
