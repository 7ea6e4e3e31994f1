from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from core.errors import ModelError
from core.events import Watcher
from core.method import Paper, Param, reconstruction
from core.model.reconstructing.pairs import Seen
from core.model.reconstructing.refit import Refit
from kernels.least_squares import fit, fit_kept


@reconstruction(
    "least_squares",
    label="Least squares per sub-layer",
    paper=Paper(
        "Park, Choi, Kang", 2023,
        "Accurate Retraining-free Pruning for Pretrained Encoder-based Language Models", "2308.03449"),
    layers="outputs",
    targets="dense",
    adds_bias="intercept",
)  # fmt: skip
def least_squares(
    weight: Tensor,
    keep: Tensor,
    seen: Seen,
    bias: Tensor | None,
    watcher: Watcher,
    *,
    ridge: Annotated[float, Param("Ridge", 0.0, 10.0)] = 0.01,
    intercept: Annotated[bool, Param("Fit the bias too")] = False,
) -> Refit:
    """Keep the pruned layers' inputs, and choose the last weights of each attention and MLP anew so that they give what the dense ones gave.

    weight (out, in) float32, keep (out, in) bool, seen: sums over the calibration tokens of x, what the pruned layer reads, and y, what the dense
    model's layer gives in the dense model. Returns the W with the least sum of |W x + b - y|^2 + ridge * mean(x^2) * |W - W_now|^2 a token, under the mask.
    The attention's last layer is refitted first; what the MLP reads is observed after that.

    `intercept` fits b too; a layer without a bias gets one, and a family whose layers have none then loads with Prunarium only.

    Intuition: what removed heads and neurons said can largely be said by those that are left, who often saw the same; the last matrix decides how much of
    each is heard, and it has a closed solution.
    When it lies: with fewer tokens than inputs it learns the calibration text by heart (raise the ridge, or the samples). A small error at each layer is
    not yet a small error at the end: where whole blocks went, what they gave stays missing from the stream, and the model may get worse.
    Deviations from the paper: the ridge draws to the weights that are there, not to zero, so that inputs that the text hardly drives stay as they are; under
    a mask each row is fitted over its own survivors by conjugate gradients.
    """
    gram, cross, shift = seen.gram, seen.cross, None if bias is None else bias.to(seen.gram)
    mean_x, mean_y = seen.inputs / seen.tokens, seen.targets / seen.tokens
    if intercept:
        gram = gram - seen.tokens * torch.outer(mean_x, mean_x)
        cross = cross - seen.tokens * torch.outer(mean_y, mean_x)
    elif shift is not None:
        cross = cross - torch.outer(shift, seen.inputs)
    prior, damp = weight.to(gram), ridge * float(seen.gram.diagonal().mean())
    if bool(keep.all()):
        new = fit(gram, cross, prior, damp)
        if new is None:
            raise ModelError(
                "The inputs of a layer say too little to fit its weights.", "Raise the ridge, or use more calibration samples."
            )
    else:
        new = fit_kept(gram, cross, prior, keep.to(gram.device), damp, check=watcher.check)
    add = None if not intercept else mean_y - new @ mean_x - (0.0 if shift is None else shift)
    return Refit(new.to(weight), None if add is None else add.to(weight))
