"""Rows as a block of the opened model sees them: the bridge between the model and its data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import numpy as np

from core.errors import DataError, ModelError
from core.events import Watcher
from core.method import Param, embedding

_IMAGES_A_BATCH = 128


@embedding("model", label="A block of the model", of=("images", "text"), place="encoder", version=2)
def model_block(
    texts: Sequence[str] | None,
    images: np.ndarray | None,
    argument: str,
    loaded: Any,
    watcher: Watcher,
    start: int,
    *,
    tokens: Annotated[int, Param("Tokens read", 8, 2048)] = 128,
    pool: Annotated[str, Param("Of the tokens take", choices=("mean", "last"))] = "mean",
) -> Iterator[np.ndarray]:
    """Describe each row by what one block of the opened model makes of it: rows are near where the model treats them alike.

    Source `model@BLOCK` (`model@3` is block 3). Texts: mean of the block's output over the first `tokens` tokens, or its output at the last of them, where
    a language model has read the whole text and holds what it expects next. Images: mean over all places. Gives float32 (rows, hidden). The
    blocks after it are not computed.

    When it lies: in language models a few outlier dimensions and the first token dominate cosines; early blocks see spelling, late blocks see
    the next word; `last` hears above all the text's final word or mark. A pruned model gives another map.
    """
    if loaded is None:
        raise ModelError(f"model@{argument} needs an open model.", "Add model: to the recipe, or open one.")
    block = _block(loaded, argument)
    module = loaded.module(block.path)
    if images is not None:
        yield from _of_images(images, loaded, module, watcher, start)
        return
    if loaded.tokenizer is None or texts is None:
        raise DataError(f"{loaded.name} cannot read texts.", "Use images with an image classifier, texts with a language model.")
    from core.data.pooling import pooled

    yield from pooled(texts, loaded.tokenizer, loaded.model, module, tokens, watcher, pool=pool, start=start)


def _block(loaded: Any, argument: str) -> Any:
    blocks = loaded.anatomy.blocks
    number = argument.removeprefix("blocks.")
    if not blocks:
        raise ModelError(f"{loaded.name} has no blocks.", "Embed with another source.")
    if not number.isdecimal() or int(number) >= len(blocks):
        raise ModelError(f"{loaded.name} has no block {argument!r}.", f"Its blocks are 0 to {len(blocks) - 1}.")
    return blocks[int(number)]


def _of_images(images: np.ndarray, loaded: Any, module: Any, watcher: Watcher, first: int) -> Iterator[np.ndarray]:
    import torch

    from core.data.images import prepared
    from core.data.pooling import output_of

    like = next(loaded.model.parameters())
    for start in range(first, len(images), _IMAGES_A_BATCH):
        watcher.check()
        batch = prepared(np.asarray(images[start : start + _IMAGES_A_BATCH]), loaded.location.path if loaded.location else None)
        with torch.inference_mode():
            batch = torch.from_numpy(batch).to(like)
            hidden = output_of(module, lambda batch=batch: loaded.model(pixel_values=batch)).float()
            found = (hidden.mean(dim=(2, 3)) if hidden.ndim == 4 else hidden.mean(dim=1)).cpu().numpy()
        yield found
