from __future__ import annotations

from torch import Tensor

from core.method import Paper, reconstruction
from core.model.reconstructing.pairs import Seen
from core.model.reconstructing.refit import Refit


@reconstruction(
    "bias_compensation",
    label="Bias compensation",
    paper=Paper(
        "An, Zhao, Yu, Tang, Wang", 2023, "Fluctuation-based Adaptive Structured Pruning for Large Language Models", "2312.11983"
    ),
    layers="outputs",
    targets="dense",
)
def bias_compensation(weight: Tensor, seen: Seen, bias: Tensor | None) -> Refit:
    """Keep all weights, and put the mean of what is missing into the bias of each attention's and MLP's last layer.

    weight (out, in) float32; seen: sums over the calibration tokens of x, what the pruned layer reads, and y, what the dense model's layer gives in the
    dense model. The bias grows by mean(y) - W mean(x) - b. A layer without a bias gets one; a family whose layers have none then loads with Prunarium only.

    Intuition: of an output that hardly fluctuates, the mean is nearly all; one number a feature brings it back.
    When it lies: what fluctuates is not brought back; and the mean of the calibration text is not the mean of yours.
    Deviations from the paper: the mean of what the whole layer misses, by whatever pruning, errors of the layers before included; the paper adds what
    the removed inputs gave.
    """
    missing = seen.targets / seen.tokens - weight.to(seen.gram) @ (seen.inputs / seen.tokens)
    return Refit(weight, (missing if bias is None else missing - bias.to(missing)).to(weight))
