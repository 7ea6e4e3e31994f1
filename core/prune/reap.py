from __future__ import annotations

from torch import Tensor

from core.method import Paper, score


@score(
    "reap",
    label="REAP",
    paper=Paper(
        "Lasby, Lazarevich, Sinnadurai, Lie, Ioannou, Thangarasa",
        2025,
        "REAP the Experts: Why Pruning Prevails for One-Shot MoE Compression",
        "2510.13999",
    ),
    needs={"routed_outputs", "routed_tokens"},
    structures=("experts",),
    place="criterion/experts",
)
def reap(routed_outputs: Tensor, routed_tokens: Tensor) -> Tensor:
    """Keep experts that say much when they are asked: the mean of gate times output norm over the tokens that visit them.

    routed_outputs (experts,): the sum of gate * |output| over an expert's tokens; routed_tokens (experts,): how many those are.
    Returns (experts,): their quotient; 0 for an expert that no token visits.

    Intuition: without an expert, each of its tokens loses a vector of length gate * |output| and gets another expert's instead, so this is how
    far such a token is moved at most. It is a mean over the expert's own tokens, so a specialist for rare text is not taken for useless.
    When it lies: a specialist's few tokens may matter to nobody; experts that say the same can stand in for each other, and it never compares two;
    and the gates of the experts that are left grow where the model makes them sum to one, which it does not foresee.
    Deviations from the paper: activations of the blocks already pruned, not of the dense model, decide within a block. The gates are those that the
    model multiplies with (the top-k, made to sum to one where the model does so).
    """
    return routed_outputs / routed_tokens.clamp_min(1.0)
