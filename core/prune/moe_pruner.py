from __future__ import annotations

from torch import Tensor

from core.method import Paper, score


@score(
    "moe_pruner",
    label="MoE-Pruner",
    paper=Paper(
        "Xie, Zhang, Zhou, Xie, Song, Liu, Wang, Lin, Xu",
        2024,
        "MoE-Pruner: Pruning Mixture-of-Experts Large Language Model using the Hints from Its Router",
        "2410.12013",
    ),
    needs={"routed_input_norm"},
    compare="row",
    structures=("unstructured", "N:M"),
    inside="experts",
    place="criterion/weights and activations",
)
def moe_pruner(weight: Tensor, routed_input_norm: Tensor) -> Tensor:
    """Keep weights inside experts that are large and see large inputs of tokens that the router sends there with confidence.

    weight (out, in): one matrix of one expert; routed_input_norm (in,): root of the mean over calibration sequences of the sum, over the tokens that visit
    the expert, of (gate * input)^2. Returns (out, in): |W| * routed_input_norm, compared within one output row of one expert (N:M: within each group of M).
    Weights outside experts (attention, router, embedding) stay: prune them by a step of their own, such as wanda.

    Intuition: what a weight adds to the block's output is weight times input times gate, so a token that visits an expert with a small gate says less about
    which of its weights matter. Each expert is judged by its own tokens.
    When it lies: an expert that few tokens visit is judged by few, and one that none visits loses its weights from the left, for all its scores are 0: give
    it more or other text. Every expert loses the same share, however busy it is. And as Wanda, it looks at one weight at a time.
    Deviations from the paper: the middle of an expert (what its last matrix reads) counts with the gate too, as its input does; no distillation into the
    pruned experts follows; experts that always answer (shared ones) are layers like others, and are not touched.
    """
    return weight.abs() * routed_input_norm
