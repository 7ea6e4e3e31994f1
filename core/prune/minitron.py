from __future__ import annotations

from torch import Tensor

from core.method import Paper, score


@score(
    "minitron",
    label="Minitron (width)",
    paper=Paper(
        "Muralidharan, Sreenivas, Joshi et al.",
        2024,
        "Compact Language Models via Pruning and Knowledge Distillation",
        "2407.14679",
    ),
    needs={"input_mean_size_norm"},
    compare="layer",
    structures=("width",),
    place="criterion/activations only",
)
def minitron(input_mean_size_norm: Tensor) -> Tensor:
    """Keep the channels of the stream that its norms pass on largest, on average over the calibration text.

    input_mean_size_norm (units, places): of what each norm before an attention or MLP makes of each channel, the L2 norm over sequences of the mean
    over tokens of its size |x|. Returns (units,): the sum over those places. The same channels go from every block, embedding, norm and head; a tied
    head stays tied, heads keep their size, and rotary angles with it.

    Intuition: a channel that no attention or MLP ever sees much of has little to say to any of them.
    When it lies: a norm's own scale is in what is counted, but not the weights that read it; a channel that is large and constant (there are such in
    language models) stays whether or not it says anything. And a norm divides by the size of what is left, so cutting a loud channel turns all
    the others up. Expect the model to need training afterwards: this is what the paper's distillation is for.
    Deviations from the paper: one shot, without distillation or a search over shapes (add recover steps). The last norm, before the head, is not
    counted, nor are experts (their router is no layer here); where query, key and value, or gate and up, read one norm, it counts once.
    """
    return input_mean_size_norm.sum(1)
